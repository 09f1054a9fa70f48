"""The scripts in examples/ run as they are, here on fewer digits and with cheaper attacks."""

import pathlib
import runpy
import sys

import pytest
import sklearn.datasets

import tfadv
from tests.checks import fgsm_only
from tfadv.evaluation import masking

pytestmark = pytest.mark.packaging
EXAMPLES = sorted(pathlib.Path(__file__).parents[1].glob("examples/*.py"))


@pytest.fixture
def small(monkeypatch, tmp_path):
    """300 digits, one epoch of a defense, and AutoAttack and checks with few steps, in a folder of its own."""
    digits = sklearn.datasets.load_digits()
    digits.update(images=digits.images[:300], target=digits.target[:300], data=digits.data[:300])
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda *_, **__: digits)
    evaluate, fit = tfadv.evaluate, tfadv.AdversarialModel.fit

    def cheaper(model, x, y, attack, eps):
        attack = {"autoattack": "autoattack(steps=2,queries=5)", "pgd(steps=20)": "pgd(steps=2)"}.get(attack, attack)
        return evaluate(model, x[:32], y[:32], attack, eps)

    monkeypatch.setattr(masking, "_diagnostic_attacks", fgsm_only)
    monkeypatch.setattr(tfadv, "evaluate", cheaper, raising=False)
    monkeypatch.setattr(tfadv.AdversarialModel, "fit", lambda *args, **options: fit(*args, **options | {"epochs": 1}))
    monkeypatch.chdir(tmp_path)


def test_there_are_four_short_ones_with_public_names_only():
    assert [path.stem for path in EXAMPLES] == [
        "attack_your_model",
        "compare_defenses",
        "harden_your_model",
        "reproduce_paper",
    ]
    for path in EXAMPLES:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 60, path.name
        assert "from tfadv" not in text and set(_imported(text)) <= {"tfadv", "tfadv.main"}, path.name


def _imported(text):
    return [line.split()[1] for line in text.splitlines() if line.startswith("import tfadv")]


@pytest.mark.parametrize(
    "name, lines",
    [
        ("attack_your_model", ["fgsm", "pgd(steps=20)", "autoattack", "clean", "checks for gradient masking", "eps"]),
        ("harden_your_model", ["before", "kept epoch", "after", "hardened.keras"]),
        ("compare_defenses", ["defense", "original", "nfgsm", "nfgsm(share=0.5)", "pgd(steps=2)", "trades(steps=2)"]),
    ],
)
def test_it_prints_what_it_measured(small, capsys, name, lines):
    runpy.run_path(str(EXAMPLES[0].with_name(f"{name}.py")), run_name="__main__")
    printed = capsys.readouterr().out.splitlines()
    printed = [line for line in printed if not line.startswith("SUSPICIOUS")]
    assert len(printed) == len(lines) and all(text in line for text, line in zip(lines, printed)), printed


def test_the_paper_is_reproduced_on_digits(small, capfd, monkeypatch):
    script = EXAMPLES[0].with_name("reproduce_paper.py")
    monkeypatch.setattr(sys, "argv", [str(script)])
    runpy.run_path(str(script), run_name="__main__")
    assert "The report is runs/example_paper/report/report.html." in capfd.readouterr().out
    assert pathlib.Path("runs/example_paper/report/report.html").is_file()
