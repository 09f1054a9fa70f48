"""Attacks on any Keras classifier that returns logits; one file an attack, and `get` for their names."""

import functools

from tfadv.attacks.apgd import apgd
from tfadv.attacks.autoattack import autoattack
from tfadv.attacks.bim import bim
from tfadv.attacks.cost import Cost
from tfadv.attacks.fab import fab
from tfadv.attacks.fgsm import fgsm
from tfadv.attacks.mifgsm import mifgsm
from tfadv.attacks.onestep import onestep
from tfadv.attacks.pgd import pgd
from tfadv.attacks.square import square
from tfadv.errors import check_name

__all__ = ["Cost", "apgd", "autoattack", "bim", "fab", "fgsm", "get", "mifgsm", "onestep", "pgd", "square"]

# As accuracy under attack is counted: an image is left alone once it is broken.
ATTACKS = {
    "fgsm": fgsm,
    "onestep": onestep,
    "bim": functools.partial(bim, until_broken=True),
    "pgd": functools.partial(pgd, until_broken=True),
    "mifgsm": functools.partial(mifgsm, until_broken=True),
    "apgd-ce": functools.partial(apgd, loss="ce"),
    "apgd-dlr": functools.partial(apgd, loss="dlr"),
    "apgd-t": functools.partial(apgd, loss="dlr-t"),
    "fab": fab,
    "square": square,
    "autoattack": autoattack,
}


def get(name):
    """The attack of that name: a function of (model, x, y, eps) that also takes `seed`, `clip` and `cost` by name.

    Args:
      name: str, a key of `ATTACKS`.

    Raises:
      UserError: no such attack; names the nearest.
    """
    check_name("attack", name, ATTACKS)
    return ATTACKS[name]
