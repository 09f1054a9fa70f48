"""Attacks on any Keras classifier that returns logits; one file per attack.

    from tfadv.attacks import PGD, ATTACKS, parse
    adversarial = PGD(steps=50, restarts=5)(model, x, y, eps=8 / 255)
    adversarial = parse("autoattack(norm=l2)")(model, x, y, [0.25, 0.5])

Importing this package does not load TensorFlow; the attacks are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tfadv import specs
from tfadv.attacks.corruptions.constants import NAMES
from tfadv.errors import UserError
from tfadv.registry import Registry

if TYPE_CHECKING:
    from tfadv.attacks.apgd import APGD
    from tfadv.attacks.autoattack import AutoAttack
    from tfadv.attacks.base import Attack
    from tfadv.attacks.bim import BIM
    from tfadv.attacks.corruptions.attack import Corruption, Corruptions
    from tfadv.attacks.cost import Cost
    from tfadv.attacks.ddn import DDN
    from tfadv.attacks.fab import FAB
    from tfadv.attacks.fast import Fast
    from tfadv.attacks.fgsm import FGSM
    from tfadv.attacks.fmn import FMN
    from tfadv.attacks.hopskipjump import HopSkipJump
    from tfadv.attacks.iterative import IterativeAttack
    from tfadv.attacks.mifgsm import MIFGSM
    from tfadv.attacks.onestep import OneStep
    from tfadv.attacks.patch import Patch
    from tfadv.attacks.pgd import PGD
    from tfadv.attacks.rays import RayS
    from tfadv.attacks.sigma_zero import SigmaZero
    from tfadv.attacks.sparse_rs import SparseRS
    from tfadv.attacks.spatial import Spatial
    from tfadv.attacks.square import Square
    from tfadv.attacks.universal import place, universal_patch


ATTACKS = Registry(
    "attack",
    {
        "fgsm": "tfadv.attacks.fgsm:FGSM",
        "onestep": "tfadv.attacks.onestep:OneStep",
        "bim": "tfadv.attacks.bim:BIM",
        "pgd": "tfadv.attacks.pgd:PGD",
        "mifgsm": "tfadv.attacks.mifgsm:MIFGSM",
        "apgd-ce": "tfadv.attacks.apgd:apgd_ce",
        "apgd-dlr": "tfadv.attacks.apgd:apgd_dlr",
        "apgd-t": "tfadv.attacks.apgd:apgd_t",
        "fab": "tfadv.attacks.fab:FAB",
        "fab-t": "tfadv.attacks.fab:fab_t",
        "fmn": "tfadv.attacks.fmn:FMN",
        "ddn": "tfadv.attacks.ddn:DDN",
        "sigma-zero": "tfadv.attacks.sigma_zero:SigmaZero",
        "square": "tfadv.attacks.square:Square",
        "sparse-rs": "tfadv.attacks.sparse_rs:SparseRS",
        "hopskipjump": "tfadv.attacks.hopskipjump:HopSkipJump",
        "rays": "tfadv.attacks.rays:RayS",
        "fast": "tfadv.attacks.fast:Fast",
        "autoattack": "tfadv.attacks.autoattack:AutoAttack",
        "spatial": "tfadv.attacks.spatial:Spatial",
        "patch": "tfadv.attacks.patch:Patch",
        "corruptions": "tfadv.attacks.corruptions.attack:Corruptions",
        **{name: f"tfadv.attacks.corruptions.attack:{name}" for name in NAMES},
    },
)
WITHOUT_EPS = frozenset({"spatial", "patch", "corruptions", *NAMES})  # those that are called with eps None

_MODULES = {
    **{"APGD": "apgd", "AutoAttack": "autoattack", "BIM": "bim", "FAB": "fab", "FGSM": "fgsm", "MIFGSM": "mifgsm"},
    **{"DDN": "ddn", "FMN": "fmn", "Fast": "fast", "HopSkipJump": "hopskipjump", "RayS": "rays"},
    **{"OneStep": "onestep", "Patch": "patch", "PGD": "pgd", "Square": "square"},
    **{"SigmaZero": "sigma_zero", "SparseRS": "sparse_rs"},
    **{"Corruption": "corruptions.attack", "Corruptions": "corruptions.attack", "Spatial": "spatial"},
    **{"place": "universal", "universal_patch": "universal"},
    **{"Attack": "base", "IterativeAttack": "iterative", "Cost": "cost"},
}

__all__ = [
    "APGD",
    "ATTACKS",
    "BIM",
    "DDN",
    "FAB",
    "FGSM",
    "FMN",
    "MIFGSM",
    "PGD",
    "RayS",
    "Attack",
    "AutoAttack",
    "Corruption",
    "Corruptions",
    "Cost",
    "Fast",
    "HopSkipJump",
    "IterativeAttack",
    "OneStep",
    "Patch",
    "SigmaZero",
    "SparseRS",
    "Spatial",
    "Square",
    "parse",
    "place",
    "split_specs",
    "universal_patch",
]


def split_specs(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Splits "fgsm,pgd(steps=50,restarts=5)" into names and settings, see `specs.split_specs`; without TensorFlow.

    Raises:
      UserError: the text does not follow the form, or an attack is unknown (names the nearest).
    """
    return specs.split_specs(text, ATTACKS)


def parse(text: str) -> Attack:
    """The attack that a text such as "pgd(steps=50)" describes.

    Raises:
      UserError: not exactly one attack, an unknown one, or a setting that it does not accept.
    """
    attacks = split_specs(text)
    if len(attacks) != 1:
        raise UserError(f"{text!r} names {len(attacks)} attacks, not one.")
    return specs.build(*attacks[0], ATTACKS)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
