"""The records of results.json: who was attacked how, and how many images were still right."""

import json

from tfadv.workdir import write_json


def make(counted, *, dataset, model, variant, surrogate, seed):
    """list of records from what `evaluate` counted; the schema is that of results.json.

    Args:
      counted: list of dicts of `evaluate`.
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


def collect(root, models, variants):
    """Writes `<root>/results.json` from all `<root>/evaluations/<model>/<variant>/records.json`, in the order given."""
    found = [root / "evaluations" / model / variant / "records.json" for model in models for variant in variants]
    write_json(root / "results.json", [r for path in found if path.exists() for r in json.loads(path.read_text())])


def short(record):
    """str, such as "whitebox 0.03: 12.3%"."""
    attack = record["protocol"] if record["eps"] is None else f"{record['protocol']} {record['eps']:g}"
    return f"{attack}: {100 * record['accuracy']:.1f}%"
