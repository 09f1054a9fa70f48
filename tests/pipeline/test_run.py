"""A run in this process: the weights that its models have, and what it reads and lists."""

import collections
import shutil
import types

import numpy as np
import pytest

from tfadv.command_line import CommandLine
from tfadv.datasets.batches import to_float
from tfadv.errors import UserError
from tfadv.models import files
from tfadv.models.compiled import compiled_logits
from tfadv.pipeline import dataset, networks, reporting, stages, steps
from tfadv.pipeline.networks import OwnModel
from tfadv.pipeline.run import Run
from tfadv.pipeline.training import _Job, loaded, schedule
from tfadv.runtime import compilation
from tfadv.store.workdir import Workdir
from tfadv.training import Checkpoints


@pytest.fixture
def run(smoke, started):
    """A run in the folder of the smoke run; it builds nothing."""
    this = started("--flagfile=smoke", f"--workdir={smoke.workdir}", f"--data_dir={smoke.data_dir}")
    yield this
    assert not this.cache.built


@pytest.fixture
def trained(run):
    """Defense → trained model."""
    return {defense.name: steps.train(run, "resnet_tiny", defense) for defense in run.defenses_of("resnet_tiny")}


def job(run, trained):
    """Its training, as if it were to be done."""
    how = schedule(run, trained.defense, trained.network)
    stored = steps.generate(run) if trained.defense.images == "stored" else None
    return _Job(run, trained.model, trained.defense, trained.network, how, trained.start, stored)


def test_loaded_models_have_the_weights_of_their_entry(run, trained, smoke):
    def check(defense, model):
        content = trained["baseline"].network.content(model)
        assert content == smoke.manifest(f"models/resnet_tiny/{defense}")["content"]

    baseline, retrained = trained["baseline"], trained["retrained"]
    with loaded(run, baseline) as first:
        check("baseline", first)
    with loaded(run, retrained) as second:
        assert second is first  # the only instance, with other weights
        check("retrained", second)
    with loaded(run, baseline) as first, loaded(run, retrained) as second, loaded(run, baseline) as third:
        assert len({id(first), id(second), id(third)}) == 3
        for defense, model in (("baseline", first), ("retrained", second), ("baseline", third)):
            check(defense, model)
    with loaded(run, retrained) as again:
        assert again is second  # has these weights already
    with run.lend("resnet_tiny") as one, run.lend("resnet_tiny") as other:
        assert one is not other and one.in_use and other.in_use
    assert not one.in_use and not other.in_use


def test_weights_that_training_changed_are_loaded_again(run, trained, smoke):
    with loaded(run, trained["baseline"]) as model:
        before = files.weights_hash(model)
    with job(run, trained["augmented"])._lend() as built:  # as training does
        assert built.model is model and built.content is None
        built.model.set_weights([np.zeros_like(w) for w in built.model.get_weights()])
    with loaded(run, trained["baseline"]) as model:
        assert files.weights_hash(model) == before


def test_training_starts_from_the_same_initial_weights_however_often_a_model_was_used(run, trained):
    scratch = job(run, trained["baseline"])
    with scratch._lend() as built:
        first = built.model.get_weights()
        built.model.set_weights([w + 1 for w in first])
    with scratch._lend() as built:
        for a, b in zip(built.model.get_weights(), first, strict=True):
            np.testing.assert_array_equal(a, b)


def test_logits_with_and_without_optimized_clones(run, trained):
    images = run.dataset.images["test"].images
    for name in ("baseline", "retrained"):
        with loaded(run, trained[name]) as model:
            fast = compiled_logits(model, to_float(images))
            compilation.configure(accelerate="off")
            try:
                plain = compiled_logits(model, to_float(images))
            finally:
                compilation.configure()
        np.testing.assert_allclose(plain, fast, atol=1e-4)


def test_splits_and_stored_images_share_the_decoded_images(run, trained):
    stored = steps.generate(run)
    from_files = stored.read("train", (0.0, 0.1))  # before the data set is decoded
    splits = run.dataset.images
    pixels = splits["train"].images.array
    assert all(np.shares_memory(split.images.array, pixels) for split in splits.values())
    samples = stored.read("train", (0.0, 0.1))
    assert np.shares_memory(samples.images.array, pixels) and not np.shares_memory(from_files.images, pixels)
    np.testing.assert_array_equal(samples.images, from_files.images)
    assert samples.perturbations.codes.nbytes == samples.images[:].nbytes // 4
    assert np.shares_memory(job(run, trained["retrained"])._training_samples().images.array, pixels)


def test_the_data_folder_is_listed_once_and_each_file_hashed_once(smoke, started, monkeypatch):
    count = collections.Counter()
    listing, identity = dataset._listing, networks.pretrained.identity
    monkeypatch.setattr(dataset, "_listing", lambda name: count.update(["listing"]) or listing(name))
    monkeypatch.setattr(networks.pretrained, "identity", lambda name: count.update(["weights"]) or identity(name))
    monkeypatch.setattr(networks.own, "identity", lambda name: count.update(["model"]) or {"file_sha256": "1"})
    this = started("--flagfile=smoke", f"--workdir={smoke.workdir}", f"--data_dir={smoke.data_dir}")
    own = OwnModel("my.keras", this)
    for _ in range(5):
        own.inputs()
        assert len(steps.all_trained(this)) == 3
    reporting.publish(this)
    assert count == {"listing": 1, "weights": 1, "model": 1} and not this.cache.built


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
    monkeypatch.setattr(stages, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    attacks = [types.SimpleNamespace(label=label, name=label) for label in ("pgd", "autoattack")]

    def step(kind):
        return lambda run, each, *more, **named: done.append(f"{kind(*more, **named)} {each}") or done[-1]

    monkeypatch.setattr(stages.steps, "all_trained", lambda run: ["a", "b", "c"])
    monkeypatch.setattr(stages.steps, "evaluate_fgsm", step(lambda: "fgsm"))
    monkeypatch.setattr(stages.steps, "evaluate_attack", step(lambda attack: attack.label))
    monkeypatch.setattr(stages.extras, "check", step(lambda n: "checks"))
    monkeypatch.setattr(stages, "publish", lambda run: None)
    config = types.SimpleNamespace(
        eval_size=0, shard="", require="", attacked_images=lambda name, n: 100 if name == "autoattack" else n
    )
    this = types.SimpleNamespace(
        config=config, attacks=attacks, compares=True, dataset=types.SimpleNamespace(sizes={"test": 360})
    )
    with caplog.at_level("INFO"):
        found, further = stages._evaluate(this)
    assert done == [f"{kind} {model}" for kind in ("fgsm", "pgd", "autoattack", "checks") for model in "abc"]
    assert found[:3] == ["fgsm a", "pgd a", "autoattack a"] and further == done[-3:]  # as reports have them
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == (
        "of 360 test images, the first ones are attacked: pgd on 360, autoattack on 100; --eval_size=360 attacks all"
    )
    assert lines[1:] == ["2 more models to evaluate like this: at most about 80 s"] * 3


def test_an_unfinished_training_with_other_settings_is_kept(smoke, tmp_path, started):
    workdir = smoke.copy(tmp_path / "run").workdir
    run = started("--flagfile=smoke", f"--data_dir={smoke.data_dir}", f"--workdir={workdir}")
    made_from = run.workdir.manifest("models/resnet_tiny/baseline")["inputs"]
    unfinished = Checkpoints(run.workdir, "checkpoints/resnet_tiny/baseline", made_from | {"seed": 7})
    unfinished.save(5, {}, {})
    steps.all_trained(run)
    assert not run.cache.built and unfinished.exist()
    shutil.rmtree(workdir / "models/resnet_tiny/baseline")
    run.cache._current.clear()
    with pytest.raises(UserError, match=r"resnet_tiny/baseline was made .*\(seed: 7 → 0\): give the earlier ones"):
        steps.train(run, "resnet_tiny", run.first("resnet_tiny"))
    assert unfinished.exist()


def test_hosts_wait_for_each_other_equally_often(smoke, tmp_path):
    """Also where one of them has something to remove."""
    config, waits = CommandLine(["--flagfile=smoke", f"--data_dir={smoke.data_dir}"]).config(), []
    for follower in (True, False):
        with Workdir(smoke.copy(tmp_path / str(follower)).workdir, follower=follower) as workdir:
            leftovers = [workdir.root / name for name in ("checkpoints/resnet_tiny/baseline/a", "parts/surrogate/a")]
            this = Run(config, workdir)
            waits.append(0)

            def wait():
                waits[-1] += 1

            workdir.barrier = wait
            for folder in leftovers:
                folder.mkdir(parents=True)
            for trained in steps.all_trained(this):
                steps.evaluate_fgsm(this, trained)
            assert not this.cache.built and leftovers[0].exists() == follower
    assert waits[0] == waits[1]


def test_records_are_those_of_results_json(run, smoke):
    found = [record.to_dict() for each in steps.all_trained(run) for record in reporting.records(run, each)]
    assert found == smoke.records()


def test_the_results_of_the_smoke_run_are_those_of_this_version(smoke):
    """If they have changed on purpose, raise `tfadv.RESULTS`: then models trained before are trained again."""
    correct = {(r["defense"], r["protocol"], r["eps"]): r["correct"] for r in smoke.records()}
    for defense, clean, strongest in (("baseline", 40, 37), ("augmented", 65, 36), ("retrained", 123, 66)):
        # Another CPU rounds otherwise, which decides a few images.
        assert abs(correct[defense, "clean", None] - clean) <= 12, defense
        assert abs(correct[defense, "whitebox", 0.03] - strongest) <= 12, defense


# ---- what is noticed ------------------------------------------------------------------------------------------------


def network(epsilon=1e-3, activation="relu", scale=1 / 255, seed=None):
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(scale),
            layers.Conv2D(2, 3, kernel_initializer=keras.initializers.HeNormal(seed=seed)),
            layers.BatchNormalization(epsilon=epsilon),
            layers.Activation(activation),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


@pytest.mark.parametrize(
    "change",
    [{"activation": "gelu"}, {"epsilon": 1e-5}, {"scale": 1 / 127.5}, {"seed": 7}],
    ids=lambda c: next(iter(c)),
)
def test_a_changed_network_is_described_otherwise(change):
    assert files.description(network()) == files.description(network())  # whatever numbers Keras gives to its layers
    assert files.description(network(**change)) != files.description(network())


def test_a_changed_network_trains_again_and_a_changed_report_does_not(smoke, tmp_path):
    """Plugins change the code of the network, and of the report, as an edit would."""
    (tmp_path / "leaky.py").write_text(
        "from tfadv.models import resnet\nfrom keras import layers\n"
        "resnet._relu = lambda x, name: layers.LeakyReLU(0.1, name=name)(x)\n"
    )
    (tmp_path / "page.py").write_text(
        "import tfadv.report\ndef more(folder, data):\n    (folder / 'more.txt').write_text('more')\n"
        "tfadv.report.FORMATS.register('more', more)\n"
    )
    run = smoke.copy(tmp_path / "run")
    before = run.dates()
    run.succeed("--plugins=page", cwd=tmp_path)
    assert run.rebuilt(before) == {"report"} and (run.workdir / "report/more.txt").exists()
    refused = run("--plugins=leaky", "--stage=train", cwd=tmp_path)
    assert refused.returncode == 1 and "models/resnet_tiny/baseline was made with other settings" in refused.stderr
    assert "(network" in refused.stderr and "Traceback" not in refused.stderr
    run.succeed("--plugins=leaky", "--stage=train", "--overwrite", cwd=tmp_path)
    assert "models/resnet_tiny/baseline" in run.rebuilt(before)


@pytest.mark.parametrize(
    "defense, made, stored",
    [("nfgsm", "", 0), ("nfgsm", "resnet18", 0), ("nfgsm", "resnet_tiny", 1), ("surrogate", "", 1)],
)
def test_images_are_stored_where_a_defense_needs_them_or_they_exist(
    started, tmp_path, monkeypatch, defense, made, stored
):
    """Those of another surrogate would be made anew, and the surrogate be trained, for nothing."""
    flags = "--dataset=digits", "--models=resnet_tiny", "--surrogate=resnet_tiny"
    run = started(*flags, f"--workdir={tmp_path}", f"--defenses={defense}")
    monkeypatch.setattr(
        run.workdir, "names", lambda: ["split", *(["surrogate/digits_surrogate/1.0.0"] if made else [])]
    )
    monkeypatch.setattr(run.workdir, "manifest", lambda _: {"inputs": {"surrogate": made}})
    assert run.stores_images == bool(stored)
