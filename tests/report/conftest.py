"""Results written by hand: two models, the paper's defenses, two eps."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest

from tfadv import paper
from tfadv.evaluation.checks import Check
from tfadv.evaluation.records import Record
from tfadv.explanation.vulnerability import Vulnerability
from tfadv.report.data import ReportData, Training
from tfadv.report.gallery import AttackedImages, Gallery

EPSILONS = (0.01, 0.1)
GAINS = {"baseline": 0.0, "augmented": 0.05, "retrained": 0.1}


def make_record(model, defense, protocol, eps=None, accuracy=0.5, **fields):
    """A record of 100 images, of which the first ones are classified correctly."""
    record = Record(
        dataset="cifar10",
        model=model,
        defense=defense,
        protocol=protocol,
        source="resnet18/baseline" if protocol == "transfer" else None,
        attack=None if eps is None else "fgsm",
        eps=eps,
        accuracy=accuracy,
        interval=(0.0, 1.0),
        correct=round(100 * accuracy),
        n=100,
        settings=None,
        cost=None,
        seed=0,
        per_image=np.arange(100) < round(100 * accuracy),
    )
    return dataclasses.replace(record, **fields)


def make_records(gains=GAINS):
    """Records of clean images and FGSM: resnet50 gains twice as much as resnet18 by each defense."""
    records = []
    for model, base, factor in (("resnet18", 0.3, 1), ("resnet50", 0.2, 2)):
        for defense, gain in gains.items():
            records.append(make_record(model, defense, "clean", accuracy=0.8 + gain))
            for eps in EPSILONS:
                records.append(make_record(model, defense, "whitebox", eps, base + gain * factor))
                records.append(make_record(model, defense, "transfer", eps, 0.5))
    return tuple(records)


def make_gallery(defenses, n_classes, n=8, shape=(8, 8, 3)):
    """A gallery with random images and predictions of resnet18 and resnet50."""
    rng = np.random.default_rng(0)
    images = rng.integers(40, 215, (n, *shape), dtype=np.uint8)

    def attacked():
        steps = np.round(255 * np.array(EPSILONS)).astype(int)[:, None, None, None, None]
        return AttackedImages(
            adversarial=(images + steps * rng.choice([-1, 1], (len(EPSILONS), *images.shape))).astype(np.uint8),
            classes=rng.integers(n_classes, size=(3, n)),
            confidences=rng.random((3, n), np.float32),
            confusion=rng.integers(100, size=(3, n_classes, n_classes)),
            margins=rng.normal(size=(3, 50)).astype(np.float32) - [[0], [1], [2]],
        )

    models = {f"{model}/{defense}": attacked() for model in ("resnet18", "resnet50") for defense in defenses}
    return Gallery("fgsm", EPSILONS, images, rng.integers(n_classes, size=n), models)


def make_explanation(n=2, shape=(8, 8, 3)):
    """Random values in place of an explanation."""
    rng = np.random.default_rng(0)
    maps = rng.random((2, n, *shape[:2]), np.float32)
    smallest = np.array([0.0, 0.01, 0.02, 0.04, np.inf], np.float32)
    return types.SimpleNamespace(
        eps=0.1,
        images=rng.random((2, n, *shape), np.float32),
        labels=np.arange(n),
        classes=np.zeros((2, n), int),
        saliency=maps,
        cam=np.stack([maps[0], np.full_like(maps[0], np.nan)]),
        surface=rng.random((n, 5, 5), np.float32),
        vulnerability=Vulnerability(np.array([-1, 1, 2, 3, 9], np.float32), np.full(5, 100, np.float32), smallest),
    )


@pytest.fixture(scope="session")
def data():
    """`ReportData` of the paper's defenses without anything optional."""
    return ReportData(
        "cifar10",
        ("cat", "dog", "frog"),
        make_records(),
        known_defenses=(paper.Baseline(), paper.Augmented(), paper.Retrained()),
        first="baseline",
        published=paper,
        tables=paper.paper_tables,
        headline=paper.paper_headline,
    )


def without_published(data):
    """The same results, of a run that has no published figures, and no tables and headline of its own."""
    return dataclasses.replace(data, published=None, tables=None, headline=None)


@pytest.fixture(scope="session")
def full_data(data):
    """`ReportData` with all that a report may contain."""
    cost = {"gradients": 1000, "forwards": 200, "seconds": 3.0, "fallbacks": {}, "remaining": {}}
    cost |= {"gradients_per_image": 10.0, "forwards_per_image": 2.0}
    attacked = [
        make_record("resnet18", "baseline", "whitebox", eps, 0.12, interval=(0.1, 0.15), **fields)
        for fields in (
            {"attack": "pgd", "settings": {"steps": 10}, "cost": cost},
            {"attack": "pgd", "settings": {"steps": 50}, "cost": cost, "label": "pgd(steps=50)"},
            {"attack": "worst", "settings": {"attacks": ["fgsm", "pgd", "pgd(steps=50)"]}},
        )
        for eps in EPSILONS
    ]
    names = ("resnet18/baseline", "resnet18/retrained")
    matrix = {source: {"n": 200, "eps": 0.1, "correct": dict.fromkeys(names, 50)} for source in names}
    matrix[names[1]]["correct"][names[0]] = 2
    checks = {
        names[0]: [Check("steps", True, {}, "Fine."), Check("black box", False, {"count": 9}, "It succeeds on 9.")],
        names[1]: [Check("steps", None, {}, "Not evaluated: attacks refuse the model.")],
    }
    return dataclasses.replace(
        data,
        records=(*attacked, *data.records),
        transfer_matrix=matrix,
        checks=checks,
        gallery=make_gallery(data.defenses, len(data.class_names)),
        explanations={"resnet18/baseline": make_explanation(), "resnet18/retrained": make_explanation()},
        training={
            "resnet18/baseline": Training(
                900, 60.0, history={"loss": [2.0, 1.0], "val_accuracy": [0.5, 0.7]}, best_epoch=2
            )
        },
        provenance={"command": "tfadv --flagfile=flags.txt", "flags.txt": "--seed=0\n--dataset=cifar10", "seed": "0"},
    )
