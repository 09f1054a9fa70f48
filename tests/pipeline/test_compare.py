"""`--stage=compare` through the command line, at smoke size."""

import csv
import json
import types

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.pipeline.conftest import CHEAP
from tfadv.errors import UserError
from tfadv.pipeline import stages, steps
from tfadv.pipeline.training import training_of
from tfadv.specs import folder_name

CONTROL = "control(average=0.9, learning_rate=0.02)"
ROUNDS = ["rounds(average=0.9, learning_rate=0.02, number=1, round=1)"]
FLAGS = (
    "--stage=compare", f"--defenses={CONTROL},{ROUNDS[0].replace(', round=1', '')}", "--budget=6000",
    "--attacks=pgd(steps=5)", "--eval_size=32", CHEAP,
)  # fmt: skip
DEFENSES = ["baseline", CONTROL, *ROUNDS]


def history(run, defense):
    return json.loads((run.workdir / "models/resnet_tiny" / folder_name(defense) / "history.json").read_text())


def learning_rates(run, defense):
    """Those after each epoch."""
    events = EventAccumulator(str(run.workdir / "logs/resnet_tiny" / folder_name(defense) / "train")).Reload()
    return [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors("learning_rate")]


def test_defenses_are_compared_at_one_budget(smoke, tmp_path):
    run = smoke.copy(tmp_path / "run")
    before = run.dates()
    run.succeed("--overwrite", *FLAGS)
    assert "comparison" in run.rebuilt(before) and "models/resnet_tiny/baseline" not in run.rebuilt(before)
    with open(run.workdir / "comparison/comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["defense"] for row in rows] == DEFENSES
    assert "Defenses at eps 0.03" in (run.workdir / "comparison/report.md").read_text()
    for row in rows:
        assert row["pgd(steps=5)"] and row["gradient masking"]
    with open(run.workdir / "comparison/differences.csv", newline="") as file:
        found = [row for row in csv.DictReader(file) if row["less"] == "baseline"]
    assert [row["defense"] for row in found if row["images"] == "FGSM"] == DEFENSES[1:]
    assert all(float(row["low"]) <= float(row["Δ"]) <= float(row["high"]) for row in found)
    assert {row["n"] for row in found if row["images"] == "pgd(steps=5)"} == {"32"}
    assert "(from counts" not in (run.workdir / "comparison/report.md").read_text()  # all intervals are paired
    assert (run.workdir / "comparison/defenses_resnet_tiny.png").stat().st_size > 5000
    # One batch more would cost more than the budget; the stored samples of training and validation count as well.
    gradients = {defense: history(run, defense)["gradients"] for defense in DEFENSES[1:]}
    assert 6000 - 32 < gradients[CONTROL] <= 6000  # test_schedule.py has defenses that attack in each step
    assert 6000 - 64 < gradients[ROUNDS[0]] <= 6000
    folders = [folder_name(name) for name in ("baseline", CONTROL)]
    manifests = [run.manifest(f"models/resnet_tiny/{folder}")["inputs"] for folder in folders]
    assert [inputs["average"] for inputs in manifests] == [0, 0.9]
    assert [inputs["learning_rate"] for inputs in manifests] == [0.1, 0.02]
    assert 0.015 < max(learning_rates(run, CONTROL)) <= 0.02
    # Earlier results stay in results.json.
    assert {record["defense"] for record in run.records()} == {*DEFENSES, "augmented", "retrained"}


def test_each_of_many_rounds_trains_on_images_of_its_own(smoke, tmp_path, started):
    run = smoke.copy(tmp_path / "run")
    flags = ["--defenses=rounds(size=100, ramp=2)"]
    run.succeed("--stage=evaluate", *flags)
    # The results of all rounds stay where a later command names none.
    before = run.records()
    run.succeed("--stage=evaluate", "--defenses=augmented")
    assert run.records() == before and len({record["defense"] for record in before}) == 6
    this = started("--flagfile=smoke", *flags, f"--workdir={run.workdir}", f"--data_dir={smoke.data_dir}")
    sizes, drawn = this.dataset.sizes, []
    for number, defense in enumerate(this.defenses, start=1):
        trained = steps.train(this, "resnet_tiny", defense)
        stored = steps._of_round(this, trained.start, defense)
        assert not this.cache.built and stored.entry.content
        counts = this.workdir.manifest(stored.entry.name)["counts"]
        assert counts == {"train": 100, "validation": round(sizes["validation"] * 100 / sizes["train"])}
        assert stored.source is trained.start
        levels = [min(1, number / 2) * eps for eps in this.config.epsilons]
        assert this.workdir.manifest(trained.entry.name)["inputs"]["levels"] == pytest.approx([0, *levels])
        images = stored.read("train", (0.0,)).images
        order = {image.tobytes(): i for i, image in enumerate(this.dataset.images["train"].images)}
        drawn.append({order[image.tobytes()] for image in images})
        assert len(drawn[-1]) == 100
        # The cost is that of all rounds: the stored samples, and one epoch of each image at four levels.
        assert history(run, defense.label)["gradients"] == sum(counts.values()) + 4 * 100 // 32 * 32
        assert training_of(this, trained).gradients == number * (sum(counts.values()) + 4 * 100 // 32 * 32)
    assert len(drawn[0] | drawn[1] | drawn[2]) > 190 and drawn[0] != drawn[1] != drawn[2] != drawn[0]


def test_rounds_between_the_evaluated_ones_are_trained_only(started, tmp_path):
    this = started("--flagfile=smoke", "--defenses=rounds(number=11)", f"--workdir={tmp_path}")
    assert [defense.round for defense in this.defenses] == list(range(1, 12))
    assert [defense.round for defense in this.defenses if defense.is_evaluated] == [1, 2, 4, 8, 11]
    only = started("--flagfile=smoke", "--defenses=rounds(round=3)", f"--workdir={tmp_path}")
    assert [(defense.round, defense.is_evaluated) for defense in only.defenses] == [(1, True), (2, True), (3, True)]


def test_models_that_a_defense_is_for_are_among_the_models(started, tmp_path):
    with pytest.raises(UserError, match="nfgsm: models=resnet18 is none of --models=resnet_tiny"):
        started("--flagfile=smoke", "--defenses=nfgsm(models=resnet18)", f"--workdir={tmp_path}")


def test_a_defense_may_be_for_some_of_the_models_only(started, tmp_path):
    defenses = "--defenses=augmented,nfgsm(models=resnet_tiny)"
    this = started("--flagfile=smoke", "--models=resnet_tiny,resnet18", defenses, f"--workdir={tmp_path}")
    found = {model: [defense.label for defense in this.defenses_of(model)] for model in this.config.models}
    assert found == {"resnet_tiny": ["baseline", "augmented", "nfgsm"], "resnet18": ["baseline", "augmented"]}


def test_a_defense_is_named_once(started, tmp_path):
    with pytest.raises(UserError, match="names nfgsm twice"):
        started("--flagfile=smoke", "--defenses=nfgsm,nfgsm(noise=2)", f"--workdir={tmp_path}")


def test_an_attack_that_is_named_twice_needs_the_same_sizes(started, tmp_path):
    this = started("--flagfile=smoke", "--attacks=pgd@0.1,pgd(steps=10)@0.1", f"--workdir={tmp_path}")
    assert [attack.label for attack in this.attacks] == ["pgd"] and this.sizes == {"pgd": (0.1,)}
    with pytest.raises(UserError, match="pgd twice, at other sizes"):
        started("--flagfile=smoke", "--attacks=pgd@0.1,pgd(steps=10)", f"--workdir={tmp_path}")


def test_a_size_larger_than_any_two_images_are_apart_is_refused_before_training(started, tmp_path):
    this = started("--flagfile=smoke", "--attacks=pgd,apgd-ce(norm=l1)@2+65", f"--workdir={tmp_path}")
    run = types.SimpleNamespace(attacks=this.attacks, sizes=this.sizes, config=this.config)
    run.dataset = types.SimpleNamespace(shape=(9, 8, 1))
    stages._check_sizes(run)
    run.dataset.shape = (8, 8, 1)
    with pytest.raises(UserError, match=r"apgd-ce\(norm=l1\): eps must be at most 64"):
        stages._check_sizes(run)


def test_a_number_of_pixels_is_not_an_eps_of_the_run(started, tmp_path):
    this = started("--flagfile=smoke", "--attacks=sparse-rs@24", f"--workdir={tmp_path}")
    run = types.SimpleNamespace(attacks=this.attacks, sizes=this.sizes, config=this.config)
    run.dataset = types.SimpleNamespace(shape=(5, 5, 3))
    stages._check_sizes(run)
    run.dataset.shape = (4, 5, 3)
    with pytest.raises(UserError, match="sparse-rs: eps must be at most 20, the pixels of an image; got 24"):
        stages._check_sizes(run)
    run.sizes = {}
    with pytest.raises(UserError, match="a number of pixels: a whole number .* Give sizes of its own after an @"):
        stages._check_sizes(run)


def test_a_size_in_grey_levels_is_refused(started, tmp_path):
    """In L2 it may be larger than 1."""
    assert started("--flagfile=smoke", "--attacks=ddn@2,pgd(norm=l2)@3", f"--workdir={tmp_path}").sizes
    with pytest.raises(UserError, match="pgd has a size above 1"):
        started("--flagfile=smoke", "--attacks=pgd@0.1+8", f"--workdir={tmp_path}")


def test_a_budget_below_one_image_per_round_is_not_taken_for_no_budget(smoke, tmp_path):
    done = smoke.copy(tmp_path / "run")("--overwrite", "--stage=retrain", "--defenses=rounds", "--budget=2")
    assert done.returncode == 1 and "--budget=2 is too small" in done.stderr and "Traceback" not in done.stderr
