"""results.json and the report hold what belongs to the present settings, and all of it."""

import json

import pytest

from tests.faults.harness import one_line
from tfadv.pipeline import reporting, steps

DEFENSE = """
import dataclasses
from tfadv.defenses import DEFENSES
from tfadv.defenses.base import Defense

@dataclasses.dataclass(frozen=True)
class More(Defense):
    '''Further training.'''

DEFENSES.register("{name}", More)
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
    assert {(r["defense"], r["seed"]) for r in run.records()} == {("baseline", 1)}


def test_what_calls_itself_otherwise_is_refused(tmp_path, smoke):
    (tmp_path / "mine.py").write_text(ATTACK)
    done = smoke("--plugins=mine", "--attacks=my-attack", "--eval_size=24", cwd=tmp_path)
    assert done.returncode == 1 and "its property `name` is 'mine'" in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "more.py").write_text(DEFENSE.format(name="other"))
    done = smoke("--plugins=more", "--defenses=other", f"--workdir={tmp_path / 'new'}", cwd=tmp_path)
    assert done.returncode == 1 and "more: the name of the class must be the name" in one_line(done)


def test_any_number_of_training_images_can_be_kept(tmp_path, smoke):
    """1,255 of 1,257: fewer are left out than there are classes."""
    done = smoke("--train_size=1255", "--stage=prepare", f"--workdir={tmp_path / 'new'}")
    assert done.returncode == 0, done.stderr


def test_flags_of_a_run_can_be_repeated_without_overwriting(smoke, tmp_path):
    run = smoke.copy(tmp_path / "run")
    run.succeed("--overwrite", "--stage=prepare")
    flags = (run.workdir / "flags.txt").read_text().splitlines()
    assert "--nooverwrite" in flags and "--seed=0" in flags


@pytest.mark.long
def test_the_state_of_an_unfinished_attack_is_not_continued_with_xla(smoke, tmp_path):
    """Outside XLA, images leave the batch: the shapes differ, and the results agree."""
    run = smoke.copy(tmp_path / "run")
    scratch = run.workdir / "parts/attacks/resnet_tiny/baseline/pgd/.scratch-00000"
    run.succeed("--attacks=pgd", "--eval_size=24", "--stage=evaluate")
    assert not scratch.exists()
    records = [r for r in run.records() if r["attack"] == "pgd"]
    other = smoke.copy(tmp_path / "other")
    other.variables = {"TFADV_XLA": "true"}
    other.forked = False  # the variable is read at the start
    other.succeed("--attacks=pgd", "--eval_size=24", "--stage=evaluate")
    for a, b in zip(records, [r for r in other.records() if r["attack"] == "pgd"], strict=True):
        assert abs(a["correct"] - b["correct"]) <= 1
    inputs = json.loads((run.workdir / "attacks/resnet_tiny/baseline/pgd/manifest.json").read_text())["inputs"]
    assert "xla" not in inputs


def test_fewer_images_do_not_undo_the_result_of_more(smoke, tmp_path, started):
    flags = "--flagfile=smoke", f"--data_dir={smoke.data_dir}", f"--workdir={smoke.copy(tmp_path / 'run').workdir}"

    def evaluated(attacks, images):
        """(attack, number of images) of each result, and whether anything was computed."""
        run = started(*flags, f"--attacks={attacks}", f"--eval_size={images}")
        baseline = steps.train(run, "resnet_tiny", run.first("resnet_tiny"))
        for attack in run.attacks:
            steps.evaluate_attack(run, baseline, attack)
        return {(r.attack, r.n) for r in reporting.records(run, baseline) if r.settings}, bool(run.cache.built)

    assert evaluated("pgd(steps=2)", 40) == ({("pgd", 40), ("worst", 40)}, True)
    assert evaluated("pgd(steps=2),bim(steps=2)", 24) == ({("pgd", 40), ("bim", 24), ("worst", 24)}, True)
    assert evaluated("pgd(steps=2)", 8) == ({("pgd", 40), ("bim", 24), ("worst", 40)}, False)


def test_defenses_with_settings_are_trained_evaluated_and_kept(smoke, tmp_path):
    run = smoke.copy(tmp_path / "run")
    (tmp_path / "more.py").write_text(DEFENSE.format(name="more"))
    defenses = "--defenses=nfgsm(epochs=2, share=0.5),more(epochs=1)"
    run.succeed("--plugins=more", defenses, "--stage=evaluate", cwd=tmp_path)
    names = {"baseline", "augmented", "retrained", "more(epochs=1)", "nfgsm(epochs=2, share=0.5)"}
    assert {r["defense"] for r in run.records()} == names
    (folder,) = (run.workdir / "models/resnet_tiny").glob("nfgsm_epochs=2_share=0.5-*")
    history = json.loads((folder / "history.json").read_text())["history"]
    assert len(history["val_robust_accuracy"]) == 2
    inputs = run.manifest(f"models/resnet_tiny/{folder.name}")["inputs"]
    assert inputs["eps"] == 0.03 and inputs["weight_decay"] == 5e-3 and inputs["share_of"] == 2
    assert "nothing to do" in run.succeed("--plugins=more", "--stage=evaluate", cwd=tmp_path)
    assert {r["defense"] for r in run.records()} == names
    done = run("--defenses=nfgsm(shar=1)")
    assert (
        done.returncode == 1
        and "nfgsm has no setting 'shar': did you mean 'share'? nfgsm accepts epochs, learning_rate, optimizer, weight_"
        in one_line(done)
    )
