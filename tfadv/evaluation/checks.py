"""Whether a robust accuracy can be trusted: `run_checks` on what `masking.collect_diagnostics` returns.

Most rules have the same form: an event that never or hardly ever happens where gradients are useful happened on some
of the images that the model classifies correctly. A check fails ("suspicious") where the lower end of that
share's 95% Wilson interval is above the tolerated share, so that a few images prove little and noise does not fail a
check. Every attack gets the same images, so events are counted image by image; the difference of two accuracies would
contain the noise of both.

Passing all checks does not prove that a model is robust, only that no known sign of masked gradients was found. The
rules follow Athalye et al. 2018 (https://arxiv.org/abs/1802.00420, section 3), Carlini et al. 2019
(https://arxiv.org/abs/1902.06705) and the flags of AutoAttack (https://github.com/fra31/auto-attack, flags_doc.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tfadv.evaluation.records import wilson_interval

TOLERATED_CHANGE = 1e-4  # between two forward passes, of the outputs' L2 norm, as in AutoAttack's flag
WHITE_BOX = ("fgsm", "pgd", "pgd-steps", "pgd-restarts", "apgd-ce", "apgd-t")
BLACK_BOX = ("square", "transfer")

Diagnostics = Mapping[str, Any]
Outcome = tuple[bool | None, dict[str, float], str]  # the fields of a `Check` after its name


@dataclasses.dataclass(frozen=True)
class Check:
    """The outcome of one rule.

    Attributes:
      name: a key of `RULES`.
      passed: False is suspicious; None where the rule could not be applied.
      figures: what was counted, and the threshold.
      sentence: what was observed and what it means.
    """

    name: str
    passed: bool | None
    figures: dict[str, float]
    sentence: str


def run_checks(diagnostics: Diagnostics) -> list[Check]:
    """Applies all rules.

    Args:
      diagnostics: what `masking.collect_diagnostics` returns, or the same read back from JSON.

    Returns:
      One `Check` for each of `RULES`, in that order.
    """
    return [Check(name, *_apply(rule, diagnostics)) for name, rule in RULES.items()]


def _apply(rule: Callable[[Diagnostics], Outcome], diagnostics: Diagnostics) -> Outcome:
    if rule not in _OUTPUT_RULES:
        if diagnostics["refused"]:
            return None, {}, "Not evaluated: attacks refuse the model."
        if "1" not in diagnostics["clean"]["right"]:
            return None, {}, "Not evaluated: the model classifies none of the clean images correctly."
    return rule(diagnostics)


def _probabilities(diagnostics: Diagnostics) -> Outcome:
    """Every output row is within [0, 1] and sums to 1, which logits do not do by chance.

    A softmax before a loss that expects logits, or a saturated softmax, flattens the gradient.
    """
    rows, n = diagnostics["probability_rows"], diagnostics["n"]
    passed = rows < n
    meaning = "they are logits" if passed else "they are probabilities, which mask the gradient; attack the logits"
    return passed, {"count": rows, "total": n}, f"{rows} of {n} outputs are within [0, 1] and sum to 1: {meaning}."


def _randomness(diagnostics: Diagnostics) -> Outcome:
    """Two forward passes differ by more than `TOLERATED_CHANGE`.

    float32 sums in another order differ by about 1e-6. A random model needs attacks on its expectation (EOT), which
    passes.
    """
    change, passes = diagnostics["change"], diagnostics.get("passes", 1)
    if passes > 1:
        sentence = f"Attacks follow the mean of {passes} passes, whose outputs differ by {change:.2g} of their norm."
        return True, {"change": change, "passes": passes}, sentence
    passed = change <= TOLERATED_CHANGE
    layers = diagnostics["random_layers"]
    source = f" because of {', '.join(layers[:3])}" if layers else ""
    meaning = (
        "the model is deterministic"
        if passed
        else f"the model is random{source}; attack tfadv.expectation(model) instead"
    )
    sentence = f"Outputs for the same images differ by {change:.2g} of their norm: {meaning}."
    return passed, {"change": change, "tolerated": TOLERATED_CHANGE}, sentence


def _zero_gradients(diagnostics: Diagnostics) -> Outcome:
    """The gradient of the cross-entropy is 0 in every pixel of more than 5% of the images.

    In float32 that takes a margin of about 88 between logits, or a layer without gradient. AutoAttack flags a single
    image; a network that is merely very confident may have a few.
    """
    share = _share(flags(diagnostics["zero_gradient"]), _clean(diagnostics))
    return _rare(
        share,
        0.05,
        f"The gradient is zero in every pixel of {_images(share)}",
        "gradients give attacks a direction",
        "attacks fail there for lack of a direction, which is not robustness",
    )


def _iterations(diagnostics: Diagnostics) -> Outcome:
    """FGSM succeeds where PGD fails on more than 2% of the images.

    PGD splits FGSM's step into many, so it is at least as strong where gradients are informative; its random start
    may lose a few images.
    """
    share = _only(diagnostics, ["fgsm"], ["pgd"])
    return _rare(
        share,
        0.02,
        f"FGSM succeeds and PGD fails on {_images(share)}",
        "iterating does not weaken the attack",
        "following the gradient leads away from adversarial examples, so the gradient is masked",
    )


def _weaker_with_steps(diagnostics: Diagnostics) -> Outcome:
    """PGD succeeds where PGD with more and smaller steps fails on more than 2% of the images.

    Smaller steps follow the gradient more closely; if that is worse, the gradient is noise or the optimizer fails.
    """
    share = _only(diagnostics, ["pgd"], ["pgd-steps"])
    return _rare(
        share,
        0.02,
        f"PGD succeeds and PGD with more, smaller steps fails on {_images(share)}",
        "more steps do not weaken the attack",
        "following the gradient more closely weakens the attack, so the gradient is masked",
    )


def _steps(diagnostics: Diagnostics) -> Outcome:
    """PGD with more steps succeeds where PGD fails on more than 5% of the images.

    Where gradients are informative, 20 steps are almost enough: the README of MadryLab/robustness has 53.49% after 20
    and 53.29% after 100 steps at 8/255, and 18.13 and 17.62% at 16/255.
    """
    return _converged(_only(diagnostics, ["pgd-steps"], ["pgd"]), "steps")


def _restarts(diagnostics: Diagnostics) -> Outcome:
    """PGD with more restarts succeeds where PGD fails on more than 5% of the images.

    In Madry's challenges 50 restarts cost the MNIST model 2.9 percentage points and 10 the CIFAR-10 model 1.8. A larger
    difference means that the loss is so rugged that the starting point decides.
    """
    return _converged(_only(diagnostics, ["pgd-restarts"], ["pgd"]), "restarts")


def _black_box(diagnostics: Diagnostics) -> Outcome:
    """Attacks without gradients succeed where every white-box attack fails on more than 1% of the images.

    They know less, so they cannot be stronger where gradients are informative. AutoAttack flags 0.2% of the images,
    after attacks several times as long as these.
    """
    evaluated = [name for name in BLACK_BOX if name in diagnostics["attacks"]]
    if not evaluated:
        return None, {}, "Not evaluated: the model returns labels, and Square Attack needs scores."
    share = _only(diagnostics, evaluated, WHITE_BOX)
    return _rare(
        share,
        0.01,
        f"An attack without gradients ({', '.join(evaluated)}) succeeds and all attacks with gradients fail "
        f"on {_images(share)}",
        "gradients strengthen attacks, as they should",
        "the gradient is masked, and the white-box accuracy is too high",
    )


def _cross_entropy(diagnostics: Diagnostics) -> Outcome:
    """APGD on the targeted DLR loss succeeds where APGD on the cross-entropy fails on more than 10% of the images.

    Large logits make the gradient of the cross-entropy vanish and do not affect DLR. On robust models without masked
    gradients DLR is ahead by 2 to 7 percentage points (TRADES 55.1 and 53.3%, with hypersphere embedding 60.0 and
    52.9%: https://github.com/ShawnXYang/AT_HE/issues/1).
    """
    share = _only(diagnostics, ["apgd-t"], ["apgd-ce"])
    return _rare(
        share,
        0.10,
        f"APGD on the targeted DLR loss succeeds and APGD on the cross-entropy fails on {_images(share)}",
        "the cross-entropy is a usable loss for attacks",
        "large logits mask the gradient of the cross-entropy, and accuracies under it are too high",
    )


def _large_eps(diagnostics: Diagnostics) -> Outcome:
    """PGD with eps of half a pixel's range fails where a gray image is misclassified on more than 5% of the images.

    Gray is that close to every image, and the model predicts only one class for it. PGD should leave an accuracy of
    about 0; images of that one class are not counted.
    """
    share, eps = _only(diagnostics, ["grey"], ["pgd-large"]), diagnostics["attacks"]["pgd-large"]["eps"]
    return _rare(
        share,
        0.05,
        f"PGD at eps {eps:g}, which suffices to turn any image gray, fails on {_images(share)} although the gray "
        "image is adversarial",
        "the attack succeeds when eps is large",
        "the attack fails where adversarial examples certainly exist, so its failure at smaller eps proves nothing",
    )


def _label_leaking(diagnostics: Diagnostics) -> Outcome:
    """Of the images whose correctness FGSM changes, more than half become correct.

    An attack should not improve accuracy; a model trained on FGSM may read the label from the perturbation (Kurakin
    et al. 2016, https://arxiv.org/abs/1611.01236). Raw predictions are compared: the rule that a misclassified clean
    image counts as misclassified would hide the effect.
    """
    clean, attacked = _clean(diagnostics), flags(diagnostics["attacks"]["fgsm"]["right"])
    figures = {"clean": float(clean.mean()), "attacked": float(attacked.mean()), "tolerated": 0.5}
    changed = clean != attacked
    unchanged = {"count": 0, "total": 0, "share": 0.0, "low": 0.0, "high": 1.0}
    share = _share(attacked, changed) if changed.any() else unchanged
    passed = share["low"] <= 0.5
    meaning = "the attack does not help the model" if passed else "the model reads the label from the perturbation"
    observed = f"Accuracy is {figures['clean']:.1%} on clean images and {figures['attacked']:.1%} under FGSM"
    return passed, share | figures, f"{observed}: {meaning}."


def _catastrophic_overfitting(diagnostics: Diagnostics) -> Outcome:
    """Accuracy is above 75% under FGSM and below 20% under PGD, each beyond its Wilson interval.

    Training on FGSM alone may end like this: accuracy under FGSM rises to nearly 100% and under PGD falls to 0 (Wong
    et al. 2020, https://arxiv.org/abs/2001.03994). Undefended CIFAR-10 networks, whose accuracy under PGD at 8/255 is
    0, keep 47 of 96 and 54 of 93% under FGSM (https://github.com/Harry24k/adversarial-attacks-pytorch/issues/38).
    """
    fgsm, pgd = (_share(flags(diagnostics["attacks"][name]["right"]), _clean(diagnostics)) for name in ("fgsm", "pgd"))
    passed = fgsm["low"] <= 0.75 or pgd["high"] >= 0.2
    meaning = "no sign of robustness to a single step only" if passed else "the model is robust to a single step only"
    figures = {"fgsm": fgsm["share"], "fgsm_low": fgsm["low"], "pgd": pgd["share"], "pgd_high": pgd["high"]}
    sentence = f"FGSM leaves {fgsm['share']:.1%} of the images correct and PGD {pgd['share']:.1%}: {meaning}."
    return passed, figures | {"fgsm_tolerated": 0.75, "pgd_expected": 0.2}, sentence


RULES: dict[str, Callable[[Diagnostics], Outcome]] = {
    "probabilities": _probabilities,
    "randomness": _randomness,
    "zero gradients": _zero_gradients,
    "iterations": _iterations,
    "weaker with steps": _weaker_with_steps,
    "steps": _steps,
    "restarts": _restarts,
    "black box": _black_box,
    "cross-entropy": _cross_entropy,
    "large eps": _large_eps,
    "label leaking": _label_leaking,
    "catastrophic overfitting": _catastrophic_overfitting,
}
_OUTPUT_RULES = (_probabilities, _randomness)  # these need no attack


def flags(text: str) -> np.ndarray:
    """bool (N,) from N characters "0" and "1"."""
    return np.array([character == "1" for character in text], dtype=bool)


def _clean(diagnostics: Diagnostics) -> np.ndarray:
    """bool (N,), images that are classified correctly without an attack."""
    return flags(diagnostics["clean"]["right"])


def _share(counted: np.ndarray, total: np.ndarray) -> dict[str, float]:
    """How many of the images `total`, bool (N,), at least one of them, are also in `counted`, bool (N,)."""
    count, n = int((counted & total).sum()), int(total.sum())
    low, high = wilson_interval(count, n)
    return {"count": count, "total": n, "share": count / n, "low": low, "high": high}


def _only(diagnostics: Diagnostics, succeed: Sequence[str], fail: Sequence[str]) -> dict[str, float]:
    """Of the images correct without an attack, those that some of `succeed` change and none of `fail` does."""
    correct = {name: flags(diagnostics["attacks"][name]["right"]) for name in (*succeed, *fail)}
    changed = ~np.logical_and.reduce([correct[name] for name in succeed])
    return _share(changed & np.logical_and.reduce([correct[name] for name in fail]), _clean(diagnostics))


def _images(share: Mapping[str, float]) -> str:
    return f"{share['count']} of {share['total']} images ({share['share']:.1%})"


def _rare(share: dict[str, float], tolerated: float, observed: str, fine: str, suspicious: str) -> Outcome:
    """Passes where the share is not significantly above the tolerated one."""
    passed = share["low"] <= tolerated
    return passed, share | {"tolerated": tolerated}, f"{observed}: {fine if passed else suspicious}."


def _converged(share: dict[str, float], extended: str) -> Outcome:
    return _rare(
        share,
        0.05,
        f"More {extended} make PGD succeed on another {_images(share)}",
        "PGD has converged",
        f"PGD has not converged, and accuracy would fall further with more {extended}",
    )
