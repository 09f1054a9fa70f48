"""Fast Adaptive Boundary: the smallest perturbation (Croce & Hein 2019, https://arxiv.org/abs/1907.02044)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfadv.attacks import gradient, loop, losses
from tfadv.attacks.base import Bounds, Images
from tfadv.attacks.hyperplane import project_onto_hyperplane
from tfadv.attacks.iterative import Passes
from tfadv.attacks.nearest import Inputs, NearestImageAttack
from tfadv.attacks.norms import NORMS, choose, column, finite, get_norm
from tfadv.attacks.targets import most_likely_others
from tfadv.specs import setting

MAX_BIAS = 0.1  # α_max: how much of a step starts from x and not from the present image
OVERSHOOT = 1.05  # η: how far beyond the boundary a step goes
BACKWARD = 0.9  # β: where an adversarial image goes back to, between x (0) and itself (1)


class State(NamedTuple):
    """Per image: x, y, the classes whose boundary is approached, where it is, and the best image with its distance."""

    x: tf.Tensor
    y: tf.Tensor
    source: tf.Tensor
    target: tf.Tensor
    at: tf.Tensor
    best: tf.Tensor
    distance: tf.Tensor


def boundary(model: Any, x: tf.Tensor, source: tf.Tensor, target: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The boundary between two classes as a hyperplane f + Σ w·(z - x) = 0: f (N,) and w (N, H, W, C)."""
    logits, w = gradient.logits_and_gradient(model, x, source, target, losses.margin_to_target)
    return losses.margin_to_target(logits, source, target), finite(w)


def nearest_boundary(model: Any, x: tf.Tensor, source: tf.Tensor, norm: str) -> tuple[tf.Tensor, tf.Tensor]:
    """The `boundary` with the class for which |f| / ||w||, the distance to the hyperplane, is smallest (eq. 7).

    ||w|| is the dual norm.  One pass forward and K - 1 backward.
    """
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(x)
        logits = gradient.logits_of(model, x)
    classes = logits.shape[-1]
    own = tf.one_hot(source, classes)

    def compare(j, distance, f, w):
        target = (source + j) % classes
        f_j = losses.margin_to_target(logits, source, target)
        difference = tf.one_hot(target, classes) - own
        w_j = finite(tape.gradient(logits, x, output_gradients=difference, unconnected_gradients="zero"))
        dual = get_norm(norm).dual(w_j)[:, 0, 0, 0]
        distance_j = tf.where(dual > 0, tf.abs(f_j) / dual, np.inf)
        nearer = distance_j < distance
        f, w = tf.where(nearer, f_j, f), choose(nearer, w_j, w)
        return j + 1, tf.minimum(distance, distance_j), f, w

    none = tf.fill(tf.shape(source), np.float32(np.inf)), tf.zeros(tf.shape(source)), tf.zeros_like(x)
    first = tf.ones((), source.dtype)
    _, _, f, w = tf.while_loop(lambda j, *_: j < classes, compare, (first, *none))
    return f, w


@dataclasses.dataclass(frozen=True)
class FAB(NearestImageAttack):
    """Walks along the decision boundary to the adversarial image nearest to x, and returns it where it is within eps.

    The walk does not depend on eps, so one run is enough for all eps.  It ends for an
    image that is adversarial within the smallest eps.  There is no setting
    `precision`, because bfloat16 moves the boundary.

    Attributes:
      norm: "linf", "l2" or "l1".
      steps: maximum number of steps per image, for each restart and target; a step takes one gradient (untargeted:
        K - 1) and one forward pass.
      restarts: number of starts: the first at x, the others at random within eps / 2 (of the largest eps).
      targets: 0 for untargeted FAB, which goes to the nearest of all boundaries at each step; otherwise FAB-T, which
        goes to this many of the most likely other classes, one after the other; K - 1 at most.
      targeted: True moves the images to class y instead of away from it; `targets` then has no effect.
    """

    norm: str = setting("linf", choices=tuple(NORMS))
    steps: int = setting(100, least=1)
    restarts: int = setting(1, least=1)
    targets: int = setting(0, least=0)
    targeted: bool = False

    loss = "cw"

    @property
    def name(self) -> str:
        """See `Attack.name`."""
        return "fab-t" if self.targets else "fab"

    @property
    def _one_target(self) -> bool:
        return self.targets > 0 or self.targeted

    def traced(self) -> FAB:
        """See `IterativeAttack.traced`."""
        return FAB(norm=self.norm, targets=int(self._one_target))

    def rounds(self, classes: int) -> int:
        """See `IterativeAttack.rounds`."""
        return self.restarts * (1 if self.targeted else min(max(self.targets, 1), classes - 1))

    def passes(self, classes: int) -> Passes:
        """See `IterativeAttack.passes`."""
        return Passes(1 if self._one_target else classes - 1, 1, 0)

    def start(self, images: Images, rounds: np.ndarray, bounds: Bounds, seed: int) -> State:
        """See `IterativeAttack.start`."""
        x, y, at = images.x, images.y, images.x
        if self.restarts > 1:
            radius = tf.where(rounds % self.restarts == 0, 0.0, bounds.eps / 2)
            at = x + column(radius) * self.starting_points(images, rounds, seed)
            at = tf.clip_by_value(at, bounds.low, bounds.high)
        if self.targeted:
            source, target = tf.argmax(images.logits, axis=1), y
        else:
            source = y
            target = tf.gather(most_likely_others(images.logits, y), rounds // self.restarts, batch_dims=1)
        return State(x, y, source, target, at, x, tf.fill([len(y)], loop.NOT_ADVERSARIAL))

    def step(self, model: Any, inputs: Inputs, i: tf.Tensor, state: State) -> loop.Step:
        """Algorithm 1 of the paper: project onto the boundary from the present image and from x, then go back."""
        (_, low, high, targeted, goal), norm, x, at = inputs.bounds, get_norm(self.norm), state.x, state.at
        if self._one_target:
            f, w = boundary(model, at, state.source, state.target)
        else:
            f, w = nearest_boundary(model, at, state.source, self.norm)
        f = column(f)
        from_at = project_onto_hyperplane(at, w, -f, low, high, self.norm)
        offset = tf.reduce_sum(w * (at - x), (1, 2, 3), keepdims=True) - f
        from_x = project_onto_hyperplane(x, w, offset, low, high, self.norm)
        near, far = norm.norm(from_at), norm.norm(from_x)
        bias = tf.minimum(tf.math.divide_no_nan(near, near + far), MAX_BIAS)
        moved = (1 - bias) * (at + OVERSHOOT * from_at) + bias * (x + OVERSHOOT * from_x)
        moved = tf.clip_by_value(moved, low, high)

        adversarial = gradient.is_adversarial(gradient.logits_of(model, moved), state.y, targeted)
        state, _ = self.keep(state._replace(at=moved), adversarial)
        back = choose(adversarial, x + BACKWARD * (moved - x), moved)
        return loop.Step(state._replace(at=back), state.best, state.distance, state.distance <= goal)

    def last(self, model: Any, inputs: Inputs, state: State) -> tuple[tf.Tensor, tf.Tensor]:
        """See `IterativeAttack.last`; each step has classified its images."""
        return state.best, state.distance

    def _defaults(self) -> FAB:
        return fab_t() if self.targets else FAB()


fab_t = functools.partial(FAB, targets=9)
