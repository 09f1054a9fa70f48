"""Results written by hand: two models, the paper's recipes, two eps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tfadv.evaluation.checks import Check
from tfadv.evaluation.records import Record
from tfadv.experiments.paper import PAPER
from tfadv.report.data import Examples, Predictions, ReportData

EPSILONS = (0.01, 0.1)
GAINS = {"baseline": 0.0, "augmented": 0.05, "retrained": 0.1}


def make_record(model, variant, protocol, eps=None, accuracy=0.5, **fields):
    """A record of 100 images."""
    record = Record(
        dataset="cifar10",
        model=model,
        variant=variant,
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
    )
    return dataclasses.replace(record, **fields)


def make_records(gains=GAINS):
    """Records of clean images and FGSM: resnet50 gains twice as much as resnet18 by each recipe."""
    records = []
    for model, base, factor in (("resnet18", 0.3, 1), ("resnet50", 0.2, 2)):
        for variant, gain in gains.items():
            records.append(make_record(model, variant, "clean", accuracy=0.8 + gain))
            for eps in EPSILONS:
                records.append(make_record(model, variant, "whitebox", eps, base + gain * factor))
                records.append(make_record(model, variant, "transfer", eps, 0.5))
    return tuple(records)


def make_examples(recipes, class_names, n=6, shape=(8, 8, 3)):
    """Examples with random images and predictions."""
    rng = np.random.default_rng(0)
    images = rng.random((n, *shape), np.float32)

    def predictions():
        return Predictions(
            *(rng.integers(len(class_names), size=n), rng.random(n), rng.integers(len(class_names), size=n)),
            np.ones(n),
        )

    return Examples(
        model="resnet18",
        attack="FGSM",
        eps=0.1,
        indices=np.arange(n),
        images=images,
        labels=rng.integers(len(class_names), size=n),
        adversarial=np.clip(images + 0.1 * rng.choice([-1, 1], images.shape), 0, 1).astype(np.float32),
        predictions={recipe: predictions() for recipe in recipes},
        n_candidates=512,
        n_fooled=97,
    )


@pytest.fixture
def data():
    """`ReportData` of the paper's experiment without anything optional."""
    return ReportData("cifar10", ("cat", "dog", "frog"), make_records(), PAPER)


@pytest.fixture
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
        examples=make_examples(data.recipes, data.class_names),
    )
