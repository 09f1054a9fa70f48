"""A session in this process: the weights that its models have, and what it lists."""

import collections
import types

import numpy as np
import pytest

from tfadv.command_line import CommandLine
from tfadv.datasets.batches import to_float
from tfadv.experiments import architectures, dataset_splits, runner
from tfadv.experiments.session import Session
from tfadv.models import files
from tfadv.models.compiled import compiled_logits
from tfadv.runtime import compilation
from tfadv.store.workdir import Workdir


@pytest.fixture
def session(smoke):
    """A session on the folder of the smoke run; it builds nothing."""
    flags = ["--flagfile=smoke", f"--workdir={smoke.workdir}", f"--data_dir={smoke.data_dir}"]
    config = CommandLine(flags).config()
    with Workdir(config.workdir, config.fingerprint()) as workdir:
        session = Session(config, workdir)
        yield session
        assert not session.graph.built


def test_loaded_models_have_the_weights_of_their_artifact(session, smoke):
    def check(recipe, model):
        assert files.weights_hash(model) == smoke.manifest(f"models/resnet_tiny/{recipe}")["content"]

    baseline, retrained = (session.trained("resnet_tiny", recipe) for recipe in ("baseline", "retrained"))
    with baseline.loaded() as first:
        check("baseline", first)
    with retrained.loaded() as second:
        assert second is first  # the only instance, with other weights
        check("retrained", second)
    with baseline.loaded() as first, retrained.loaded() as second, baseline.loaded() as third:
        assert len({id(first), id(second), id(third)}) == 3
        for recipe, model in (("baseline", first), ("retrained", second), ("baseline", third)):
            check(recipe, model)
    with retrained.loaded() as again:
        assert again is second  # has these weights already


def test_weights_that_training_changed_are_loaded_again(session, smoke):
    baseline = session.trained("resnet_tiny", "baseline")
    with baseline.loaded() as model:
        pass
    with session.trained("resnet_tiny", "augmented")._borrow_start() as entry:  # as training does
        assert entry.model is model and entry.content is None
        entry.model.set_weights([np.zeros_like(w) for w in entry.model.get_weights()])
    with baseline.loaded() as model:
        assert files.weights_hash(model) == smoke.manifest("models/resnet_tiny/baseline")["content"]


def test_training_starts_from_the_same_initial_weights_however_often_a_model_was_used(session):
    scratch = session.trained("resnet_tiny", "baseline")
    with scratch._borrow_start() as entry:
        first = entry.model.get_weights()
        entry.model.set_weights([w + 1 for w in first])
    with scratch._borrow_start() as entry:
        for a, b in zip(entry.model.get_weights(), first, strict=True):
            np.testing.assert_array_equal(a, b)


def test_logits_with_and_without_optimized_clones(session):
    images = session.splits.images["test"].images
    for recipe in ("baseline", "retrained"):
        with session.trained("resnet_tiny", recipe).loaded() as model:
            fast = compiled_logits(model, to_float(images))
            compilation.configure(accelerate="off")
            try:
                plain = compiled_logits(model, to_float(images))
            finally:
                compilation.configure()
        np.testing.assert_allclose(plain, fast, atol=1e-4)


def test_splits_and_stored_samples_share_the_decoded_images(session):
    from_files = session.samples.read("train", (0.0, 0.1))  # before the data set is decoded
    splits = session.splits.images
    pixels = splits["train"].images.array
    assert all(np.shares_memory(split.images.array, pixels) for split in splits.values())
    samples = session.samples.read("train", (0.0, 0.1))
    assert np.shares_memory(samples.images.array, pixels) and not np.shares_memory(from_files.images, pixels)
    np.testing.assert_array_equal(samples.images, from_files.images)
    assert samples.perturbations.codes.nbytes == samples.images[:].nbytes // 4
    retrained = session.trained("resnet_tiny", "retrained")._training_samples()
    assert np.shares_memory(retrained.images.array, pixels)


def test_files_are_listed_and_hashed_once(tmp_path, monkeypatch):
    """Every question to the graph asks for these settings."""
    count = collections.Counter()

    def counted(name, answer):
        return lambda *_: count.update([name]) or answer

    monkeypatch.setattr(dataset_splits, "_listing", counted("listing", "files"))
    monkeypatch.setattr(architectures.own, "identity", counted("model", {"file_sha256": "1"}))
    monkeypatch.setattr(architectures.pretrained, "identity", counted("weights", "2"))
    flags = ["--flagfile=smoke", f"--workdir={tmp_path}", "--data_dir=none"]
    config = CommandLine(flags).config()
    with Workdir(config.workdir, config.fingerprint()) as workdir:
        session = Session(config, workdir)
        kinds = [architectures.OwnModel("my.keras", config, session.splits), session._architecture("resnet_tiny")]
        for _ in range(5):
            assert session.splits.settings()["files"] == "files"
            assert [kind.settings()["model"] for kind in kinds] == ["my", "resnet_tiny"]
    assert count == {"listing": 1, "model": 1, "weights": 1}


def test_a_comparison_attacks_few_images_unless_told_otherwise():
    def images(*flags):
        config = CommandLine(["--dataset=digits", *flags]).config()
        return [config.attacked_images(name, 4000) for name in ("pgd", "autoattack")]

    assert images("--stage=compare", "--defenses=nfgsm") == [1000, 100]
    assert images("--stage=compare", "--defenses=nfgsm", "--eval_size=2000") == [2000, 2000]
    assert images("--stage=compare", "--defenses=nfgsm", "--eval_size=9999") == [4000, 4000]
    assert images("--stage=evaluate", "--attacks=pgd,autoattack") == [4000, 4000]


def test_a_first_answer_about_all_models_comes_before_long_attacks(monkeypatch, caplog):
    done, clock = [], iter(range(0, 10_000, 40))
    monkeypatch.setattr(runner, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    attacks = [types.SimpleNamespace(label=label) for label in ("pgd", "autoattack")]
    config = types.SimpleNamespace(
        eval_size=0, stage="compare", shard="", attacked_images=lambda name, n: 100 if name == "autoattack" else n
    )
    session = types.SimpleNamespace(
        config=config,
        variants=["a", "b", "c"],
        attacks=attacks,
        splits=types.SimpleNamespace(sizes={"test": 360}),
        graph=types.SimpleNamespace(ensure=done.append),
        publish=lambda: None,
        fgsm_evaluation=lambda trained: f"fgsm {trained}",
        attack_evaluation=lambda trained, attack: f"{attack.label} {trained}",
        diagnostics=lambda trained: f"checks {trained}",
    )
    for attack in attacks:
        attack.name = attack.label
    with caplog.at_level("INFO"):
        found = runner._evaluate_all(session)
    order = [f"{kind} {model}" for kind in ("fgsm", "pgd", "autoattack", "checks") for model in "abc"]
    assert done == [*"abc", *order] and sorted(found) == sorted(order)
    assert found[:3] == ["fgsm a", "pgd a", "autoattack a"]  # as reports have them
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == (
        "of 360 test images, the first ones are attacked: pgd on 360, autoattack on 100; --eval_size=360 attacks all"
    )
    assert lines[1:] == ["2 more models to evaluate like this: at most about 80 s"] * 3


def test_records_are_those_of_results_json(session, smoke):
    records = [record.to_dict() for trained in session.variants for record in session.records(trained)]
    assert records == smoke.records()
