"""Records of results.json → the paper's Tables 1-4, with the paper's figures beside ours."""

import csv
import dataclasses
import io

from tfadv.report import paper

TITLES = {"resnet18": "ResNet18", "resnet50": "ResNet50", "resnet101": "ResNet101"}


@dataclasses.dataclass(frozen=True)
class Table:
    """A title, column heads and rows; cells are str, float percentages or None."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple]

    def markdown(self):
        """str, a Markdown table, its columns aligned for a terminal too."""
        cells = [[_text(c, head) for c, head in zip(row, self.head)] for row in (self.head, *self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.head))]
        lines = ["| " + " | ".join(c.rjust(w) for c, w in zip(row, widths)) + " |" for row in cells]
        rule = "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|"
        return "\n".join([f"**{self.title}**", "", lines[0], rule, *lines[1:], ""])

    def csv(self):
        """str, the same as CSV, at full precision and empty where there is no figure."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.head)
        writer.writerows(self.rows)
        return out.getvalue()


def _text(cell, head):
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return cell
    return f"{cell:+.2f}" if head.endswith("Δ") else f"{cell:.2f}"


def find(records, model, variant, protocol, eps=None):
    """float, percent, clean or under FGSM; None where results.json has no such record."""
    for r in records:
        if (r["model"], r["variant"], r["protocol"], r["eps"]) == (model, variant, protocol, eps):
            if r["attack"] in (None, "fgsm") and r["settings"] is None:  # the paper's, on all test images
                return 100 * r["accuracy"]
    return None


def _models(records):
    return list(dict.fromkeys(r["model"] for r in records))


def _epsilons(records):
    return sorted({r["eps"] for r in records if r["eps"] is not None})


def _heads(name, row):
    return (name, "paper", "Δ") if row else (name,)


def _beside(records, row, model, variant, eps=None):
    """Our figure, and the paper's and the difference where it has this data set: clean where eps is None."""
    ours = find(records, model, variant, "whitebox" if eps else "clean", eps)
    if not row:
        return (ours,)
    printed = paper.accuracy(row, variant, model, eps)
    return ours, printed, None if printed is None else ours - printed


def table1(records, row):
    """Clean accuracy before and after adversarial training, and of the control."""
    head = ("model", *_heads("before", row), *_heads("after", row), "control")
    rows = [
        (
            TITLES.get(m, m),
            *_beside(records, row, m, "baseline"),
            *_beside(records, row, m, "retrained"),
            find(records, m, "augmented", "clean"),
        )
        for m in _models(records)
    ]
    return Table("Table 1. Accuracy on clean test images, %", head, rows)


def attack_table(title, records, row, variant):
    """Accuracy of a variant under white-box FGSM, by eps and model: Tables 2, 3 and 4."""
    models = _models(records)
    head = ("eps", *(h for m in models for h in _heads(TITLES.get(m, m), row)))
    rows = [
        (f"{eps:g}", *(cell for m in models for cell in _beside(records, row, m, variant, eps)))
        for eps in _epsilons(records)
    ]
    return Table(title, head, rows)


def transfer_table(records):
    """Accuracy of every model and variant on the surrogate's stored test images."""
    epsilons = _epsilons(records)
    variants = dict.fromkeys((r["model"], r["variant"]) for r in records)
    rows = [(TITLES.get(m, m), v, *(find(records, m, v, "transfer", e) for e in epsilons)) for m, v in variants]
    source = next((r["source"] for r in records if r["protocol"] == "transfer"), "the surrogate")
    head = ("model", "variant", *(f"eps {e:g}" for e in epsilons))
    return Table(f"Transfer. Accuracy on images made on {source}, %", head, rows)


def attacks_table(records):
    """Robust accuracy under each attack of `--attacks` with its 95% interval and its cost; None without any."""
    stronger = [r for r in records if r["settings"]]
    if not stronger:
        return None
    epsilons, rows = _epsilons(stronger), []
    for of in dict.fromkeys((r["model"], r["variant"], r["attack"]) for r in stronger):
        own = {r["eps"]: r for r in stronger if (r["model"], r["variant"], r["attack"]) == of}
        one = next(iter(own.values()))
        cells = [
            f"{100 * own[e]['accuracy']:.1f} [{_percent(own[e]['interval'])}]" if e in own else "–" for e in epsilons
        ]
        cost = one["cost"] or {}
        name = f"{of[2]} of {', '.join(one['settings']['attacks'])}" if of[2] == "worst" else of[2]
        paid = [
            f"{cost[key]:,.0f}" if cost else "–" for key in ("gradients_per_image", "forwards_per_image", "seconds")
        ]
        rows.append((TITLES.get(of[0], of[0]), of[1], name, *cells, str(one["n"]), *paid))
    head = ("model", "variant", "attack", *(f"eps {e:g}" for e in epsilons), "images", "gradients", "forwards", "s")
    return Table(
        "Attacks. Accuracy under stronger attacks, %, with 95% intervals; cost an image, seconds in all", head, rows
    )


def matrix_table(matrix):
    """Accuracy of every model (columns) on the images that break another (rows), or None where it was not measured."""
    if not matrix:
        return None
    targets = list(next(iter(matrix.values()))["correct"])
    rows = [(source, *(100 * m["correct"][t] / m["n"] for t in targets)) for source, m in matrix.items()]
    one = next(iter(matrix.values()))
    title = f"Transfer matrix. Accuracy on images made by PGD at eps {one['eps']:g} on the model of the row, %"
    return Table(f"{title}; {one['n']} images", ("made on", *targets), rows)


def verdict_table(verdicts):
    """What the checks for masked gradients found, or None where there were none.

    Args:
      verdicts: dict of model/variant → list of `Check`.
    """
    if not verdicts:
        return None
    said = {True: "passed", False: "SUSPICIOUS", None: "not measured"}
    rows = [(of, c.name, said[c.passed], c.sentence) for of, checks in verdicts.items() for c in checks]
    title = "Verdict. Can these accuracies be believed, or are gradients masked?"
    return Table(title, ("model", "check", "result", "why"), rows)


def verdict_lines(verdicts):
    """list of str: one a model, and one for each check that it did not pass."""
    lines = []
    for of, checks in verdicts.items():
        passed = sum(c.passed is True for c in checks)
        lines.append(f"- {of}: {passed} of {len(checks)} checks for masked gradients passed.")
        for check in checks:
            if not check.passed:
                result = "SUSPICIOUS" if check.passed is False else "Not measured"
                lines.append(f"  - {result}, {check.name}: {check.sentence}")
    return lines


def _percent(interval):
    return ", ".join(f"{100 * end:.1f}" for end in interval)


def all_tables(records, row, matrix, verdicts):
    """dict of file name → Table."""
    titles = {
        "table2": ("Table 2. Accuracy under white-box FGSM, baseline, %", "baseline"),
        "table3": ("Table 3. The same after augmentation alone (control), %", "augmented"),
        "table4": ("Table 4. The same after retraining on the surrogate's images, %", "retrained"),
    }
    tables = {"table1": table1(records, row)}
    tables |= {name: attack_table(title, records, row, variant) for name, (title, variant) in titles.items()}
    tables |= {"transfer": transfer_table(records), "attacks": attacks_table(records)}
    tables |= {"matrix": matrix_table(matrix), "verdict": verdict_table(verdicts)}
    return {name: table for name, table in tables.items() if table}


def gain(records, variant="retrained", protocol="whitebox"):
    """float, points: mean over models and eps of a variant minus the baseline, under FGSM."""
    gains = [
        find(records, m, variant, protocol, e) - find(records, m, "baseline", protocol, e)
        for m in _models(records)
        for e in _epsilons(records)
    ]
    return sum(gains) / len(gains)


def headline(records, row):
    """str: the mean gains, and the paper's where it attacked this data set at these eps."""
    comparable = row and tuple(_epsilons(records)) == paper.EPSILONS
    stated = f" (the paper, over its three models: {paper.STATED_GAIN[row]:+.2f})" if comparable else ""
    return (
        f"Mean gain under white-box FGSM over models and eps: {gain(records):+.2f} points by retraining{stated}, "
        f"{gain(records, 'augmented'):+.2f} by augmentation alone. On the surrogate's stored images: "
        f"{gain(records, protocol='transfer'):+.2f} and {gain(records, 'augmented', 'transfer'):+.2f}. "
        f"Test images: {max(r['n'] for r in records):,}."
    )
