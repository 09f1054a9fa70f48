"""What a report adds to the evaluations: the transfer matrix, checks, explanations, certificates, pictures, exports."""

from __future__ import annotations

import dataclasses
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
from tfadv.evaluation.certificate import Certificate, joined
from tfadv.evaluation.checks import Check, run_checks
from tfadv.evaluation.distributed import OnAllDevices
from tfadv.evaluation.evaluator import Execution, FixedImages, evaluate
from tfadv.evaluation.masking import DiagnosticSettings, collect_diagnostics
from tfadv.evaluation.smoothing import certify as certify_images
from tfadv.evaluation.smoothing import warn_of_guessing
from tfadv.explanation.explain import Explanation
from tfadv.explanation.explain import explain as explain_images
from tfadv.models.deployed import deployed
from tfadv.models.export import litert_int8
from tfadv.models.logits import classifier, input_range_of, original
from tfadv.pipeline.cached import Entry
from tfadv.pipeline.results import in_percent
from tfadv.pipeline.run import Run
from tfadv.pipeline.steps import prepare, randomness, ranges, surrogate
from tfadv.pipeline.training import Trained, loaded
from tfadv.report.data import TransferRow
from tfadv.report.gallery import AttackedImages, choose_images
from tfadv.store.files import digest, write_json

LOG = logging.getLogger(__name__)
CERTIFIED_PART = 32  # images
SIGMA = 0.25  # of the noise, for models that were trained without any
CHECKED_IMAGES = 128  # see `collect_diagnostics`
EXPLAINED_IMAGES, EXPLAINED_SHOWN = 256, 3  # whose vulnerability is measured, and that are shown
PICTURES = 20
REPRESENTATIVE, COMPARED = 200, 256  # images that set the scales of an int8 file, and that it is compared on
MOST_PICTURED = 2048  # of the test split: the confusion matrices count them, and the pictures are chosen from them


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
        x, labels, common = to_float(test.images[:n]), test.labels[:n], randomness(run)
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
            **randomness(run),
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
        test, settings = dataset.images["test"], DiagnosticSettings(**randomness(run))
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
            **randomness(run),
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
            **randomness(run),
        },
        lambda: ranges(n, CERTIFIED_PART),
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
    """The model, one of Keras, as an int8 LiteRT file for the pixels that it expects; training images set its scales.

    Raises:
      UserError: it can't be converted.
    """
    dataset, name = prepare(run), f"{trained.network.label}_int8.tflite"

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
