"""The records of results.json: who was attacked how, and how many images were still right."""

from tfadv.evaluation.intervals import wilson


def _record(row, *, protocol, attack, eps, source=None, settings=None, cost=None, dataset, model, variant, seed):
    """dict of one row of images, bool (N,); the schema is that of results.json."""
    correct, n = int(row.sum()), len(row)
    return {
        "dataset": dataset,
        "model": model,
        "variant": variant,
        "protocol": protocol,
        "source": source,
        "attack": attack,
        "eps": eps,
        "accuracy": correct / n,
        "interval": [round(end, 6) for end in wilson(correct, n)],
        "correct": correct,
        "n": n,
        "settings": settings,
        "cost": cost,
        "seed": seed,
    }


def of_fgsm(found, epsilons, surrogate, **of):
    """Records of what `accuracy.hits` found.

    Args:
      found: bool (1 + 2E, N).
      epsilons: E floats.
      surrogate: str, the model whose stored images measured transfer.
      **of: "dataset", "model", "variant" and "seed".

    Returns:
      list of dicts: clean, white-box at each eps, transfer at each eps.
    """
    made = [_record(found[0], protocol="clean", attack=None, eps=None, **of)]
    for protocol, source, rows in (
        ("whitebox", None, found[1 : 1 + len(epsilons)]),
        ("transfer", f"{surrogate}/baseline", found[1 + len(epsilons) :]),
    ):
        for eps, row in zip(epsilons, rows, strict=True):
            made.append(_record(row, protocol=protocol, attack="fgsm", eps=eps, source=source, **of))
    return made


def of_attack(attack, found, epsilons, settings, cost, **of):
    """Records of what `strength.withstood` found: list of dicts, one an eps.

    Args:
      attack: str; "worst" for the images that withstood several.
      found: bool (E, N).
      epsilons: E floats.
      settings: dict of the attack's arguments.
      cost: dict of `strength.withstood`, for all eps together, or None.
      **of: "dataset", "model", "variant" and "seed".
    """
    if cost:
        images = found.shape[1]
        cost = cost | {
            "gradients_per_image": round(cost["gradients"] / images, 2),
            "forwards_per_image": round(cost["forwards"] / images, 2),
        }
    return [
        _record(row, protocol="whitebox", attack=attack, eps=eps, settings=settings, cost=cost, **of)
        for eps, row in zip(epsilons, found, strict=True)
    ]


def short(record):
    """str, such as "whitebox 0.03: 12.3%"."""
    name = record["protocol"] if record["attack"] in (None, "fgsm") else record["attack"]
    attack = name if record["eps"] is None else f"{name} {record['eps']:g}"
    return f"{attack}: {100 * record['accuracy']:.1f}%"
