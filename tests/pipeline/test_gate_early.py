"""With `--require`, an attack ends when its first images decide."""

import json
import types
from xml.etree import ElementTree

import keras
import numpy as np
import pytest

from tests.checks import fgsm_only
from tfadv import gate
from tfadv.attacks import parse
from tfadv.command_line import CommandLine
from tfadv.evaluation import masking
from tfadv.evaluation.records import ModelId, Record, attack_records, of_first_images, with_outcomes
from tfadv.gate import decision
from tfadv.pipeline import extras, judging, stages, steps
from tfadv.pipeline.cached import Entry
from tfadv.report import evidence
from tfadv.report.differences import difference
from tfadv.specs import folder_name

ATTACK = "pgd(steps=3)"
MODEL = ModelId("digits", "mine", "original", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A linear model of the mean pixel, which is above 0.5 in class 1, and images of which an eps of 0.1 fools half."""
    folder = tmp_path_factory.mktemp("early")
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 1000)
    distance = np.where(rng.random(1000) < 0.5, 10, 100)
    np.savez(folder / "half.npz", x=np.tile((127 + distance * (2 * y - 1))[:, None, None], (1, 8, 8)).astype("u1"), y=y)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    model.set_weights([np.tile([[-0.125, 0.125]], (64, 1)), np.array([4.0, -4.0])])
    model.save(folder / "half.keras")
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    """A function from requirements to (exit code, lines, ranges of images attacked); the attack counts as strong."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(decision, "is_full_autoattack", lambda attack, settings: True)
    monkeypatch.setattr(extras, "transfer", lambda *_: Entry("transfers", None))
    monkeypatch.setattr(masking, "_diagnostic_attacks", fgsm_only)
    pieces = []

    def evaluate(model, images, labels, attack, *rest, first=0, **options):
        if getattr(attack, "label", "") == ATTACK:
            pieces.append((first, first + len(images)))
        return original(model, images, labels, attack, *rest, first=first, **options)

    original = steps.evaluate
    monkeypatch.setattr(steps, "evaluate", evaluate)

    def run(require="", stage="evaluate"):
        pieces.clear()
        given = ("--dataset=npz:half.npz", "--models=half.keras", "--epsilons=0.1", f"--attacks={ATTACK}")
        required = f"--require={require}" if require else "--require="
        text, code = stages.run(
            CommandLine(
                ("--input_range=0,1", f"--stage={stage}", f"--workdir={tmp_path}/run", *given, required)
            ).config()
        )
        return code, text.splitlines(), list(pieces)

    return run


def outcomes(folder):
    with np.load(folder / f"run/attacks/half/original/{folder_name(ATTACK)}/correct.npz") as arrays:
        return arrays["adversarial"] & arrays["clean"]


def test_the_first_images_decide_and_a_later_command_goes_on(run, tmp_path):
    code, lines, pieces = run(f"accuracy>=0.9; {ATTACK}@0.1>=0.1")
    assert (code, pieces) == (0, [(0, 50)])  # an eighth of 200 are too few to be worth it
    (line,) = [line for line in lines if ATTACK in line and "passed" in line]
    assert "of the first 50 of 200 images, where it ended early (" in line
    (record,) = [r for r in json.loads((tmp_path / "run/results.json").read_text()) if r.get("label") == ATTACK]
    assert (record["n"], record["of"]) == (50, 200) and 0.1 <= record["interval"][0]
    cases = ElementTree.parse(tmp_path / "run/gate.xml").getroot()
    assert "first 50 of 200 images" in cases[1].find("system-out").text
    first = outcomes(tmp_path)
    # The same command, and another threshold that the same images decide: nothing is attacked.
    assert run(f"{ATTACK}@0.1>=0.1")[::2] == (0, [])
    assert run(f"{ATTACK}@0.1>=0.9")[::2] == (1, [])
    # Near the truth, all images are used, and none twice.
    code, lines, pieces = run(f"{ATTACK}@0.1>=0.5")
    assert (code, pieces) == (2, [(50, 100), (100, 200)])
    np.testing.assert_array_equal(outcomes(tmp_path)[:, :50], first)
    (record,) = [r for r in json.loads((tmp_path / "run/results.json").read_text()) if r.get("label") == ATTACK]
    assert record["n"] == 200 and "of" not in record
    assert run()[::2] == (0, [])


@pytest.mark.parametrize(
    "attack, require, expected",
    [
        ("pgd", "pgd@0.1>=0.9; accuracy>=0.5; bim@0.1>=baseline", ["pgd@0.1>=0.9"]),
        ("autoattack", "autoattack@0.1>=0.9;autoattack@0.2>=0.1", ["autoattack@0.1>=0.9", "autoattack@0.2>=0.1"]),
        ("pgd", "pgd@0.1>=0.9; worst@0.1>=0.01", []),
        ("pgd", "pgd@0.1>=0.9; worst_class(pgd)@0.1>=0.01", []),
        ("pgd", "pgd@0.1>=baseline-0.1", []),
        ("fast", "fast@0.1>=0.9", []),
        ("bim", "pgd@0.1>=0.9", []),
        ("pgd", "", []),
    ],
)
def test_what_the_first_images_may_decide(attack, require, expected):
    found = judging._wanted(types.SimpleNamespace(config=types.SimpleNamespace(require=require)), parse(attack))
    assert [requirement.text for requirement in found] == expected


def test_a_command_without_require_goes_on_with_the_same_results(run, tmp_path):
    assert run(f"{ATTACK}@0.1>=0.9")[::2] == (1, [(0, 50)])
    (line,) = [line for line in run(stage="status")[1] if "attacks/" in line]
    assert line.startswith("unfinished")
    assert run()[2] == [(50, 200)]
    joined = outcomes(tmp_path)
    (tmp_path / "run").rename(tmp_path / "before")
    assert run()[2] == [(0, 200)]
    np.testing.assert_array_equal(outcomes(tmp_path), joined)


def test_what_was_begun_on_all_images_is_not_begun_again(run, tmp_path, monkeypatch):
    """Parts of 80 images, after which the process is interrupted; then a command with --require."""
    monkeypatch.setattr(steps, "ATTACK_PART", 80)
    save = steps.save_result

    def interrupted(folder, result, *rest):
        save(folder, result, *rest)
        if folder.parent.parent.name == "original" and "00001" in folder.name:
            raise KeyboardInterrupt

    monkeypatch.setattr(steps, "save_result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.setattr(steps, "save_result", save)
    assert run(f"{ATTACK}@0.1>=0.9")[::2] == (1, [(80, 160), (160, 200)])


def test_images_that_were_not_mixed_are_all_attacked(run, monkeypatch):
    monkeypatch.setattr("tfadv.pipeline.dataset.SplitDataset.in_random_order", False)
    assert run(f"{ATTACK}@0.1>=0.9")[2] == [(0, 200)]


@pytest.fixture(scope="module")
def record():
    """Of 50 images."""
    cost = {"gradients": 1, "forwards": 1}
    (record,) = attack_records(MODEL, [0.1], np.ones((1, 50), bool), "pgd", parse("pgd").settings(), cost)
    return record


def test_a_baseline_that_ended_early_is_not_compared(record):
    (requirement,) = gate.requirements("pgd@0.1>=baseline-0.5")
    found = gate.decide(requirement, "mine", [record], baseline=[of_first_images(record, 200)])
    assert found.verdict == gate.UNDECIDED and "ended early" in found.reason


def test_records_and_reports_say_so(record):
    early = of_first_images(record, 200)
    assert Record.from_dict(json.loads(json.dumps(early.to_dict()))) == early and early.to_dict()["of"] == 200
    assert early.interval[0] < record.interval[0] and "of" not in record.to_dict()
    assert with_outcomes(early, np.ones(50, bool)).interval == early.interval
    data = types.SimpleNamespace(records=[early, record], origin=object(), class_names=("a", "b"), guessing=())
    found = evidence._result(data, early)
    assert found["n"] == 50 and found["ended_early"].startswith("of 200 images") and "classes" not in found
    assert difference(early, record) is None and difference(record, record) is not None


@pytest.mark.parametrize("n", [200, 1000])
@pytest.mark.parametrize("accuracy, least", [(0.5, 0.5001), (0.5, 0.4999), (0.05, 0.051), (0.93, 0.929)])
def test_a_wrong_verdict_is_as_rare_as_with_all_images(monkeypatch, n, accuracy, least):
    """Counts of images are simulated; the truth is next to what is required, where most verdicts would be wrong."""
    sums = np.cumsum(np.random.default_rng(0).random((4000, n)) < accuracy, axis=1)
    settled, wrong = {}, 0
    (requirement,) = gate.requirements(f"{ATTACK}@0.1>={least}")
    cost = {"gradients": 1, "forwards": 1}
    monkeypatch.setattr(decision, "is_full_autoattack", lambda attack, settings: True)

    def verdict(correct, images):
        if (correct, images) not in settled:
            row = (np.arange(images) < correct)[None]
            (record,) = attack_records(MODEL, [0.1], row, ATTACK, parse(ATTACK).settings(), cost)
            record = of_first_images(record, None if images == n else n)
            settled[correct, images] = gate.decide(requirement, "mine", [record]).verdict
        return settled[correct, images]

    looks = [n // divisor for divisor in judging._PORTIONS if n // divisor >= judging._LEAST] + [n]
    for row in sums[:, [look - 1 for look in looks]].tolist():
        found = next((v for v in map(verdict, row, looks) if v != gate.UNDECIDED), gate.UNDECIDED)
        wrong += found == (gate.PASSED if accuracy < least else gate.FAILED)
    assert 0 < wrong <= 0.05 * len(sums)
