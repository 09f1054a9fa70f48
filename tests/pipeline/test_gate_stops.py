"""With `--require`, attacks that can no longer change a verdict do not run."""

import contextlib
import types

import pytest

from tfadv import attacks, gate
from tfadv.pipeline import judging, stages, steps


def a_run(specs, **config):
    settings = {"require": "worst@0.1>=0.5", "eval_size": 0, "shard": "", "attacked_images": lambda name, n: n}
    return types.SimpleNamespace(
        config=types.SimpleNamespace(**settings | config),
        sizes={},
        attacks=[attacks.parse(spec) for spec in specs],
        compares=True,
        cache=types.SimpleNamespace(looking=contextlib.nullcontext),
        dataset=types.SimpleNamespace(sizes={"test": 100}),
    )


@pytest.mark.parametrize(
    "verdicts, specs, expected",
    [
        ({"worst@0.1>=0.5": "failed"}, ("pgd", "autoattack"), True),
        ({"worst@0.1>=0.5": "failed", "accuracy>=0.9": "passed"}, ("pgd", "autoattack"), True),
        ({"worst@0.1>=0.5": "failed", "autoattack@0.1>=0.5": "undecided"}, ("pgd", "autoattack"), False),
        ({"worst_class(worst)@0.1>=0.5": "failed", "pgd@0.1>=0.5": "failed"}, ("pgd", "autoattack", "fog"), True),
        ({"worst@0.1>=0.5": "passed"}, ("pgd", "autoattack"), False),
        ({"accuracy>=0.9": "failed"}, ("pgd", "autoattack"), False),  # the attacks are wanted for another reason
        # The worst case is then over other attacks, and nothing can be compared.
        ({"worst@0.1>=baseline": "failed"}, ("pgd", "autoattack"), False),
        # The worst case is then that of the other norm, or there is none.
        ({"worst@0.1>=0.5": "failed"}, ("pgd(norm=l2)", "autoattack"), False),
        ({"worst@0.1>=0.5": "failed"}, ("pgd", "square"), False),
        ({"pgd@0.1>=0.5": "failed"}, ("pgd", "square"), True),
    ],
)
def test_which_verdicts_are_final(monkeypatch, verdicts, specs, expected):
    model = types.SimpleNamespace(name="mine/original")
    found = [gate.Decision(model.name, gate.requirements(text)[0], verdicts[text], "") for text in verdicts]
    monkeypatch.setattr(judging, "_decisions", lambda *_: found)
    monkeypatch.setattr(judging, "judged", lambda run: [model])
    run = a_run(specs, attacked_images=lambda name, n: 50 if name == "square" else n)
    assert judging.has_failed(run, model, []) == expected
    assert not judging.has_failed(run, types.SimpleNamespace(name="mine/baseline"), [])  # which is not judged


def test_attacks_run_from_cheap_to_dear_and_those_that_change_nothing_are_skipped(monkeypatch, caplog):
    done, on_disk = [], {("b", "square")}

    def evaluate_attack(run, each, attack):
        if caught_looking:
            return types.SimpleNamespace(
                entry=types.SimpleNamespace(content=(each.name, attack.label) in on_disk or None)
            )
        done.append((each.name, attack.label))
        return f"{attack.label} {each.name}"

    caught_looking = []
    models = [types.SimpleNamespace(name=name) for name in "abc"]
    monkeypatch.setattr(stages.steps, "all_trained", lambda run: models)
    monkeypatch.setattr(stages.steps, "evaluate_fgsm", lambda run, each: f"fgsm {each.name}")
    monkeypatch.setattr(stages.steps, "evaluate_attack", evaluate_attack)
    monkeypatch.setattr(stages.extras, "check", lambda run, each, n: "checks")
    monkeypatch.setattr(stages, "publish", lambda run: None)
    monkeypatch.setattr(stages, "has_failed", lambda run, each, baseline: each.name in "ab")

    @contextlib.contextmanager
    def looking():
        caught_looking.append(True)
        yield
        caught_looking.pop()

    this = a_run(("autoattack", "square", "pgd"))
    this.cache.looking = looking
    with caplog.at_level("INFO"):
        found, _ = stages._evaluate(this, [])
    everything = ["pgd", "square", "autoattack"]
    assert done == [("a", "pgd"), ("b", "pgd"), ("c", "pgd"), ("b", "square"), ("c", "square"), ("c", "autoattack")]
    assert found == ["fgsm a", "pgd a", "fgsm b", "pgd b", "square b", "fgsm c", *(f"{name} c" for name in everything)]
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(" has failed")[0] for line in lines] == [
        "square is skipped: a",
        "autoattack is skipped: a",
        "autoattack is skipped: b",
    ]
    done.clear()
    this.config.require = ""
    stages._evaluate(this)
    assert [label for name, label in done if name == "a"] == ["autoattack", "square", "pgd"]


def test_the_defenses_that_were_named_are_judged(started, monkeypatch, tmp_path):
    """Not the control that a comparison adds, and of rounds only the last."""
    flags = ("--flagfile=smoke", f"--workdir={tmp_path / 'run'}", "--stage=compare", "--budget=1000")
    run = started(*flags, "--defenses=nfgsm,rounds(number=3)")
    (model,) = run.config.models
    trained = [types.SimpleNamespace(model=model, defense=defense) for defense in run.defenses_of(model)]
    assert "control" in [each.defense.label for each in trained]
    monkeypatch.setattr(steps, "all_trained", lambda run: trained)
    assert [each.defense.label for each in judging.judged(run)] == ["nfgsm", "rounds(round=3)"]
