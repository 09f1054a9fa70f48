"""The paper's method on digits with a tiny network, in about a minute; other flags run it on other images.

    python examples/reproduce_paper.py
    python examples/reproduce_paper.py --flagfile=paper_cifar10      # hours on a CPU; downloads CIFAR-10

Each network is trained in three ways: baseline (clean images), augmented (the control) and retrained (the paper's
method: with the stored adversarial images of one network added).
"""

import sys

import tfadv.main

WORKDIR = "runs/example_paper"
SMALL = ["--flagfile=smoke", "--train_size=0", "--epochs=8", "--verbosity=quiet", f"--workdir={WORKDIR}"]

flags = sys.argv[1:]
code = tfadv.main.main(flags or SMALL)  # the command `tfadv`; prints the table, and how much each defense gains
if code:
    sys.exit(code)
if not flags:
    print(f"The report is {WORKDIR}/report/report.html. The same command again has nothing to do.")
