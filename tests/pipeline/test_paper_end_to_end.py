"""The paper on the embedded digits with the tiny model, as a user runs it."""

import json
import shlex
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tests.pipeline.conftest import CHEAP
from tfadv.command_line import CommandLine

DEFENSES = ("baseline", "augmented", "retrained")
EPSILONS = (0.01, 0.02, 0.03)
STORED = "surrogate/digits_surrogate/1.0.0"


def test_prints_the_accuracies_and_what_comes_next(smoke):
    clean = {r["defense"]: r["accuracy"] for r in smoke.records() if r["protocol"] == "clean"}
    for defense, accuracy in clean.items():
        (line,) = [line.split() for line in smoke.stdout.splitlines() if line.startswith(f"resnet_tiny  {defense}")]
        assert line[2] == f"{100 * accuracy:.2f}"
    for words in ("Mean change in accuracy", "12 new results", f"Report: {smoke.workdir / 'report/report.html'}"):
        assert words in smoke.stdout
    # The command that it names runs.
    command = shlex.split(smoke.stdout.splitlines()[-1].split(": tfadv ")[1])
    assert CommandLine(command).config().attacks == "pgd(steps=20)"
    text = (smoke.workdir / "report/report.md").read_text()
    assert all(f"Table {number}" in text for number in range(1, 5))


def test_results_contain_every_record_once(smoke):
    records = smoke.records()
    keys = {
        "dataset", "model", "defense", "protocol", "source", "attack", "eps", "accuracy", "interval", "correct", "n",
        "settings", "cost", "seed",
    }  # fmt: skip
    for r in records:
        assert set(r) == keys
    expected = {
        (defense, protocol, eps)
        for defense in DEFENSES
        for protocol, sizes in (("clean", [None]), ("whitebox", EPSILONS), ("transfer", EPSILONS))
        for eps in sizes
    }
    assert sorted(map(str, expected)) == sorted(str((r["defense"], r["protocol"], r["eps"])) for r in records)
    assert all(r["n"] == 360 and r["accuracy"] == r["correct"] / r["n"] for r in records)
    # On the surrogate itself, the stored images are those of the white-box attack.
    own = {(r["protocol"], r["eps"]): r["correct"] for r in records if r["defense"] == "baseline"}
    assert all(own["transfer", e] == own["whitebox", e] for e in EPSILONS)
    assert {r["source"] for r in records if r["protocol"] == "transfer"} == {"resnet_tiny/baseline"}


def test_accuracies_equal_an_independent_count(smoke, digits):
    """From the files alone, with Keras, numpy and TFDS."""
    rows = json.loads((smoke.workdir / "split/splits.json").read_text())["test"]
    x, labels = digits.images[rows].astype("float32") / np.float32(255), digits.labels[rows]
    builder = tfds.builder_from_directory(smoke.workdir / STORED)
    stored = np.stack([e["perturbation"] for e in builder.as_dataset(split="test").as_numpy_iterator()])
    for defense in ("baseline", "retrained"):
        model = keras.models.load_model(smoke.workdir / f"models/resnet_tiny/{defense}/model.keras")
        with tf.GradientTape() as tape:
            images = tf.Variable(x)
            loss = keras.losses.sparse_categorical_crossentropy(labels, model(images, training=False), from_logits=True)
        signs = np.sign(tape.gradient(loss, images))
        clean = model.predict(x, verbose=0).argmax(1) == labels
        for record in (r for r in smoke.records() if r["defense"] == defense):
            p = {"clean": 0 * x, "whitebox": signs, "transfer": stored / np.float32(127)}[record["protocol"]]
            adversarial = np.clip(x + np.float32(record["eps"] or 0) * p, 0, 1)
            correct = clean & (model.predict(adversarial, verbose=0).argmax(1) == labels)
            assert abs(int(correct.sum()) - record["correct"]) <= 1  # rounding may decide one image


def test_splits_are_complete_and_the_samples_follow_them(smoke):
    record = json.loads((smoke.workdir / "split/splits.json").read_text())
    assert [len(record[split]) for split in ("train", "validation", "test")] == [320, 180, 360]
    assert len({row for split in ("train", "validation", "test") for row in record[split]}) == 860
    builder = tfds.builder_from_directory(smoke.workdir / STORED)
    for split in ("train", "validation", "test"):
        assert [int(e["id"]) for e in builder.as_dataset(split=split).as_numpy_iterator()] == record[split]


def test_augmented_and_retrained_make_equally_many_steps(smoke):
    steps = {}
    for defense in DEFENSES:
        history = json.loads((smoke.workdir / f"models/resnet_tiny/{defense}/history.json").read_text())
        steps[defense] = history["steps"]
    balanced = 10 * min(smoke.manifest("split")["counts"]["train"].values())
    assert steps == {"baseline": 2 * (320 // 32), "augmented": 4 * balanced // 32, "retrained": 4 * balanced // 32}


def test_manifest_of_the_samples(smoke):
    manifest = smoke.manifest(STORED)
    assert manifest["inputs"]["weights"] == smoke.manifest("models/resnet_tiny/baseline")["content"]
    assert manifest["counts"] == {"train": 320, "validation": 180, "test": 360}
    assert manifest["dataset"] == "digits/1.0.0" and manifest["epsilons"] == list(EPSILONS)
    assert manifest["versions"]["tensorflow"]


def test_report_has_tables_and_plots(smoke):
    report = smoke.workdir / "report"
    text = (report / "report.md").read_text()
    for name in ("accuracy_resnet_tiny.png", "examples.png"):
        assert name in text and (report / name).read_bytes().startswith(b"\x89PNG")
    assert {p.name for p in report.glob("*.csv")} == {f"table{i}.csv" for i in range(1, 5)} | {
        "transfer.csv",
        "differences.csv",
    }


def test_a_second_call_does_nothing(smoke):
    before = smoke.dates()
    assert "nothing to do" in smoke.succeed()
    assert not smoke.rebuilt(before)


def test_unfinished_work_leaves_nothing_behind(smoke):
    assert not [path for path in smoke.workdir.rglob("*") if path.name.startswith((".tmp-", ".scratch-"))]
    assert not [
        path for name in ("parts", "checkpoints") for path in (smoke.workdir / name).rglob("*") if path.is_file()
    ]


def test_attacks_with_their_worst_case_transfer_matrix_and_checks(smoke, tmp_path, long):
    run = smoke.copy(tmp_path / "run")
    before = run.dates()
    attacks = "--attacks=fgsm,pgd(steps=5),bim(steps=2)@0.2,mifgsm(steps=2,scales=2)@0.2"
    flags = [attacks, "--eval_size=48", "--defenses=augmented", *([] if long else [CHEAP])]
    stdout = run.succeed(*flags)
    assert "pgd(steps=5), eps 0.03" in stdout and stdout.endswith("--defenses=augmented,nfgsm\n")
    text = (run.workdir / "report/report.md").read_text()
    for words in ("pgd(steps=5)", "worst", "ransfer matrix", "checks for gradient masking passed"):
        assert words in text, words
    rows = [json.loads(path.read_text()) for path in (run.workdir / "transfers").rglob("transfer.json")]
    found = {label for row in rows for label in row["attack"].values()}
    assert len(rows) == 2 and found <= {"pgd(early_stop=false)", "mifgsm(early_stop=false, scales=2, steps=2)"}
    # A later report keeps what belongs to the present settings.
    run.succeed("--stage=report", "--defenses=augmented")
    text = (run.workdir / "report/report.md").read_text()
    assert "best transfer" in text and "checks for gradient masking passed" in text
    assert not {
        name for name in run.rebuilt(before) if name.startswith(("models", "surrogate", "evaluations", "split"))
    }
    attacked = {(r["defense"], r["attack"], r["eps"]): r for r in run.records() if r["settings"]}
    own = [attacked.pop((defense, attack, 0.2)) for defense in DEFENSES[:2] for attack in ("bim", "mifgsm")]
    assert [record["label"] for record in own] == 2 * ["bim(steps=2)", "mifgsm(scales=2, steps=2)"]
    assert len(attacked) == 2 * 3 * 3
    for (defense, attack, eps), record in attacked.items():
        assert record["n"] == 48 and record["interval"][0] <= record["accuracy"] <= record["interval"][1]
        if attack == "worst":
            assert record["correct"] <= min(attacked[defense, a, eps]["correct"] for a in ("fgsm", "pgd"))
        else:
            assert record["cost"]["gradients_per_image"] > 0
    for defense in DEFENSES[:2]:  # FGSM as an attack equals the FGSM of the tables
        with np.load(run.workdir / f"evaluations/resnet_tiny/{defense}/whitebox_correct.npz") as arrays:
            robust = (arrays["clean"] & arrays["adversarial"])[:, :48].sum(axis=1)
        assert [attacked[defense, "fgsm", e]["correct"] for e in EPSILONS] == robust.tolist()
    assert {r["label"] for r in run.records() if r["attack"] == "pgd"} == {"pgd(steps=5)"}
    assert "nothing to do" in run.succeed(*flags, "--stage=evaluate")
    # Another attack of the same name is an entry of its own; the report shows both.
    before = run.dates()
    run.succeed("--attacks=pgd(steps=5,restarts=2)", *flags[1:], "--stage=evaluate")
    assert {name.split("/")[0] for name in run.rebuilt(before)} == {"attacks", "transfers"}
    labels = {r.get("label") for r in run.records() if r["attack"] == "pgd"}
    assert labels == {"pgd(steps=5)", "pgd(restarts=2, steps=5)"}


def test_another_setting_is_refused_and_named(smoke):
    refused = smoke("--batch_size=31")
    assert refused.returncode == 1 and "batch_size: 32 → 31" in refused.stderr and "--overwrite" in refused.stderr
    assert "models/resnet_tiny/baseline was made with other settings" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_setting_that_concerns_nothing_in_the_folder_is_accepted(smoke, tmp_path):
    run = smoke.copy(tmp_path / "run")
    before = run.dates()
    assert "nothing to do" in run.succeed("--retrain_epochs=7", "--stage=train", "--budget=5", "--eval_size=9")
    assert not run.rebuilt(before)


def test_overwrite_keeps_what_does_not_depend_on_the_setting(smoke, tmp_path):
    run = smoke.copy(tmp_path / "run")
    before = run.dates()
    run.succeed("--epsilons=0.05", "--overwrite", "--stage=attack")
    assert run.rebuilt(before) == {"evaluations/resnet_tiny/baseline"}
    assert {r["eps"] for r in run.records()} == {None, 0.05} and {r["defense"] for r in run.records()} == {"baseline"}


def test_the_same_seed_gives_the_same_weights_also_with_images_on_the_disk(smoke, tmp_path):
    again = type(smoke)(tmp_path / "run", smoke.data_dir)
    again.forked = False  # another seed of `hash`, another layout of the memory
    (tmp_path / "on_disk.py").write_text("from tfadv.datasets import storage\nstorage.MEMORY_SHARE = 0\n")
    again.succeed("--stage=retrain", "--plugins=on_disk", cwd=tmp_path)
    assert not [path for path in again.workdir.iterdir() if path.name.startswith("tmp")]  # the files had no name
    for defense in ("baseline", "retrained"):
        name = f"models/resnet_tiny/{defense}"
        assert again.manifest(name)["content"] == smoke.manifest(name)["content"]
    assert not (again.workdir / "models/resnet_tiny/augmented").exists() and not (again.workdir / "report").exists()


def test_a_damaged_tfrecord_file_is_one_clear_line(smoke, tmp_path):
    run = smoke.copy(tmp_path / "run")
    shutil.rmtree(run.workdir / "models/resnet_tiny/retrained")
    file = next(run.workdir.rglob("*train.tfrecord-*"))
    file.write_bytes(file.read_bytes()[:-5])
    failed = run()
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert file.name in failed.stderr and "--stage=generate" in failed.stderr
    shutil.rmtree(file.parent)  # as the message says
    run.succeed()
    assert run.records() == smoke.records()


def test_a_diverged_run_ends_with_one_line_and_keeps_the_last_good_weights(smoke, tmp_path):
    run = type(smoke)(tmp_path / "run", smoke.data_dir)
    failed = run("--stage=train", "--learning_rate=1e20")
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert "no longer finite" in failed.stderr and "There is no earlier checkpoint." in failed.stderr
    # The first steps are small: the weights after one of them are saved.
    (tmp_path / "often.py").write_text("from tfadv.training import trainer\ntrainer.CHECKPOINT_SECONDS = -1\n")
    flags = ("--plugins=often", "--batch_size=2", "--learning_rate=1e3", "--overwrite")
    failed = run("--stage=train", *flags, cwd=tmp_path)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr, failed.stderr
    path = run.workdir / "checkpoints/resnet_tiny/baseline/last_good.keras"
    assert f"(now 1000) and --overwrite. The last good weights are in {path}." in failed.stderr
    assert all(np.isfinite(w).all() for w in keras.models.load_model(path).get_weights())


def test_a_network_that_has_not_learned_is_named(smoke, tmp_path):
    done = type(smoke)(tmp_path / "poor", smoke.data_dir)("--learning_rate=1e-5", "--epochs=1", "--stage=train")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resnet_tiny baseline has not learned: it classifies" in done.stderr
    counts = smoke.manifest("split")["counts"]["test"].values()
    share = max(counts) / sum(counts)
    limit = share + 0.1 * (1 - share)
    named = next(line for line in smoke.stdout.splitlines() if line.startswith("Hardly better"))
    clean = {record["defense"]: record["accuracy"] for record in smoke.records() if record["protocol"] == "clean"}
    assert (
        {defense for defense in clean if f"/{defense}" in named} == {r for r in clean if clean[r] < limit} < set(clean)
    )


@pytest.mark.long
def test_evaluation_without_optimized_clones_gives_the_same_figures(smoke, tmp_path):
    run = smoke.copy(tmp_path / "run")
    for name in ("surrogate", "evaluations"):
        shutil.rmtree(run.workdir / name)
    run.variables = {"TFADV_ACCELERATE": "off"}
    run.succeed("--stage=evaluate")
    assert run.manifest("models/resnet_tiny/baseline") == smoke.manifest("models/resnet_tiny/baseline")
    key = ("defense", "protocol", "eps")
    counts = [{tuple(r[k] for k in key): r["correct"] for r in s.records()} for s in (smoke, run)]
    assert counts[0].keys() >= counts[1].keys() and len(counts[1]) >= 7
    for name, count in counts[1].items():
        if name[0] == "baseline":  # the others are trained on the stored samples, which may differ in a sign
            assert abs(count - counts[0][name]) <= 1, name


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("mnist", marks=pytest.mark.long),
        pytest.param("cifar10", marks=pytest.mark.long),
        pytest.param("cats_vs_dogs", marks=pytest.mark.long),
        pytest.param("oxford_iiit_pet", marks=pytest.mark.long),  # test_official_split.py has it as well
    ],
)
def test_real_images_from_prepare_to_retrain(real_data, smoke, tmp_path, name):
    run = type(smoke)(tmp_path / "run", real_data)
    flags = (f"--dataset={name}", "--train_size=200", "--epochs=1")
    run.succeed("--stage=retrain", *flags)
    baseline, retrained = (run.manifest(f"models/resnet_tiny/{defense}") for defense in ("baseline", "retrained"))
    assert (run.workdir / "models/resnet_tiny/retrained/model.keras").exists()
    assert retrained["inputs"]["start"] == baseline["content"]
