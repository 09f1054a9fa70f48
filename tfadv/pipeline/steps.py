"""The steps of a run, from the images to the report; each function builds what it needs and is missing.

    prepare ─▶ train ─▶ generate ─▶ train ─▶ evaluate, attack, transfer, check, explain, certify, picture ─▶ report

From `transfer` to `picture`, they are in `tfadv.pipeline.extras`.  `tfadv.pipeline.cached` keeps what was made from the
same inputs.
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfadv.attacks.base import Attack
from tfadv.attacks.fgsm import FGSM
from tfadv.datasets.batches import perturbed, to_float
from tfadv.defenses.base import Defense
from tfadv.defenses.stored import Rounds
from tfadv.errors import UserError
from tfadv.evaluation.evaluator import Execution, evaluate, predict
from tfadv.evaluation.records import ModelId
from tfadv.evaluation.result import Result, concatenate
from tfadv.pipeline.cached import Entry
from tfadv.pipeline.dataset import SplitDataset
from tfadv.pipeline.results import content_hash, in_percent, load_result, save_result, warn_of_upper_bound
from tfadv.pipeline.run import Run
from tfadv.pipeline.stored import StoredImages
from tfadv.pipeline.training import Trained, loaded, trained_by
from tfadv.specs import at, folder_name
from tfadv.store.files import source_of

FGSM_PART, ATTACK_PART = 256, 512  # images; the few that stay robust under an attack have to fill a batch
WHITEBOX, TRANSFER = "whitebox_", "transfer_"  # the two results of an evaluation


def prepare(run: Run) -> SplitDataset:
    """The images of the data set, split into training, validation and test images."""
    return run.dataset


def train(run: Run, model: str, defense: Defense) -> Trained:
    """A model trained by a defense, and before it the model that training starts from."""
    if defense.start is None:
        return trained_by(run, model, defense, None, None)
    start = train(run, model, run.first(model))
    if not isinstance(defense, Rounds):
        stored = generate(run) if defense.images == "stored" else None
        return trained_by(run, model, defense, start, stored)
    for number in range(1, defense.round + 1):
        this = defense.of_round(number)
        start = trained_by(run, model, this, start, _of_round(run, start, this))
    return start


def surrogate(run: Run) -> Trained:
    """The model that adversarial images are computed on for others: the first one, where none are stored."""
    model = run.config.surrogate if run.stores_images else run.config.models[0]
    return train(run, model, run.first(model))


def generate(run: Run) -> StoredImages:
    """The surrogate's stored adversarial images of all splits."""
    if run.stored is None or run.stored.entry.content is None:
        run.stored = StoredImages(run, surrogate(run), "surrogate", "generate")
    return run.stored


def _of_round(run: Run, start: Trained, defense: Rounds) -> StoredImages:
    """The stored adversarial images that a round trains on: those of the model that it starts from."""
    if defense.size:
        name = f"rounds/{folder_name(start.network.label)}/{folder_name(defense.label)}"
        return StoredImages(run, start, name, "retrain", {"round": defense.round, "size": defense.size})
    if start.entry == surrogate(run).entry:
        return generate(run)
    return StoredImages(run, start, f"rounds/{start.folder}", "retrain")


def all_trained(run: Run) -> list[Trained]:
    """Each model of `--models` trained by each of its defenses that is evaluated."""
    return [
        train(run, model, defense)
        for model in run.config.models
        for defense in run.defenses_of(model)
        if not isinstance(defense, Rounds) or defense.is_evaluated
    ]


# ---- evaluation ------------------------------------------------------------------------------------------------------


class Evaluation:
    """The results of a model under an attack, on the disk.

    Attributes:
      trained: the model.
      attack: the attack.
      entry: the folder.
      sizes: those of the attack alone; empty where they are those of `--epsilons`.
      of: the number of images that the attack is for, where these are the first ones; else None.
    """

    def __init__(
        self,
        run: Run,
        trained: Trained,
        attack: Attack,
        entry: Entry,
        prefix: str = "",
        sizes: tuple[float, ...] = (),
        of: int | None = None,
    ) -> None:
        """`prefix`: of the files with the result, which is read when it is asked for."""
        self._run, self.trained, self.attack, self.entry, self._prefix = run, trained, attack, entry, prefix
        self.sizes, self.of = sizes, of

    @functools.cached_property
    def _folder(self) -> pathlib.Path:
        return self._run.cache.open(self.entry)

    @functools.cached_property
    def result(self) -> Result:
        """The result of all images."""
        return load_result(self._folder, self._prefix)

    @functools.cached_property
    def transfer(self) -> Result:
        """The result on the surrogate's stored images; of `evaluate_fgsm` only, in a run that has such images."""
        return load_result(self._folder, TRANSFER)

    @property
    def name(self) -> str:
        """ "model/defense under attack", with "@size" where the sizes are the attack's own."""
        return f"{self.trained.name} under {self.attack.label}{at(self.sizes)}"


def evaluate_fgsm(run: Run, trained: Trained) -> Evaluation:
    """Accuracy on all test images: clean, under white-box FGSM, and on the surrogate's stored images, if any."""
    dataset, config = prepare(run), run.config
    stored = generate(run) if run.stores_images else None
    prefixes = (WHITEBOX, TRANSFER) if stored else (WHITEBOX,)

    def build(folder: pathlib.Path, piece: range, progress: Callable[[int], Any], resume: object) -> None:
        test, rows = dataset.images["test"], slice(piece.start, piece.stop)
        images, labels = test.images[rows], test.labels[rows]
        common: dict[str, Any] = {"eps": config.epsilons, "batch_size": config.images_at_once}
        with loaded(run, trained) as model:
            execution = Execution(devices=run.devices, progress=progress)
            whitebox = evaluate(model, images, labels, FGSM(), execution=execution, **common)
            save_result(folder, whitebox, WHITEBOX)
            if stored:
                perturbations, x = stored.test.select(rows).perturbations, to_float(images)
                adversarial = [perturbed(x, perturbations, eps) for eps in config.epsilons]
                correct = [predict(model, each, config.images_at_once, run.devices) == labels for each in adversarial]
                transfer = Result("stored", {}, config.epsilons, whitebox.clean_correct, np.stack(correct))
                save_result(folder, transfer, TRANSFER)

    def join(folder: pathlib.Path, manifest: dict, parts: Sequence[pathlib.Path]) -> str:
        results = [concatenate([load_result(part, prefix) for part in parts]) for prefix in prefixes]
        for prefix, result in zip(prefixes, results):
            save_result(folder, result, prefix)
        manifest["content"] = content_hash(*results)
        warn_of_upper_bound(f"{trained.name} under fgsm", results[0])
        accuracies = [in_percent(result.robust) for result in results]
        words = [f"{name} {each}" for name, each in zip(("FGSM", "stored images"), accuracies)]
        return ", ".join([f"clean {in_percent([results[0].clean_correct])}", *words])

    entry = run.cache.cached_in_parts(
        f"evaluations/{trained.folder}",
        lambda: {
            "weights": trained.entry,
            "epsilons": list(config.epsilons),
            "attack": "fgsm",
            **({"stored": stored.entry} if stored else {"split": dataset.entry}),
        },
        lambda: ranges(dataset.sizes["test"], FGSM_PART),
        build,
        join,
        stage="evaluate",
    )
    return Evaluation(run, trained, FGSM(), entry, WHITEBOX)


def evaluate_attack(
    run: Run,
    trained: Trained,
    attack: Attack,
    n: int | None = None,
    sizes: tuple[float, ...] | None = None,
    of: int | None = None,
) -> Evaluation:
    """Robust accuracy under an attack on the first n test images.

    It begins with the result of fewer images, where the work folder has one.  Where n is None, it is as many as the
    settings ask for, or the result of more images, where the work folder has one.

    An attack that follows a gradient to the nearest adversarial image goes on to the end and not to the smallest eps
    only, so that the distances are known.

    Args:
      run: the run.
      trained: the model.
      attack: the attack.
      n: number of images.
      sizes: the attack's own, empty where those of `--epsilons` hold; None: what the settings ask for.
      of: the number of images that the attack is for, where it may end early.
    """
    config, dataset = run.config, prepare(run)
    sizes = run.sizes.get(attack.label, ()) if sizes is None else sizes
    if n is None:
        n = config.attacked_images(attack.name, dataset.sizes["test"])
        of_more = None if attack.joint else on_disk(run, trained, attack, sizes)
        if of_more and not of_more.of and of_more.result.n > n:
            return of_more
    epsilons = list(sizes or config.epsilons) if attack.has_eps else None
    nearest = attack.has_eps and attack.uses_gradient and not attack.limited
    name = folder_of_attack(trained, attack, sizes)

    @functools.cache
    def first() -> list[Result]:
        return _of_fewer_images(run, trained, attack, n, sizes)

    def build(folder: pathlib.Path, piece: range, progress: Callable[[int], Any], resume: Any) -> None:
        test, rows = dataset.images["test"], slice(piece.start, piece.stop)
        with loaded(run, trained) as model:
            result = evaluate(
                model,
                test.images[rows],
                test.labels[rows],
                attack,
                None if nearest else epsilons,
                batch_size=config.images_at_once,
                seed=config.seed,
                first=piece.start,
                execution=Execution(run.devices, progress=progress, resume=resume),
            )
        save_result(folder, result.at(sizes or config.epsilons) if nearest else result)

    def join(folder: pathlib.Path, manifest: dict, parts: Sequence[pathlib.Path]) -> str:
        result = concatenate([*first(), *map(load_result, parts)])
        save_result(folder, result)
        manifest["content"] = content_hash(result)
        if first():
            manifest["seconds"] += (run.workdir.manifest(name) or {}).get("seconds", 0)
        warn_of_upper_bound(f"{trained.name} under {attack.label}", result)
        accuracies = in_percent([result.robust] if result.sets else result.robust)
        images = f"of the first {n:,} of {of:,} images" if of else ""
        return "; ".join(text for text in (accuracies, images, result.rounding(), result.left_out()) if text)

    entry = run.cache.cached_in_parts(
        name,
        lambda: {
            "split": dataset.entry,
            "weights": trained.entry,
            "attack": attack.label,
            "attack_settings": attack.settings(),
            "source": source_of(type(attack)),
            "epsilons": epsilons,
            "images": n,
            **({"of": of} if of else {}),
            **({"own_sizes": True} if sizes else {}),
            **({"revision": attack.revision} if attack.revision else {}),
            **({"distances": True} if nearest else {}),  # version 0.3.0 did not keep them
            **randomness(run),
        },
        lambda: ranges(n, ATTACK_PART, sum(result.n for result in first())),
        build,
        join,
        stage="evaluate",
    )
    return Evaluation(run, trained, attack, entry, sizes=sizes, of=of)


def folder_of_attack(trained: Trained, attack: Attack, sizes: tuple[float, ...]) -> str:
    """The name of the results of an attack on the disk; `sizes`: as in `Evaluation`."""
    return f"attacks/{trained.folder}/{folder_name(attack.label + at(sizes))}"


def on_disk(run: Run, trained: Trained, attack: Attack, sizes: tuple[float, ...]) -> Evaluation | None:
    """The results on the disk, of whatever number of images; None where they are missing or out of date."""
    with contextlib.suppress(UserError), run.cache.looking():  # damaged
        made_from = (run.workdir.manifest(folder_of_attack(trained, attack, sizes)) or {"inputs": {}})["inputs"]
        if made_from:
            found = evaluate_attack(run, trained, attack, made_from["images"], sizes, made_from.get("of"))
            return found if found.entry.content else None
    return None


def _of_fewer_images(run: Run, trained: Trained, attack: Attack, n: int, sizes: tuple[float, ...]) -> list[Result]:
    """The result of at most n images in a folder; none for a joint attack."""
    found = None if attack.joint else on_disk(run, trained, attack, sizes)
    with contextlib.suppress(UserError):  # damaged
        return [found.result] if found and found.result.n <= n else []
    return []


def ranges(n: int, size: int, first: int = 0) -> list[range]:
    """The images from the first one to n in pieces of a size."""
    return [range(i, min(i + size, n)) for i in range(first, n, size)]


def randomness(run: Run) -> dict[str, Any]:
    """What random numbers, and the rounding of sums over a batch, depend on."""
    return {"seed": run.config.seed, "batch_size": run.config.images_at_once}


def model_id(run: Run, trained: Trained) -> ModelId:
    """A trained model as records name it."""
    return ModelId(run.config.dataset, trained.network.label, trained.defense.label, run.config.seed)
