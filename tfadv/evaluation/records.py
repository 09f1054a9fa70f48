"""The records of results.json: who was attacked how, and how many images were still right."""


def make(counted, *, dataset, model, variant, surrogate, seed):
    """list of records from what `count` counted; the schema is that of results.json.

    Args:
      counted: list of dicts of `count`.
      dataset: str.
      model: str, the model under test.
      variant: str, "baseline", "augmented" or "retrained".
      surrogate: str, the model whose stored images measured transfer.
      seed: int.
    """
    return [
        {
            "dataset": dataset,
            "model": model,
            "variant": variant,
            "protocol": record["protocol"],
            "source": f"{surrogate}/baseline" if record["protocol"] == "transfer" else None,
            **{key: record[key] for key in ("attack", "eps", "accuracy", "correct", "n")},
            "seed": seed,
        }
        for record in counted
    ]


def short(record):
    """str, such as "whitebox 0.03: 12.3%"."""
    attack = record["protocol"] if record["eps"] is None else f"{record['protocol']} {record['eps']:g}"
    return f"{attack}: {100 * record['accuracy']:.1f}%"
