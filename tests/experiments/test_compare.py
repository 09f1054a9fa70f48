"""`--stage=compare` through the command line, at smoke size."""

import csv
import json

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tfadv.command_line import CommandLine
from tfadv.experiments.session import Session
from tfadv.store.workdir import Workdir

FLAGS = (
    "--stage=compare", "--defenses=rounds,ensemble,nfgsm(share=0.5)", "--rounds=2", "--budget=6000",
    "--attacks=pgd(steps=5)", "--eval_size=32", "--defense_average=0.9",
    "--defense_learning_rate=0.02",
)  # fmt: skip
RECIPES = ["baseline", "control", "rounds(round=1)", "rounds(round=2)", "ensemble", "nfgsm(share=0.5)"]


def history(run, recipe):
    (folder,) = [
        path.parent
        for path in (run.workdir / "models/resnet_tiny").glob("*/manifest.json")
        if json.loads(path.read_text())["inputs"]["recipe"] == recipe
    ]
    return json.loads((folder / "history.json").read_text())


def learning_rates(run, recipe):
    """Those after each epoch."""
    events = EventAccumulator(str(run.workdir / "logs/resnet_tiny" / recipe / "train")).Reload()
    return [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors("learning_rate")]


def test_defenses_are_compared_at_one_budget(smoke, tmp_path):
    run = smoke.copy(tmp_path / "run")
    before = run.dates()
    run.succeed("--overwrite", *FLAGS)
    assert "comparison" in run.rebuilt(before) and "models/resnet_tiny/baseline" not in run.rebuilt(before)
    with open(run.workdir / "comparison/comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["recipe"] for row in rows] == RECIPES
    assert "Defenses at eps 0.03" in (run.workdir / "comparison/report.md").read_text()
    for row in rows:
        assert row["pgd(steps=5)"] and row["gradient masking"]
    with open(run.workdir / "comparison/differences.csv", newline="") as file:
        found = [row for row in csv.DictReader(file) if row["less"] == "baseline"]
    assert [row["recipe"] for row in found if row["images"] == "FGSM"] == RECIPES[1:]
    assert all(float(row["low"]) <= float(row["Δ"]) <= float(row["high"]) for row in found)
    assert {row["n"] for row in found if row["images"] == "pgd(steps=5)"} == {"32"}
    assert "(from counts" not in (run.workdir / "comparison/report.md").read_text()  # all intervals are paired
    assert (run.workdir / "comparison/defenses_resnet_tiny.png").stat().st_size > 5000
    # One batch more would cost more than the budget; the stored samples of training and validation count as well.
    gradients = {recipe: history(run, recipe)["gradients"] for recipe in RECIPES[1:]}
    # A recipe that attacks in each step attacks the validation images as well, ten gradients each.
    attacked = 10 * sum(run.manifest("split")["counts"]["validation"].values())
    assert 6000 - 40 - attacked < gradients["ensemble"] <= 6000
    assert 6000 - 48 - attacked < gradients["nfgsm(share=0.5)"] <= 6000 and 6000 - 32 < gradients["control"] <= 6000
    assert 6000 - 64 < gradients["rounds(round=1)"] + gradients["rounds(round=2)"] <= 6000
    manifests = [run.manifest(f"models/resnet_tiny/{name}")["inputs"] for name in ("baseline", "control")]
    assert [inputs["average"] for inputs in manifests] == [0, 0.9]
    assert [inputs["learning_rate"] for inputs in manifests] == [0.1, 0.02]
    assert 0.015 < max(learning_rates(run, "control")) <= 0.02
    # Earlier results stay in results.json, and name the defense.
    defenses = {record["variant"]: record.get("defense") for record in run.records()}
    assert defenses["nfgsm(share=0.5)"] == "nfgsm(share=0.5)" and defenses["rounds(round=2)"] == "rounds"
    assert defenses["baseline"] is None and defenses["retrained"] == "surrogate"


def test_each_of_many_rounds_trains_on_images_of_its_own(smoke, tmp_path):
    run = smoke.copy(tmp_path / "run")
    flags = ["--defenses=rounds", "--rounds=3", "--round_size=100", "--round_ramp=2"]
    run.succeed("--overwrite", "--stage=evaluate", *flags)
    folders = [f"--workdir={run.workdir}", f"--data_dir={smoke.data_dir}"]
    config = CommandLine(["--flagfile=smoke", *flags, *folders]).config()
    with Workdir(config.workdir, config.fingerprint()) as workdir:
        session = Session(config, workdir)
        sizes, drawn = session.splits.sizes, []
        for number in (1, 2, 3):
            trained = session.trained("resnet_tiny", f"rounds(round={number})")
            (samples,) = trained._samples
            assert session.graph.current(samples) is not None
            counts = workdir.manifest(samples.name)["counts"]
            assert counts == {"train": 100, "validation": round(sizes["validation"] * 100 / sizes["train"])}
            assert samples.surrogate is trained._start
            levels = [min(1, number / 2) * eps for eps in config.epsilons]
            assert workdir.manifest(trained.name)["inputs"]["levels"] == pytest.approx(levels)
            assert trained._training_samples().epsilons == trained._validation_samples().epsilons == (0.0, *levels)
            images = samples.read("train", (0.0,)).images
            order = {image.tobytes(): i for i, image in enumerate(session.splits.images["train"].images)}
            drawn.append({order[image.tobytes()] for image in images})
            assert len(drawn[-1]) == 100
            # The cost is that of all rounds: the stored samples, and one epoch of each image at four levels.
            assert history(run, f"rounds(round={number})")["gradients"] == sum(counts.values()) + 4 * 100 // 32 * 32
            assert trained.training().gradients == number * (sum(counts.values()) + 4 * 100 // 32 * 32)
    assert len(drawn[0] | drawn[1] | drawn[2]) > 190 and drawn[0] != drawn[1] != drawn[2] != drawn[0]
    assert len({record["variant"] for record in run.records()} & {f"rounds(round={n})" for n in (1, 2, 3)}) == 3


def test_all_rounds_of_earlier_commands_are_known(tmp_path, data_dir):
    flags = ["--flagfile=smoke", f"--workdir={tmp_path}", f"--data_dir={data_dir}"]
    config = CommandLine(flags).config()
    with Workdir(config.workdir, config.fingerprint()) as workdir:
        for number in range(1, 13):
            name = f"models/resnet_tiny/rounds_round={number}"
            with workdir.creating(name, {"recipe": f"rounds(round={number})"}, rebuild="", need=0):
                pass
        known = Session(config, workdir)._known
    assert [recipe.round for recipe in known.recipes if recipe.round] == list(range(1, 13))


def test_rounds_between_the_evaluated_ones_are_trained_only(smoke, tmp_path):
    flags = ["--flagfile=smoke", "--defenses=rounds", "--rounds=6", f"--workdir={tmp_path}", "--data_dir=none"]
    config = CommandLine(flags).config()
    with Workdir(config.workdir, config.fingerprint()) as workdir:
        session = Session(config, workdir)
        names = [trained.recipe.name for trained in session.variants if trained.recipe.rounds]
        assert names == [f"rounds(round={number})" for number in (1, 2, 4, 6)]
        assert session.trained("resnet_tiny", names[-1]).inputs()["start"].recipe.name == "rounds(round=5)"


def test_models_to_defend_are_among_the_models(smoke, tmp_path):
    done = smoke.copy(tmp_path / "run")("--defenses=nfgsm", "--defense_models=resnet18")
    assert done.returncode == 1 and "unknown model 'resnet18'" in done.stderr and "Traceback" not in done.stderr


def test_only_the_models_to_defend_are_trained_with_defenses(tmp_path):
    flags = ["--flagfile=smoke", "--models=resnet_tiny,resnet18", "--defenses=nfgsm", "--defense_models=resnet_tiny"]
    config = CommandLine([*flags, f"--workdir={tmp_path}"]).config()
    with Workdir(config.workdir, config.fingerprint()) as workdir:
        variants = [(trained.model, trained.recipe.name) for trained in Session(config, workdir).variants]
    paper = ["baseline", "augmented", "retrained"]
    assert variants == [("resnet_tiny", r) for r in [*paper, "nfgsm"]] + [("resnet18", r) for r in paper]


def test_ensemble_trains_on_the_samples_of_all_surrogates(smoke, tmp_path):
    run = smoke.copy(tmp_path / "run")
    flags = ["--flagfile=smoke", "--surrogate=resnet_tiny,resnet18", "--defenses=ensemble,surrogate"]
    config = CommandLine([*flags, f"--workdir={run.workdir}", "--overwrite"]).config()
    with Workdir(config.workdir, config.fingerprint(), overwrite=True) as workdir:
        session = Session(config, workdir)
        inputs = session.trained("resnet_tiny", "ensemble").inputs()
        names = [inputs[role].surrogate.name for role in ("samples", "samples_1")]
        assert names == ["models/resnet_tiny/baseline", "models/resnet18/baseline"]
        assert inputs["samples"].name != inputs["samples_1"].name
        assert list(session.trained("resnet_tiny", "surrogate").inputs()) == ["split", "start", "samples"]


def test_ensemble_needs_an_even_batch(smoke, tmp_path):
    flags = ("--overwrite", "--stage=retrain", "--defenses=ensemble", "--batch_size=33")
    done = smoke.copy(tmp_path / "run")(*flags)
    assert done.returncode == 1 and "even number of images" in done.stderr and "Traceback" not in done.stderr


def test_a_budget_below_one_image_per_round_is_not_taken_for_no_budget(smoke, tmp_path):
    done = smoke.copy(tmp_path / "run")("--overwrite", "--stage=retrain", "--defenses=rounds", "--budget=2")
    assert done.returncode == 1 and "--budget=2 is too small" in done.stderr and "Traceback" not in done.stderr


def test_a_budget_that_pays_for_no_step_is_refused(smoke, tmp_path):
    done = smoke.copy(tmp_path / "run")("--overwrite", "--stage=compare", "--defenses=surrogate", "--budget=100")
    assert done.returncode == 1 and "--budget=100 is too small" in done.stderr and "Traceback" not in done.stderr
