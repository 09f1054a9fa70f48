"""The paper (Ali, Raza, Gan): its three defenses, the figures it prints, and its Tables 1-4."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from tfadv.defenses.base import Defense
from tfadv.defenses.clean import First
from tfadv.report import tables

if TYPE_CHECKING:
    from tfadv.report.data import ReportData
    from tfadv.report.table import Table


@dataclasses.dataclass(frozen=True)
class Baseline(First):
    """Training from scratch on clean images."""

    full_name: ClassVar[str] = "Baseline"


@dataclasses.dataclass(frozen=True)
class Augmented(Defense):
    """The paper's control: retraining on augmented clean images of balanced classes, as many steps as `Retrained`."""

    full_name: ClassVar[str] = "Augmented"
    stage: ClassVar[str] = "augment"
    images: ClassVar = "repeated"
    balance: ClassVar[bool] = True
    uses_budget: ClassVar[bool] = False
    color: ClassVar[str] = "#0072B2"
    marker: ClassVar[str] = "s"


@dataclasses.dataclass(frozen=True)
class Retrained(Defense):
    """The paper's method: retraining on clean images and the surrogate's stored adversarial images of them."""

    full_name: ClassVar[str] = "Retrained"
    images: ClassVar = "stored"
    balance: ClassVar[bool] = True
    uses_budget: ClassVar[bool] = False
    color: ClassVar[str] = "#009E73"
    marker: ClassVar[str] = "^"


MODELS = ("resnet18", "resnet50", "resnet101")
EPSILONS = (0.01, 0.02, 0.03)
# Data sets as the paper calls them.  Its "Cat VS Dog" is oxford_iiit_pet by its text and cats_vs_dogs by its name.
ROWS = {
    "mnist": "MNIST",
    "cifar10": "CIFAR10",
    "oxford_iiit_pet": "Cat VS Dog",
    "cats_vs_dogs": "Cat VS Dog",
}

# Table 1: accuracy on clean images in percent, one figure per model, before and after adversarial training.
CLEAN = {
    "MNIST": {"baseline": (97.43, 97.72, 98.65), "retrained": (99.20, 99.22, 99.26)},
    "CIFAR10": {"baseline": (75.39, 83.69, 81.69), "retrained": (76.63, 80.41, 78.48)},
    "Cat VS Dog": {"baseline": (96.93, 95.05, 94.08), "retrained": (97.16, 95.83, 94.34)},
}

# Tables 2, 3 and 4: accuracy under FGSM in percent, one tuple per eps, in it one figure per model.
FGSM = {
    "MNIST": {
        "baseline": ((52.30, 60.21, 64.09), (36.50, 31.53, 35.91), (34.90, 17.46, 22.32)),
        "augmented": ((61.86, 77.55, 73.10), (46.86, 69.40, 64.25), (37.47, 62.66, 57.56)),
        "retrained": ((91.53, 93.49, 93.50), (78.88, 83.78, 83.34), (64.63, 67.53, 69.40)),
    },
    "CIFAR10": {
        "baseline": ((27.52, 16.04, 12.21), (21.52, 14.86, 10.38), (19.56, 12.00, 9.88)),
        "augmented": ((30.06, 22.24, 27.72), (25.62, 17.96, 25.86), (24.35, 16.54, 23.52)),
        "retrained": ((37.77, 34.73, 37.89), (29.27, 22.99, 28.88), (26.67, 27.81, 27.86)),
    },
    "Cat VS Dog": {
        "baseline": ((15.76, 24.97, 4.73), (34.94, 42.44, 18.95), (46.98, 49.74, 41.21)),
        "augmented": ((25.67, 30.47, 20.84), (20.32, 49.99, 30.54), (17.94, 43.87, 31.58)),
        "retrained": ((54.04, 50.81, 59.94), (54.10, 57.81, 60.99), (54.14, 59.00, 66.81)),
    },
}

# The gains that its abstract and section 5 state, in percentage points.  The means of Table 4 minus Table 2 are
# 41.21, 14.43 and 26.44.
STATED_GAINS = {"MNIST": 41.54, "CIFAR10": 14.96, "Cat VS Dog": 26.43}


def covers(dataset: str) -> bool:
    """Whether the paper has figures for a data set."""
    return dataset in ROWS


def accuracy(dataset: str, model: str, defense: str, eps: float | None = None) -> float | None:
    """The paper's accuracy in percent, on clean images where eps is None; None where it prints no such figure."""
    if dataset not in ROWS or model not in MODELS:
        return None
    row, column = ROWS[dataset], MODELS.index(model)
    if eps is None:
        return CLEAN[row][defense][column] if defense in CLEAN[row] else None
    if defense not in FGSM[row] or eps not in EPSILONS:
        return None
    return FGSM[row][defense][EPSILONS.index(eps)][column]


def paper_tables(data: ReportData) -> dict[str, Table]:
    """The paper's Tables 1-4, with its figures beside ours; further defenses get a column and a table each."""
    titles = {  # defense → file name, title
        "baseline": ("table2", "Table 2. Accuracy of the baseline under white-box FGSM, %"),
        "augmented": (
            "table3",
            "Table 3. Accuracy under white-box FGSM after training on augmented clean images only, %",
        ),
        "retrained": (
            "table4",
            "Table 4. Accuracy under white-box FGSM after retraining on the surrogate's images, %",
        ),
    }
    shown = {"table1": tables.clean_table("Table 1. Accuracy on clean test images, %", data, data.defenses)}
    for defense in [*titles, *(name for name in data.defenses if name not in titles)]:
        default = (f"fgsm_{defense}", f"Accuracy of {defense} under white-box FGSM, %")
        name, title = titles.get(defense, default)
        shown[name] = tables.fgsm_table(title, data, defense)
    return shown


def paper_headline(data: ReportData) -> str:
    """The mean gains, and the one that the paper states where it attacked this data set at these eps."""
    remarks = {}
    if data.dataset in ROWS and data.epsilons == EPSILONS:
        stated = STATED_GAINS[ROWS[data.dataset]]
        remarks["retrained"] = f" (the paper, over its three models: {stated:+.2f})"
    return tables.headline(data, remarks)
