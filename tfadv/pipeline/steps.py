"""The stages of a run, from the images to the report; each function builds what it needs and is missing.

    prepare ─▶ train ─▶ generate ─▶ train ─▶ evaluate, attack, transfer, check, explain, certify, picture ─▶ report

`tfadv.pipeline.cached` keeps what was made from the same inputs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfadv.attacks import losses
from tfadv.attacks.base import Attack
from tfadv.attacks.fgsm import FGSM
from tfadv.attacks.gradient import compiled_logits
from tfadv.attacks.mifgsm import MIFGSM
from tfadv.attacks.pgd import PGD
from tfadv.datasets.batches import to_float
from tfadv.datasets.storage import take
from tfadv.defenses.base import Defense
from tfadv.defenses.stored import Rounds
from tfadv.errors import UserError
from tfadv.evaluation.certificate import Certificate, joined
from tfadv.evaluation.checks import Check, run_checks
from tfadv.evaluation.distributed import OnAllDevices
from tfadv.evaluation.evaluator import Execution, FixedImages, StoredPerturbations, evaluate
from tfadv.evaluation.masking import DiagnosticSettings, collect_diagnostics
from tfadv.evaluation.records import ModelId
from tfadv.evaluation.result import Result, concatenate
from tfadv.evaluation.smoothing import certify as certify_images
from tfadv.evaluation.smoothing import warn_of_guessing
from tfadv.explanation.explain import Explanation
from tfadv.explanation.explain import explain as explain_images
from tfadv.models.deployed import deployed
from tfadv.models.export import litert_int8
from tfadv.models.logits import classifier, input_range_of, original
from tfadv.pipeline.cached import Entry, source_of
from tfadv.pipeline.dataset import SplitDataset
from tfadv.pipeline.results import content_hash, in_percent, load_result, save_result, warn_of_upper_bound
from tfadv.pipeline.run import Run
from tfadv.pipeline.stored import StoredImages
from tfadv.pipeline.training import Trained, loaded, trained_by
from tfadv.report.data import TransferRow
from tfadv.report.gallery import AttackedImages, choose_images
from tfadv.specs import at, folder_name
from tfadv.store.files import digest, write_json

LOG = logging.getLogger(__name__)
FGSM_PART, ATTACK_PART = 256, 512  # images; the few that stay robust under an attack have to fill a batch
CERTIFIED_PART = 32  # images
SIGMA = 0.25  # of the noise, for models that were trained without any
WHITEBOX, TRANSFER = "whitebox_", "transfer_"  # the two results of an evaluation
CHECKED_IMAGES = 128  # see `collect_diagnostics`
EXPLAINED_IMAGES, EXPLAINED_SHOWN = 256, 3  # whose vulnerability is measured, and that are shown
PICTURES = 20
REPRESENTATIVE, COMPARED = 200, 256  # images that set the scales of an int8 file, and that it is compared on
MOST_PICTURED = 2048  # of the test split: the confusion matrices count them, and the pictures are chosen from them


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
    """The model that the stored adversarial images are computed on."""
    return train(run, run.config.surrogate, run.first(run.config.surrogate))


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
        """The result on the surrogate's stored images; of `evaluate` only."""
        return load_result(self._folder, TRANSFER)

    @property
    def name(self) -> str:
        """ "model/defense under attack", with "@size" where the sizes are the attack's own."""
        return f"{self.trained.name} under {self.attack.label}{at(self.sizes)}"


def evaluate_fgsm(run: Run, trained: Trained) -> Evaluation:
    """Accuracy on all test images: clean, under white-box FGSM, and on the surrogate's stored images."""
    stored, config = generate(run), run.config

    def build(folder: pathlib.Path, piece: range, progress: Callable[[int], Any], resume: object) -> None:
        samples = stored.test.select(slice(piece.start, piece.stop))
        if samples.perturbations is None:
            raise UserError("the surrogate's samples hold no perturbations.")
        common: dict[str, Any] = {"eps": config.epsilons, "batch_size": config.images_at_once}
        with loaded(run, trained) as model:
            execution = Execution(devices=run.devices, progress=progress)
            whitebox = evaluate(model, samples.images, samples.labels, FGSM(), execution=execution, **common)
            perturbed = StoredPerturbations(samples.perturbations, whitebox.clean_correct)
            execution = Execution(devices=run.devices)
            transfer = evaluate(model, samples.images, samples.labels, perturbed, execution=execution, **common)
        save_result(folder, whitebox, WHITEBOX)
        save_result(folder, transfer, TRANSFER)

    def join(folder: pathlib.Path, manifest: dict, parts: Sequence[pathlib.Path]) -> str:
        results = [concatenate([load_result(part, prefix) for part in parts]) for prefix in (WHITEBOX, TRANSFER)]
        for prefix, result in zip((WHITEBOX, TRANSFER), results):
            save_result(folder, result, prefix)
        manifest["content"] = content_hash(*results)
        warn_of_upper_bound(f"{trained.name} under fgsm", results[0])
        whitebox, transfer = (in_percent(result.robust) for result in results)
        return f"clean {in_percent([results[0].clean_correct])}, FGSM {whitebox}, stored images {transfer}"

    entry = run.cache.cached_in_parts(
        f"evaluations/{trained.folder}",
        lambda: {"weights": trained.entry, "stored": stored.entry, "epsilons": list(config.epsilons), "attack": "fgsm"},
        lambda: _ranges(stored.sizes["test"], FGSM_PART),
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
    """Robust accuracy under an attack on the first n test images; None: as many as the settings ask for.

    It begins with the result of fewer images, where the work folder has one.

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
    n = n or config.attacked_images(attack.name, dataset.sizes["test"])
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
            **_randomness(run),
        },
        lambda: _ranges(n, ATTACK_PART, sum(result.n for result in first())),
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


def _ranges(n: int, size: int, first: int = 0) -> list[range]:
    return [range(i, min(i + size, n)) for i in range(first, n, size)]


def _randomness(run: Run) -> dict[str, Any]:
    """What random numbers, and the rounding of sums over a batch, depend on."""
    return {"seed": run.config.seed, "batch_size": run.config.images_at_once}


# ---- what a report adds ----------------------------------------------------------------------------------------------


def transfer(
    run: Run, source: Trained, targets: Sequence[Trained], n: int, attacks: Sequence[Attack] | None = None
) -> Entry:
    """A row of the transfer matrix: how many of n images that are attacked on one model the others classify correctly.

    Of PGD and each `mifgsm` of the attacks, None: of the run, the one that leaves a model fewest counts.  They take all
    their steps, because continuing after the decision boundary is crossed transfers better.
    """
    dataset, attack, eps = prepare(run), PGD(early_stop=False), max(run.config.epsilons)
    given = run.attacks if attacks is None else attacks
    others = [dataclasses.replace(each, early_stop=False) for each in given if isinstance(each, MIFGSM)]

    def build(folder: pathlib.Path, manifest: dict, resume: Any) -> None:
        test = dataset.images["test"]
        x, labels, common = to_float(test.images[:n]), test.labels[:n], _randomness(run)
        with loaded(run, source) as model:
            found = {
                each.label: OnAllDevices(each, run.devices)(model, x, labels, [eps], resume=resume, **common)
                for each in (attack, *others)
            }
        correct, best = {}, {}
        for target in targets:
            with loaded(run, target) as model:
                counts = {
                    label: evaluate(
                        model, x, labels, FixedImages(images), eps, execution=Execution(run.devices), **common
                    ).robust.sum()
                    for label, images in found.items()
                }
            best[target.name] = min(counts, key=counts.__getitem__)
            correct[target.name] = int(counts[best[target.name]])
        named = {"attack": best} if others else {}
        write_json(folder / "transfer.json", {"n": len(labels), "eps": eps, "correct": correct, **named})

    return run.cache.cached(
        f"transfers/{source.folder}",
        lambda: {
            "split": dataset.entry,
            "source": source.name,
            "attack": attack.name,
            "attack_settings": attack.settings(),
            **({"others": {each.label: each.settings() for each in others}} if others else {}),
            "eps": eps,
            "images": n,
            **_randomness(run),
            **{target.entry.name: target.entry for target in targets},
        },
        build,
        stage="evaluate",
    )


def read_transfer(run: Run, entry: Entry) -> TransferRow:
    """What `transfer` has found."""
    return json.loads((run.cache.open(entry) / "transfer.json").read_text())


def check(run: Run, trained: Trained, n: int) -> Entry:
    """Whether the gradients of a model are masked: diagnostics on the first of n test images, at the largest eps."""
    dataset, other, eps = prepare(run), surrogate(run), max(run.config.epsilons)
    helper = None if other.entry.name == trained.entry.name else other
    n = min(CHECKED_IMAGES, n)

    def build(folder: pathlib.Path, manifest: dict, resume: Any) -> None:
        test, settings = dataset.images["test"], DiagnosticSettings(**_randomness(run))
        x, y = to_float(test.images[:n]), test.labels[:n]
        options: dict[str, Any] = dict(settings=settings, execution=Execution(run.devices, resume=resume))
        with loaded(run, trained) as model:
            if helper:
                with loaded(run, helper) as surrogate_model:
                    diagnostics = collect_diagnostics(model, x, y, eps, surrogate=surrogate_model, **options)
            else:
                diagnostics = collect_diagnostics(model, x, y, eps, **options)
        write_json(folder / "diagnostics.json", diagnostics)
        outcomes = {
            name: {key: value for key, value in outcome.items() if key != "seconds"}
            for name, outcome in diagnostics["attacks"].items()
        }
        manifest["content"] = digest(diagnostics | {"attacks": outcomes})
        for found in run_checks(diagnostics):
            if found.passed is False:
                LOG.warning("%s is suspicious (%s): %s", trained.folder, found.name, found.sentence)

    return run.cache.cached(
        f"diagnostics/{trained.folder}",
        lambda: {
            "split": dataset.entry,
            "weights": trained.entry,
            "surrogate": helper.entry if helper else None,
            "eps": eps,
            "images": n,
            **_randomness(run),
        },
        build,
        stage="evaluate",
    )


def read_checks(run: Run, entry: Entry) -> list[Check]:
    """The results of the checks."""
    return run_checks(json.loads((run.cache.open(entry) / "diagnostics.json").read_text()))


def explain(run: Run, trained: Trained) -> Entry:
    """What a model looks at, and how vulnerable the first test images are, at the largest eps."""
    dataset, eps = prepare(run), max(run.config.epsilons)

    def build(folder: pathlib.Path, manifest: dict, resume: Any) -> str:
        test = dataset.images["test"]
        x, y = to_float(test.images[:EXPLAINED_IMAGES]), test.labels[:EXPLAINED_IMAGES]
        with loaded(run, trained) as model:
            found = explain_images(model, x, y, eps, shown=choose_images(y, EXPLAINED_SHOWN), resume=resume)
        found.save(folder / "explanation.npz")
        return "medians: " + ", ".join(f"{name} {value:.3g}" for name, value in found.vulnerability.medians().items())

    return run.cache.cached(
        f"explanations/{trained.folder}",
        lambda: {
            "split": dataset.entry,
            "weights": trained.entry,
            "eps": eps,
            "smallest_eps": "fmn",  # it was found by FAB in version 0.3.0
            "images": EXPLAINED_IMAGES,
            "shown": EXPLAINED_SHOWN,
        },
        build,
        stage="explain",
    )


def read_explanation(run: Run, entry: Entry) -> Explanation:
    """What `explain` has found."""
    return Explanation.load(run.cache.open(entry) / "explanation.npz")


def certify(run: Run, trained: Trained, n: int, copies: int) -> Entry:
    """The L2 radius that randomized smoothing certifies for each of the first n test images, with so many copies.

    The noise is that of the defense `gaussian`, where it has trained the model.
    """
    dataset, config, sigma = prepare(run), run.config, getattr(trained.defense, "sigma", SIGMA)

    def build(folder: pathlib.Path, piece: range, progress: Callable[[int], Any], resume: Any) -> None:
        test, rows = dataset.images["test"], slice(piece.start, piece.stop)
        with loaded(run, trained) as model:
            found = certify_images(
                *(model, test.images[rows], test.labels[rows], sigma, copies),
                batch_size=config.images_at_once,
                seed=config.seed,
                first=piece.start,
                execution=Execution(run.devices, progress=progress, resume=resume),
            )
        found.save(folder / "certificate.npz")

    def join(folder: pathlib.Path, manifest: dict, parts: Sequence[pathlib.Path]) -> str:
        found = joined([Certificate.load(part / "certificate.npz") for part in parts])
        found.save(folder / "certificate.npz")
        warn_of_guessing(trained.name, found)
        return f"certified {in_percent([found.radius > 0])} at sigma {sigma:g}"

    return run.cache.cached_in_parts(
        f"certificates/{trained.folder}",
        lambda: {
            "split": dataset.entry,
            "weights": trained.entry,
            "sigma": sigma,
            "copies": copies,
            "images": n,
            **_randomness(run),
        },
        lambda: _ranges(n, CERTIFIED_PART),
        build,
        join,
        stage="certify",
    )


def read_certificate(run: Run, entry: Entry) -> Certificate:
    """What `certify` has found."""
    return Certificate.load(run.cache.open(entry) / "certificate.npz")


def picture(run: Run, trained: Trained) -> Entry:
    """Test images attacked by FGSM on one model: some to look at, the predictions of all."""
    dataset, epsilons, size = prepare(run), sorted(run.config.epsilons), run.config.images_at_once

    def build(folder: pathlib.Path, manifest: dict, resume: object) -> None:
        test = dataset.images["test"]
        labels = test.labels[:MOST_PICTURED]
        shown, found = choose_images(labels, PICTURES), []
        adversarial = np.empty((len(epsilons), len(shown), *test.images.shape[1:]), np.uint8)
        with loaded(run, trained) as model:
            for start in range(0, len(labels), size):
                rows = slice(start, min(start + size, len(labels)))
                x = to_float(test.images[rows])
                attacked = tf.convert_to_tensor(FGSM()(model, x, labels[rows], epsilons))
                found.append(tf.stack([compiled_logits(model, images) for images in tf.concat([x[None], attacked], 0)]))
                own = np.flatnonzero((shown >= start) & (shown < rows.stop))
                adversarial[:, own] = np.round(255 * attacked.numpy()[:, shown[own] - start])
        logits = tf.concat(found, axis=1)
        probabilities, margins = tf.nn.softmax(logits).numpy(), [-losses.margin(row, labels) for row in logits]
        classes, k = probabilities.argmax(axis=2), probabilities.shape[2]
        AttackedImages(
            adversarial=adversarial,
            classes=classes[:, shown],
            confidences=probabilities.max(axis=2)[:, shown],
            confusion=np.stack([np.bincount(labels * k + row, minlength=k**2).reshape(k, k) for row in classes]),
            margins=np.stack(margins),
        ).save(folder / "gallery.npz")

    return run.cache.cached(
        f"gallery/{trained.folder}",
        lambda: {"split": dataset.entry, "weights": trained.entry, "epsilons": epsilons, "attack": "fgsm"},
        build,
        stage="report",
    )


def read_picture(run: Run, entry: Entry) -> AttackedImages:
    """What `picture` has made."""
    return AttackedImages.load(run.cache.open(entry) / "gallery.npz")


def pictured(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 (G, H, W, C), labels int (G,)) of `picture`, the same for all models."""
    test = prepare(run).images["test"]
    shown = choose_images(test.labels[:MOST_PICTURED], PICTURES)
    return test.images[shown], test.labels[shown]


def export(run: Run, trained: Trained) -> Entry:
    """The model as an int8 LiteRT file, for the pixels that it expects; training images set its scales.

    Raises:
      UserError: it can't be converted.
    """
    dataset, name = prepare(run), f"{trained.network.label}_int8.tflite"
    if trained.network.access:
        raise UserError(f"{trained.network.label} is no Keras model: it can't be exported.")

    def build(folder: pathlib.Path, manifest: dict, resume: object) -> str:
        with loaded(run, trained) as model:
            low, high = input_range_of(model)
            images = to_float(take(dataset.images["train"].images, slice(REPRESENTATIVE))).numpy()
            litert_int8(original(model), images * (high - low) + low, folder / name)
            x = to_float(take(dataset.images["validation"].images, slice(COMPARED)))
            exported = classifier(deployed(folder / name), (low, high), quiet=True)
            same = [np.argmax(compiled_logits(each, x), axis=1) for each in (model, exported)]
        return f"{name}: {np.mean(same[0] == same[1]):.1%} of {len(x)} validation images get the class of the model"

    return run.cache.cached(
        f"exports/{trained.folder}",
        lambda: {"split": dataset.entry, "weights": trained.entry, "format": "litert_int8", "images": REPRESENTATIVE},
        build,
        stage="evaluate",
    )


def model_id(run: Run, trained: Trained) -> ModelId:
    """A trained model as records name it."""
    return ModelId(run.config.dataset, trained.network.label, trained.defense.label, run.config.seed)
