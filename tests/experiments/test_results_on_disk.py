"""results.json and the report hold what belongs to the present settings and code, and all of it."""

import json

from tests.faults.harness import one_line

RECIPES = """
from tfadv.experiments import RECIPES
from tfadv.experiments.recipe import Recipe

RECIPES.register("more", Recipe("more", "More", start="baseline", objective="{objective}", epochs="retrain_epochs"))
"""
ATTACK = """
import dataclasses
from tfadv.attacks import ATTACKS
from tfadv.attacks.fgsm import FGSM

@dataclasses.dataclass(frozen=True)
class Mine(FGSM):
    pass

ATTACKS.register("my-attack", Mine)
"""


def test_results_of_other_settings_do_not_stay(smoke, tmp_path):
    run = smoke.copy(tmp_path / "run")
    run.succeed("--overwrite", "--seed=1", "--stage=train")
    assert run.records() == []
    run.succeed("--seed=1", "--stage=attack")
    assert {(r["variant"], r["seed"]) for r in run.records()} == {("baseline", 1)}


def test_results_of_earlier_defenses_stay(smoke, tmp_path):
    (tmp_path / "more.py").write_text(RECIPES.format(objective="cross_entropy"))
    run = smoke.copy(tmp_path / "run")
    run.succeed("--plugins=more", "--defenses=more", "--stage=evaluate", cwd=tmp_path)
    with_defense = run.records()
    assert {r["variant"] for r in with_defense} == {"baseline", "augmented", "retrained", "more"}
    assert "nothing to do" in run.succeed("--plugins=more", "--stage=evaluate", cwd=tmp_path)
    assert run.records() == with_defense


def test_a_later_report_keeps_the_transfer_matrix_and_the_checks(smoke, tmp_path):
    run = smoke.copy(tmp_path / "run")
    report = run.workdir / "report/report.md"
    for flags in (("--attacks=fgsm", "--eval_size=24"), ("--stage=report",)):
        run.succeed(*flags)
        text = report.read_text()
        assert "Transfer matrix" in text and "checks for gradient masking passed" in text


def test_a_mistyped_objective_is_refused_before_anything_is_trained(tmp_path, smoke):
    (tmp_path / "more.py").write_text(RECIPES.format(objective="cross_entropi"))
    done = smoke("--plugins=more", "--defenses=more", f"--workdir={tmp_path / 'new'}", cwd=tmp_path)
    assert done.returncode == 1 and not (tmp_path / "new").exists()
    assert "unknown objective 'cross_entropi': did you mean 'cross_entropy'?" in one_line(done)


def test_an_attack_that_calls_itself_otherwise_is_refused(tmp_path, smoke):
    (tmp_path / "mine.py").write_text(ATTACK)
    done = smoke("--plugins=mine", "--attacks=my-attack", "--eval_size=24", cwd=tmp_path)
    assert done.returncode == 1 and "its property `name` is 'mine'" in done.stderr and "Traceback" not in done.stderr


def test_any_number_of_training_images_can_be_kept(tmp_path, smoke):
    """1,255 of 1,257: fewer are left out than there are classes."""
    done = smoke("--train_size=1255", "--stage=prepare", f"--workdir={tmp_path / 'new'}")
    assert done.returncode == 0, done.stderr


def test_flags_of_a_run_can_be_repeated_without_overwriting(smoke, tmp_path):
    run = smoke.copy(tmp_path / "run")
    run.succeed("--overwrite", "--verify", "--stage=prepare")
    flags = (run.workdir / "flags.txt").read_text().splitlines()
    assert "--nooverwrite" in flags and "--noverify" in flags and "--seed=0" in flags


def test_the_state_of_an_unfinished_attack_is_not_continued_with_xla(smoke, tmp_path):
    """Outside XLA, images leave the batch: the shapes differ, and the results agree."""
    run = smoke.copy(tmp_path / "run")
    scratch = run.workdir / "parts/attacks/resnet_tiny/baseline/pgd/.scratch-00000"
    run.succeed("--attacks=pgd", "--eval_size=24", "--stage=evaluate")
    assert not scratch.exists()
    records = [r for r in run.records() if r["attack"] == "pgd"]
    other = smoke.copy(tmp_path / "other")
    other.succeed("--attacks=pgd", "--eval_size=24", "--stage=evaluate", "--jit_compile=true")
    for a, b in zip(records, [r for r in other.records() if r["attack"] == "pgd"], strict=True):
        assert abs(a["correct"] - b["correct"]) <= 1
    inputs = json.loads((run.workdir / "attacks/resnet_tiny/baseline/pgd/manifest.json").read_text())["inputs"]
    assert "xla" not in inputs


def test_defenses_with_settings_are_trained_compared_and_kept(smoke, tmp_path):
    run = smoke.copy(tmp_path / "run")
    stdout = run.succeed("--defenses=nfgsm,nfgsm(share=0.5)", "--defense_epochs=2", "--overwrite")
    assert "nfgsm(share=0.5)" in stdout
    names = {"baseline", "augmented", "retrained", "nfgsm", "nfgsm(share=0.5)"}
    assert {r["variant"] for r in run.records()} == names
    (folder,) = (run.workdir / "models/resnet_tiny").glob("nfgsm_share=0.5-*")
    history = json.loads((folder / "history.json").read_text())["history"]
    assert len(history["val_robust_accuracy"]) == 2
    inputs = run.manifest(f"models/resnet_tiny/{folder.name}")["inputs"]
    assert inputs["eps"] == 0.03 and inputs["weight_decay"] == 5e-3
    run.succeed("--stage=evaluate", "--defense_epochs=2")
    assert {r["variant"] for r in run.records()} == names
    done = run("--defenses=nfgsm(shar=1)", "--defense_epochs=2")
    assert (
        done.returncode == 1
        and "nfgsm has no setting 'shar': did you mean 'share'? nfgsm accepts eps, share, smoothing, noise, step."
        in one_line(done)
    )
