"""report.md, its CSV tables and its pictures."""

import numpy as np

from tfadv.attacks import fgsm
from tfadv.datasets.batches import to_float
from tfadv.report import plots, tables

EXAMPLES = 6  # images on the sheet


def report(folder, records, row, load, test, eps, class_names, matrix=None, verdicts=None):
    """Writes the report of one data set.

    Args:
      folder: path to write to.
      records: list of dicts, as in results.json.
      row: the row of the paper's tables to compare with, or None.
      load: dict of variant → function that returns that variant of the model to
        show on the sheet; called one after the other, a model is good until the next call.
      test: `Samples` of the test images.
      eps: float, the size of perturbation to show.
      class_names: list of str.
      matrix: dict of source → dict of "n", "eps" and "correct", or None.
      verdicts: dict of model/variant → list of `Check`, or None.
    """
    made = tables.all_tables(records, row, matrix, verdicts)
    for name, table in made.items():
        (folder / f"{name}.csv").write_text(table.csv())
    pictures = []
    for model in dict.fromkeys(r["model"] for r in records):
        pictures.append((f"accuracy_{model}.png", f"{model}: accuracy over eps"))
        plots.accuracy_over_eps(folder / pictures[-1][0], records, model)
    if matrix:
        plots.transfer_matrix(folder / "matrix.png", made["matrix"])
        pictures.append(("matrix.png", "Transfer matrix"))
    shown = _draw_examples(folder / "examples.png", records[0]["model"], load, test, eps, class_names)
    pictures.append(("examples.png", shown))
    if verdicts:
        (folder / "verdict.md").write_text(made["verdict"].markdown())
    text = [
        f"# {records[0]['dataset']}",
        tables.headline(records, row),
        *(table.markdown() for name, table in made.items() if name != "verdict"),
        *(
            ["\n".join([*tables.verdict_lines(verdicts), "", "Every check, with its reason: verdict.md."])]
            if verdicts
            else []
        ),
        "Δ: ours minus the paper's, points." if row else "The paper has no figures for this data set.",
        "Before: baseline. After: retrained on clean and the surrogate's images. Control: augmentation alone.",
        "White-box: a fresh attack on the model of the row. Transfer: the surrogate's stored test images.",
        *(f"![{caption}]({name})" for name, caption in pictures),
    ]
    (folder / "report.md").write_text("\n\n".join(text) + "\n")


def _draw_examples(path, name, load, test, eps, class_names):
    """Draws the sheet; returns its caption."""
    x, y = to_float(test.images[:512]).numpy(), test.labels[:512]
    says, adversarial = {}, None
    for variant in ("baseline", "retrained"):
        model = load[variant]()
        if variant == "baseline":
            adversarial = fgsm(model, x, y, eps).numpy()
            before = np.argmax(model(x, training=False), axis=1)
            after = np.argmax(model(adversarial, training=False), axis=1)
            fooled = np.flatnonzero((before == y) & (after != y))
            # Fooled ones first, and among them one of each class before a second of any.
            order = np.concatenate([fooled, np.setdiff1d(np.arange(len(y)), fooled)])
            _, first = np.unique(y[order], return_index=True)
            rest = np.setdiff1d(np.arange(len(order)), first)
            chosen = order[np.concatenate([np.sort(first), rest])][:EXAMPLES]
        own = fgsm(model, x[chosen], y[chosen], eps).numpy()
        says[variant] = [_say(model, images, class_names) for images in (x[chosen], own)]
    rows = [
        {
            "clean": x[i],
            "adversarial": adversarial[i],
            "true": class_names[y[i]],
            "clean_says": "\n".join(f"{v}: {says[v][0][k]}" for v in says),
            "adversarial_says": "\n".join(
                f"{v}{'' if v == 'baseline' else ', own attack'}: {says[v][1][k]}" for v in says
            ),
        }
        for k, i in enumerate(chosen)
    ]
    caption = (
        f"{name} under its own FGSM at eps {eps:g}: {len(fooled)} of the first {len(y)} test images fool the "
        "baseline; the sheet shows such images first, as the attack on the baseline made them. The retrained model's "
        "answer on the right is to its own attack."
    )
    plots.example_sheet(path, rows, f"{name}, FGSM at eps {eps:g}")
    return caption


def _say(model, images, class_names):
    """list of "class (confidence%)", one an image."""
    logits = np.asarray(model(images, training=False), np.float64)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return [f"{class_names[i]} ({100 * row[i]:.0f}%)" for i, row in zip(p.argmax(axis=1), p)]
