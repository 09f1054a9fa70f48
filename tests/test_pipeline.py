"""The whole road on the embedded digits with the tiny model, in processes of their own, as a user runs it."""

import json
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

ROOT = pathlib.Path(__file__).parents[1]


def tfadv(*arguments, cwd=ROOT):
    command = [sys.executable, "-m", "tfadv.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, data_dir):
    """(run, workdir, first): the smoke flagfile on an empty folder; `run` repeats it with more flags."""
    workdir = tmp_path_factory.mktemp("runs") / "smoke"

    def run(*more):
        return tfadv("--flagfile=flags/smoke.flags", f"--workdir={workdir}", f"--data_dir={data_dir}", *more)

    first = run()
    assert first.returncode == 0, first.stderr
    return run, workdir, first


def test_prints_the_four_tables_and_the_gain(smoke):
    for words in ("Table 1", "Table 2", "Table 3", "Table 4", "Mean gain", "points"):
        assert words in smoke[2].stdout


def test_results_have_every_record_of_the_schema_once(smoke):
    records = json.loads((smoke[1] / "results.json").read_text())
    keys = {
        "dataset", "model", "variant", "protocol", "source", "attack", "eps", "accuracy", "interval", "correct", "n",
        "settings", "cost", "seed",
    }  # fmt: skip
    assert all(set(r) == keys for r in records)
    expected = {
        (variant, protocol, eps)
        for variant in ("baseline", "augmented", "retrained")
        for protocol, sizes in (("clean", [None]), ("whitebox", [0.01, 0.02, 0.03]), ("transfer", [0.01, 0.02, 0.03]))
        for eps in sizes
    }
    assert sorted(map(str, expected)) == sorted(str((r["variant"], r["protocol"], r["eps"])) for r in records)
    assert all(r["n"] == 360 and r["accuracy"] == r["correct"] / r["n"] for r in records)
    # On the surrogate itself, the stored images are the white-box attack's.
    own = {(r["protocol"], r["eps"]): r["correct"] for r in records if r["variant"] == "baseline"}
    assert all(own["transfer", e] == own["whitebox", e] for e in (0.01, 0.02, 0.03))
    assert {r["source"] for r in records if r["protocol"] == "transfer"} == {"resnet_tiny/baseline"}


def test_stored_accuracies_are_those_of_an_independent_count(smoke, digits):
    """From the files alone: plain Keras, numpy and TFDS; nothing of what the pipeline counted with."""
    workdir = smoke[1]
    rows = json.loads((workdir / "split" / "division.json").read_text())["test"]
    x, labels = digits.images[rows].astype("float32") / np.float32(255), digits.labels[rows]
    builder = tfds.builder_from_directory(workdir / "surrogate/digits_surrogate/1.0.0")
    stored = np.stack([e["perturbation"] for e in builder.as_dataset(split="test").as_numpy_iterator()])
    for variant in ("baseline", "retrained"):
        model = keras.models.load_model(workdir / f"models/resnet_tiny/{variant}/model.keras")
        with tf.GradientTape() as tape:
            images = tf.Variable(x)
            loss = keras.losses.sparse_categorical_crossentropy(labels, model(images, training=False), from_logits=True)
        own = np.sign(tape.gradient(loss, images))
        clean = model.predict(x, verbose=0).argmax(1) == labels
        for record in json.loads((workdir / "results.json").read_text()):
            if record["variant"] == variant:
                signs = {"clean": 0 * x, "whitebox": own, "transfer": stored / np.float32(127)}[record["protocol"]]
                attacked = np.clip(x + np.float32(record["eps"] or 0) * signs, 0, 1)
                right = clean & (model.predict(attacked, verbose=0).argmax(1) == labels)
                assert abs(int(right.sum()) - record["correct"]) <= 1  # rounding may turn an image on the edge


def test_division_is_complete_and_the_samples_follow_it(smoke):
    division = json.loads((smoke[1] / "split" / "division.json").read_text())
    assert [len(division[p]) for p in ("train", "validation", "test")] == [320, 180, 360]
    builder = tfds.builder_from_directory(smoke[1] / "surrogate" / "digits_surrogate" / "1.0.0")
    for part in ("train", "validation", "test"):
        assert [int(e["id"]) for e in builder.as_dataset(split=part).as_numpy_iterator()] == division[part]


def test_steps_are_those_of_the_same_budget(smoke):
    steps = {}
    for variant in ("baseline", "augmented", "retrained"):
        folder = smoke[1] / "models" / "resnet_tiny" / variant
        steps[variant] = json.loads((folder / "history.json").read_text())["steps"]
    images = 10 * min(json.loads((smoke[1] / "split" / "manifest.json").read_text())["counts"]["train"].values())
    assert steps == {"baseline": 2 * (320 // 32), "augmented": 4 * images // 32, "retrained": 4 * images // 32}


def test_manifest_of_the_samples_names_their_origin(smoke):
    manifest = json.loads((smoke[1] / "surrogate/digits_surrogate/1.0.0/manifest.json").read_text())
    model = json.loads((smoke[1] / "models/resnet_tiny/baseline/manifest.json").read_text())
    assert manifest["inputs"]["weights"] == model["content"]
    assert manifest["counts"] == {"train": 320, "validation": 180, "test": 360}
    assert manifest["dataset"] == "digits/1.0.0" and manifest["epsilons"] == [0.01, 0.02, 0.03]
    assert manifest["versions"]["tensorflow"]


def test_report_has_tables_and_pictures(smoke):
    report = smoke[1] / "report"
    text = (report / "report.md").read_text()
    for name in ("accuracy_resnet_tiny.png", "examples.png"):
        assert name in text and (report / name).read_bytes().startswith(b"\x89PNG")
    assert {p.name for p in report.glob("*.csv")} == {f"table{i}.csv" for i in range(1, 5)} | {"transfer.csv"}


def test_stronger_attacks_are_added_with_their_worst_case_matrix_and_verdict(smoke, tmp_path):
    run, workdir, _ = smoke
    shutil.copytree(workdir, tmp_path / "run")
    flags = ["--attacks=fgsm,pgd", "--eval_size=48", f"--workdir={tmp_path / 'run'}"]
    done = run(*flags, "--stage=all")
    assert done.returncode == 0, done.stderr
    for words in ("Attacks. Accuracy", "worst of fgsm, pgd", "Transfer matrix", "checks for masked gradients"):
        assert words in done.stdout
    records = json.loads((tmp_path / "run/results.json").read_text())
    found = {(r["variant"], r["attack"], r["eps"]): r for r in records if r["settings"]}
    assert len(found) == 3 * 3 * 3
    for (variant, attack, eps), record in found.items():
        assert record["n"] == 48 and record["interval"][0] <= record["accuracy"] <= record["interval"][1]
        if attack == "worst":
            assert record["correct"] <= min(found[variant, a, eps]["correct"] for a in ("fgsm", "pgd"))
        else:
            assert record["cost"]["gradients_per_image"] > 0
    # An image that is wrong unattacked is left alone, so FGSM costs a gradient for each eps of the others at most.
    hits = np.load(tmp_path / "run/evaluations/resnet_tiny/retrained/hits.npy")[:, :48]
    assert [found["retrained", "fgsm", e]["correct"] for e in (0.01, 0.02, 0.03)] == hits[1:4].sum(1).tolist()
    # What was there is left alone, and a call without attacks is not troubled by them.
    assert (tmp_path / "run/models/resnet_tiny/baseline/manifest.json").stat().st_mtime_ns == (
        (workdir / "models/resnet_tiny/baseline/manifest.json").stat().st_mtime_ns
    )
    again = run(*flags, "--stage=evaluate")
    assert again.returncode == 0 and "nothing to do" in again.stdout


def test_second_call_does_nothing_and_says_so(smoke):
    run, workdir, _ = smoke
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*.keras")} | {
        p: p.stat().st_mtime_ns for p in workdir.rglob("manifest.json")
    }
    second = run()
    assert second.returncode == 0 and "nothing to do" in second.stdout
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())


def test_another_setting_is_refused_and_names_the_field(smoke):
    refused = smoke[0]("--batch_size=31")
    assert refused.returncode == 1 and "batch_size: 32 → 31" in refused.stderr and "--overwrite" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_same_seed_gives_the_same_weights(smoke, tmp_path, data_dir):
    again = tfadv("--flagfile=flags/smoke.flags", f"--workdir={tmp_path}", f"--data_dir={data_dir}", "--stage=retrain")
    assert again.returncode == 0
    for variant in ("baseline", "retrained"):
        old, new = (
            json.loads((root / "models/resnet_tiny" / variant / "manifest.json").read_text())["content"]
            for root in (smoke[1], tmp_path)
        )
        assert old == new
    assert not (tmp_path / "models/resnet_tiny/augmented").exists() and not (tmp_path / "report").exists()


def test_damaged_shard_is_one_clear_line(smoke, tmp_path, data_dir):
    copy = tmp_path / "copy"
    shutil.copytree(smoke[1], copy)
    shutil.rmtree(copy / "models/resnet_tiny/retrained")
    shard = next(copy.rglob("*train.tfrecord-*"))
    shard.write_bytes(shard.read_bytes()[:-5])
    broken = tfadv("--flagfile=flags/smoke.flags", f"--workdir={copy}", f"--data_dir={data_dir}")
    assert broken.returncode == 1 and "Traceback" not in broken.stderr
    assert shard.name in broken.stderr and "--stage=generate" in broken.stderr
    shutil.rmtree(shard.parent)  # the way out it names
    mended = tfadv("--flagfile=flags/smoke.flags", f"--workdir={copy}", f"--data_dir={data_dir}")
    assert mended.returncode == 0
    assert np.array_equal((smoke[1] / "results.json").read_bytes(), (copy / "results.json").read_bytes())


def test_a_lost_loss_ends_in_one_line_and_keeps_what_was_good(smoke, tmp_path):
    run, workdir, _ = smoke
    flags = ["--stage=train", f"--workdir={tmp_path / 'run'}", "--learning_rate=1e20"]
    answer = run(*flags)
    assert answer.returncode == 1 and "Traceback" not in answer.stderr
    assert "no longer finite" in answer.stderr and "There is no checkpoint from before." in answer.stderr
    # The first steps are small: with one of them saved, its weights come back.
    answer = run(*flags, "--checkpoint_steps=1", "--batch_size=2", "--learning_rate=1e3", "--overwrite")
    assert answer.returncode == 1 and "Traceback" not in answer.stderr, answer.stderr
    kept = tmp_path / "run/checkpoints/resnet_tiny/baseline/last_good.keras"
    assert f"The last good weights are in {kept}." in answer.stderr
    model = keras.models.load_model(kept)
    assert all(np.isfinite(w).all() for w in model.get_weights())


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--dataset=cifar"], "did you mean 'cifar10'"),
        (["--stage=trian"], "did you mean 'train'"),
        (["--epsilons=0.1,x"], "could not convert"),
        (["--epsilons=-1"], "above 0"),
        (["--models=resnet19"], "unknown model"),
        (["--attacks=pdg"], "did you mean 'pgd'"),
        (["--shard=2/2", "--stage=evaluate"], "from 0 to n - 1"),
        (["--epochs=many"], "epochs"),
        (["--no_such_flag"], "Unknown command line flag"),
        (["stray"], "unexpected argument"),
        (["--workdir=/proc/none"], "can't write to the work folder"),
    ],
)
def test_bad_input_is_answered_without_traceback(arguments, words, tmp_path):
    answer = tfadv(*arguments, cwd=ROOT)
    assert answer.returncode != 0 and words in answer.stderr + answer.stdout
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    "name, start",
    [
        pytest.param("mnist", "baseline", marks=pytest.mark.long),
        ("cifar10", "scratch"),
        pytest.param("cats_vs_dogs", "baseline", marks=pytest.mark.long),
        ("oxford_iiit_pet", "baseline"),
    ],
)
def test_real_images_from_prepare_to_retrain(real_data, tmp_path, name, start):
    answer = tfadv(
        f"--dataset={name}", "--stage=retrain", f"--data_dir={real_data}", f"--workdir={tmp_path}", "--train_size=200",
        "--models=resnet_tiny", "--surrogate=resnet_tiny", "--epochs=1", "--retrain_epochs=1", "--batch_size=32",
        f"--retrain_from={start}",
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "models/resnet_tiny/retrained/model.keras").exists()
    baseline, retrained = (
        json.loads((tmp_path / f"models/resnet_tiny/{variant}/manifest.json").read_text())
        for variant in ("baseline", "retrained")
    )
    assert retrained["inputs"]["start"] == (baseline["content"] if start == "baseline" else "scratch")
