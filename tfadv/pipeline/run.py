"""What the stages of one command share: `Run`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tfadv import attacks, specs
from tfadv.attacks.base import Attack
from tfadv.config import COMPARE, Config
from tfadv.datasets.storage import Storage
from tfadv.defenses import DEFENSES
from tfadv.defenses.base import Defense
from tfadv.defenses.clean import Control, Original
from tfadv.defenses.stored import Rounds
from tfadv.errors import UserError
from tfadv.models import own
from tfadv.paper import Baseline
from tfadv.pipeline.cached import Cache
from tfadv.pipeline.dataset import SplitDataset
from tfadv.pipeline.networks import BuiltInModel, Network, OwnModel
from tfadv.runtime.devices import Devices
from tfadv.store.shared_disk import check_shared
from tfadv.store.workdir import Workdir

if TYPE_CHECKING:
    from tfadv.pipeline.stored import StoredImages


@dataclasses.dataclass
class BuiltModel:
    """A built model, for one user at a time: tracing a deep network takes longer than many an epoch on few images.

    Attributes:
      model: the model.
      initial_weights: the weights it was built with.
      content: the content of the entry whose weights it has, or None.
      trainers: its compiled trainers, by what a compiled step depends on.
    """

    model: keras.Model
    initial_weights: list[np.ndarray]
    content: str | None = None
    trainers: dict[Any, Any] = dataclasses.field(default_factory=dict)
    in_use: bool = False


class Run:
    """Models × defenses × attacks in one work folder.

    Attributes:
      config: the settings.
      workdir: the work folder.
      cache: builds what is missing in it.
      devices: where training and attacks run.
      storage: creates arrays of images, in memory or on the disk.
      defenses: those of `--defenses`, each after the one that it starts from; the first one of a model is `first`.
      attacks: those of `--attacks`, each once even where the settings given are the defaults.
      sizes: label of an attack → the sizes that are its own, in place of `--epsilons`.
    """

    def __init__(self, config: Config, workdir: Workdir) -> None:
        """Initializes the devices.

        Raises:
          UserError: there are no such devices, they can't share a batch equally, or a defense or an attack does not
            accept its settings.
        """
        self.config, self.workdir = config, workdir
        self.defenses = _defenses(config)
        self.attacks: list[Attack] = []
        self.sizes: dict[str, tuple[float, ...]] = {}
        for name, settings, sizes in config.attack_specs:
            attack = specs.build(name, settings, attacks.ATTACKS)
            if getattr(attack, "norm", "linf") == "linf" and max(sizes, default=0.0) > 1:
                raise UserError(
                    f"--attacks: {name} has a size above 1, the whole range of a pixel: write 8/255, not 8."
                )
            if attack.label not in [each.label for each in self.attacks]:
                self.attacks.append(attack)
                self.sizes |= {attack.label: sizes} if sizes else {}
            elif sizes != self.sizes.get(attack.label, ()):
                raise UserError(
                    f"--attacks names {attack.label} twice, at other sizes: give it once, as {attack.label}@0.1+0.2."
                )
        self.devices = Devices(config.distribute)
        self.devices.check_batch(config.batch_size, config.batch_parts)
        workdir.barrier = functools.partial(self.devices.sum_over_workers, 1)
        if self.devices.workers > 1:
            check_shared(workdir, self.devices.sum_over_workers)
        self.cache = Cache(workdir, config.shard_of(), config.overwrite)
        self.storage = Storage(workdir.root)
        self.stored: StoredImages | None = None  # the surrogate's stored images, whose test images all evaluations use
        self._networks: dict[str, Network] = {}
        self._built: dict[str, list[BuiltModel]] = {}

    @property
    def compares(self) -> bool:
        """Whether defenses are compared at one budget."""
        return self.config.stage == COMPARE

    @functools.cached_property
    def dataset(self) -> SplitDataset:
        """The images and their splits."""
        return SplitDataset(self)

    @functools.cached_property
    def stores_images(self) -> bool:
        """Whether there are stored adversarial images: a defense needs them, or an earlier command has made them.

        Those of another surrogate don't count: they would be made anew, and this one be trained, for no defense.
        """
        if self.config.stage == "generate" or any(defense.images == "stored" for defense in self.defenses):
            return True
        made = [self.workdir.manifest(name) for name in self.workdir.names() if name.startswith("surrogate/")]
        label = self.network(self.config.surrogate).label
        return any(each and each["inputs"].get("surrogate") == label for each in made)

    def network(self, model: str) -> Network:
        """The model of that name before training."""
        if model not in self._networks:
            kind = OwnModel if own.is_own(model) else BuiltInModel
            self._networks[model] = kind(model, self)
        return self._networks[model]

    def first(self, model: str) -> Defense:
        """What the defenses of a model start from."""
        return Original() if own.is_own(model) else Baseline()

    def defenses_of(self, model: str) -> list[Defense]:
        """The first one and those of `--defenses` that are for this model."""
        label = self.network(model).label
        given = [d for d in self.defenses if d.models is None or {model, label} & set(d.models)]
        return [self.first(model), *given]

    @contextlib.contextmanager
    def lend(self, model: str, content: str | None = None) -> Iterator[BuiltModel]:
        """Lends an instance of a model, which its defenses share; one with the weights of this content is preferred.

        Its weights are arbitrary unless its `content` is the one wanted.
        """
        instances = self._built.setdefault(model, [])
        free = [each for each in instances if not each.in_use]
        matching = [each for each in free if content is not None and each.content == content]
        if not free:
            with self.devices.strategy.scope():
                built = self.network(model).build()
            free = [BuiltModel(built, built.get_weights())]
            instances.append(free[0])
        chosen = (matching or free)[0]
        chosen.in_use = True
        try:
            yield chosen
        finally:
            chosen.in_use = False


def _defenses(config: Config) -> list[Defense]:
    """The defenses of `--defenses`; with `--stage=compare` also the control, and rounds one by one."""
    built = [specs.build_with(name, settings, DEFENSES) for name, settings in config.defense_specs]
    if config.stage == COMPARE and not any(isinstance(each, Control) for each in built):
        built.insert(0, Control())
    given = set(config.models) | {own.label(name) if own.is_own(name) else name for name in config.models}
    found: dict[str, Defense] = {}
    for defense in built:
        unknown = sorted(set(defense.models or ()) - given)
        if unknown:
            raise UserError(
                f"{defense.label}: models={'+'.join(unknown)} is none of --models={','.join(config.models)}."
            )
        if getattr(defense, "norm", "linf") != "linf" and defense.eps is None:
            example = "pgd(norm=linf+l1, eps=8/255+12)" if "+" in defense.norm else f"{defense.name}(norm=l2, eps=0.5)"
            raise UserError(f"{defense.label} needs a size of its own in each norm, such as {example}.")
        if defense.name not in DEFENSES:
            raise UserError(f"{defense.name}: the name of the class must be the name that is registered.")
        if isinstance(defense, Rounds):
            numbers = range(1, (defense.round or defense.number) + 1)
            expanded: list[Defense] = [defense.of_round(number) for number in numbers]
        else:
            expanded = [defense]
        for each in expanded:
            if each.label in found:
                raise UserError(f"--defenses names {each.label} twice.")
            found[each.label] = each
    return list(found.values())
