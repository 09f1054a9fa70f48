"""The paper's method on digits in about a minute; other flags run it on other images.

    python examples/reproduce_paper.py
    python examples/reproduce_paper.py --flagfile=paper_cifar10      # hours on a CPU; downloads CIFAR-10

Three ways to train each network, all with the same number of steps: baseline (clean images), augmented (the control)
and retrained (the paper's method: with the stored adversarial images of one network added).
"""

import json
import pathlib
import sys

import tfadv.main

WORKDIR = "runs/example_paper"
SMALL = ["--flagfile=smoke", "--verbosity=quiet", f"--workdir={WORKDIR}"]


def gain(records: list[dict], defense: str) -> float:
    """Accuracy under FGSM minus that of the baseline, averaged over networks and eps, in points."""
    accuracies = {name: [] for name in ("baseline", defense)}
    for record in records:
        if record["protocol"] == "whitebox" and record["attack"] == "fgsm" and record["variant"] in accuracies:
            accuracies[record["variant"]].append(record["accuracy"])
    baseline, defended = (sum(values) / len(values) for values in accuracies.values())
    return 100 * (defended - baseline)


flags = sys.argv[1:]
code = tfadv.main.main(flags or SMALL)  # prints the table; the same as the command `tfadv`
if code:
    sys.exit(code)
if not flags:
    folder = pathlib.Path(WORKDIR)
    records = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for defense in ("augmented", "retrained"):
        print(f"{defense} gains {gain(records, defense):+.1f} points under a new FGSM attack")
    print(f"the report: {folder / 'report/report.html'}")
