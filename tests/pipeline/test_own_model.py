"""A model and images that tfadv did not make, from their files through the command line to a hardened file."""

import contextlib
import hashlib
import importlib
import json
import os
import pathlib
import types

import keras
import numpy as np
import pytest
from PIL import Image

from tests import commands
from tests.pipeline.conftest import CHEAP
from tfadv.command_line import CommandLine
from tfadv.datasets import sources
from tfadv.errors import UserError
from tfadv.models import own
from tfadv.paper import Augmented
from tfadv.pipeline import steps
from tfadv.pipeline.networks import OwnModel
from tfadv.pipeline.training import _Job, schedule
from tfadv.specs import folder_name

ROOT = pathlib.Path(__file__).parents[2]
NFGSM = "nfgsm(epochs=6)"
FLAGS = (
    "--models=mine.keras", "--dataset=folder:photos", "--stage=report", "--defenses=nfgsm(epochs=6)",
    "--train_size=600", "--epsilons=0.05,0.1", "--attacks=pgd(steps=10)", "--eval_size=64", "--learning_rate=0.003",
    "--batch_size=32", CHEAP,
)  # fmt: skip


def save_model(path, digits, classes=10, shape=(32, 32, 1)):
    """What a user has: a softmax model, trained with plain Keras on pixels from 0 to 255."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(16, 5, strides=2, activation="relu"),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    if digits is not None:
        model.fit(digits.images.astype("float32"), digits.labels, epochs=4, verbose=0)
    model.save(path)


def save_images(root, digits):
    """A folder of images for each class."""
    for number, (image, label) in enumerate(zip(digits.images, digits.labels)):
        (root / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(root / str(label) / f"{number:04d}.png")


def command(folder, data_dir, *flags):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return commands.run([f"--data_dir={data_dir}", "--workdir=run", *flags], cwd=folder, environment=environment)


@pytest.fixture(scope="module")
def run(tmp_path_factory, digits, data_dir):
    """(folder, finished process) of an evaluation and hardening of mine.keras."""
    folder = tmp_path_factory.mktemp("own")
    save_model(folder / "mine.keras", digits)
    save_images(folder / "photos", digits)
    digest = hashlib.sha256((folder / "mine.keras").read_bytes()).hexdigest()
    done = command(folder, data_dir, *FLAGS)
    assert done.returncode == 0, done.stderr[-3000:]
    assert hashlib.sha256((folder / "mine.keras").read_bytes()).hexdigest() == digest
    return folder, done


def accuracy(folder, recipe, protocol="whitebox", attack="fgsm", eps=None):
    records = json.loads((folder / "run/results.json").read_text())
    key = ("clean", None) if eps is None else (protocol, eps)
    (found,) = [
        r
        for r in records
        if (r["defense"], r["protocol"], r["eps"]) == (recipe, *key) and r["attack"] in (None, attack)
    ]
    return found["accuracy"]


def test_the_model_is_evaluated_as_it_is_and_hardened(run, digits):
    folder, done = run
    assert "the final softmax is removed" in done.stderr and "pixels from 0 to 255" in done.stderr
    splits = json.loads((folder / "run/split/splits.json").read_text())
    dataset = sources.load(f"folder:{folder / 'photos'}", "")
    x, y = dataset.images[splits["test"]].astype("float32"), dataset.labels[splits["test"]]
    assert len(set(y[:64])) == 10  # the first images are of all classes
    assert splits["dataset"] == "folder photos" and splits["class_names"] == list("0123456789")
    clean = {}
    for recipe, path in {"original": "mine.keras", NFGSM: f"run/models/mine/{folder_name(NFGSM)}/model.keras"}.items():
        model = keras.models.load_model(folder / path)  # plain Keras
        probabilities = model.predict(x, verbose=0)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        clean[recipe] = (np.argmax(probabilities, axis=1) == y).mean()
        assert accuracy(folder, recipe) == pytest.approx(clean[recipe], abs=1e-9)
    assert clean["original"] > 0.9 and clean[NFGSM] > 0.85
    # No defense trains on stored images, so there are none.
    assert not (folder / "run/surrogate").exists() and "stored images" not in done.stderr
    assert {r["protocol"] for r in json.loads((folder / "run/results.json").read_text())} == {"clean", "whitebox"}
    for attack in ("fgsm", "pgd"):
        assert (
            accuracy(folder, NFGSM, attack=attack, eps=0.1)
            > accuracy(folder, "original", attack=attack, eps=0.1) + 0.15
        )


def test_a_second_call_has_nothing_to_do(run, data_dir):
    folder, _ = run
    again = command(folder, data_dir, *FLAGS)
    assert again.returncode == 0 and "nothing to do" in again.stdout


@pytest.fixture
def start(tmp_path, data_dir, monkeypatch, started):
    """A function from flags to a `Run` in the folder `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    return lambda *flags: started("--dataset=digits", f"--data_dir={data_dir}", "--workdir=run", "--overwrite", *flags)


@contextlib.contextmanager
def lent(run, name):
    """The model before training."""
    with run.lend(name) as built:
        yield built.model


def samples_of(run, model, defense):
    """What a defense would train on."""
    network = run.network(model)
    return _Job(run, model, defense, network, schedule(run, defense, network), None, None)._training_samples()


def test_a_function_may_build_the_model(start, tmp_path):
    (tmp_path / "my_models.py").write_text(
        "import keras\n"
        "def build():\n"
        "    keras.utils.set_random_seed(3)\n"
        "    images = keras.Input((32, 32, 1))\n"
        "    h = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(images))\n"
        "    return keras.Model(images, keras.layers.Dense(10, activation='softmax')(h))\n"
        "def fails():\n"
        "    raise RuntimeError('no weights')\n"
        "def nothing():\n"
        "    return None\n"
    )
    run = start("--models=my_models:build", "--input_range=-1,1")
    with lent(run, "my_models:build") as model:
        assert model.output_shape == (None, 10) and model.count_params() == 4 * 9 + 4 + 4 * 10 + 10
    assert [defense.label for defense in run.defenses_of("my_models:build")] == ["original"]


def test_a_function_returns_the_same_model_whatever_was_built_before(tmp_path, monkeypatch):
    """Keras numbers the names of layers and variables."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "numbered.py").write_text(
        "import keras\nunits, scale = 10, 1\n"
        "def build():\n"
        "    keras.utils.set_random_seed(3)\n"
        "    layers = keras.layers.Rescaling(scale), keras.layers.Flatten(), keras.layers.Dense(units)\n"
        "    return keras.Sequential([keras.Input((4, 4, 1)), *layers])\n"
    )
    module = importlib.import_module("numbered")

    def identity():
        own._function_identity.cache_clear()
        return own.identity("numbered:build")

    first = identity()
    assert identity() == first
    for name in ("units", "scale"):
        with monkeypatch.context() as changed:
            changed.setattr(module, name, 2)
            assert identity() != first


def test_a_model_changes_with_the_code_of_its_layers(tmp_path, monkeypatch):
    """Those inside other layers, and registered functions, count as well."""
    code = {
        "inside_code": "@keras.saving.register_keras_serializable('inside')\n"
        "class Inside(keras.layers.Layer):\n    def call(self, x):\n        return 1 - x\n",
        "function_code": "@keras.saving.register_keras_serializable('function')\ndef double(x):\n    return 2 * x\n",
        "layer_code": "import inside_code\nfrom function_code import double\n"
        "@keras.saving.register_keras_serializable('layer')\n"
        "class Outside(keras.layers.Layer):\n"
        "    def build(self, shape):\n        self.built = True\n"
        "    def __init__(self, **kwargs):\n"
        "        super().__init__(**kwargs)\n        self.inside = inside_code.Inside()\n"
        "    def call(self, x):\n        return self.inside(x)\n"
        "def build():\n    keras.utils.set_random_seed(0)\n"
        "    layers = Outside(), keras.layers.Flatten(), keras.layers.Dense(10, activation=double)\n"
        "    return keras.Sequential([keras.Input((32, 32, 1)), *layers])\n",
    }
    for name, text in code.items():
        (tmp_path / f"{name}.py").write_text("import keras\n" + text)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("layer_code").build().save(tmp_path / "outside.keras")
    save_model(tmp_path / "plain.keras", None)

    def identities():
        own._function_identity.cache_clear()
        return [own.identity(name) for name in (f"{tmp_path}/outside.keras", "layer_code:build")]

    assert own.identity(f"{tmp_path}/plain.keras").keys() == {"file_sha256"}
    before = identities()
    for name in code:
        path = tmp_path / f"{name}.py"
        text = path.read_text()
        path.write_text(text + "# changed\n")
        assert all(old != new for old, new in zip(before, identities(), strict=True)), name
        path.write_text(text)
    assert identities() == before


@pytest.mark.parametrize(
    "name, message",
    [
        ("fails", "RuntimeError: no weights"),
        ("nothing", "or take nothing and return a keras.Model; it returned NoneType"),
        ("absent", "AttributeError"),
    ],
)
def test_functions_that_return_no_model(start, tmp_path, name, message):
    (tmp_path / "broken_models.py").write_text(
        "def fails():\n    raise RuntimeError('no weights')\ndef nothing():\n    return None\n"
    )
    with pytest.raises(UserError, match=message):
        start(f"--models=broken_models:{name}").network(f"broken_models:{name}").inputs()


def with_nan(path):
    save_model(path, None)
    model = keras.models.load_model(path)
    model.set_weights([np.full_like(w, np.nan) for w in model.get_weights()])
    model.save(path)


def no_model(path):
    path.write_bytes(b"PK not a zip")


@pytest.mark.parametrize(
    "make, flags, message",
    [
        (
            lambda path: save_model(path, None, shape=(28, 40, 1)),
            ["--image_size=32"],
            "takes images of 28x40x1 and digits has 32x32x1: give --image_size=28x40",
        ),
        (
            lambda path: save_model(path, None, shape=(28, 28, 1)),
            ["--image_size=28x40"],
            "has 28x40x1: give --image_size=28.$",
        ),
        (lambda path: save_model(path, None, classes=7), [], r"returns 7 classes and digits has 10 \(0, 1, 2,"),
        (lambda path: save_model(path, None, shape=(32, 32, 4)), [], "has 32x32x1: the channels must be the same"),
        (with_nan, [], "bad.keras returns NaN or infinity for images of the data set"),
        (no_model, [], "bad.keras is not a .keras file"),
    ],
)
def test_models_that_do_not_fit_the_images(start, tmp_path, make, flags, message):
    make(tmp_path / "bad.keras")
    with pytest.raises(UserError, match=message), lent(start("--models=bad.keras", *flags), "bad.keras"):
        pass


@pytest.mark.parametrize("shape, size", [((24, 24, 1), 24), ((24, 40, 1), "24x40")])
def test_images_take_the_size_of_the_model(start, tmp_path, shape, size):
    save_model(tmp_path / "small.keras", None, shape=shape)
    run = start("--models=small.keras")
    assert run.dataset.shape == shape and run.config.image_size == size and run.config.surrogate == "small.keras"
    # The size is not known of a function before it is called.
    for models in ("small.keras,somewhere:build", "somewhere:build,small.keras"):
        assert CommandLine(["--dataset=digits", f"--models={models}"]).config().image_size == size


def test_files_that_are_no_images_do_not_change_a_folder(started, tmp_path, digits, monkeypatch):
    """Such as what Finder leaves in a folder that it has shown."""
    monkeypatch.chdir(tmp_path)
    save_images(tmp_path / "photos", types.SimpleNamespace(images=digits.images[:200], labels=digits.labels[:200]))
    flags = "--dataset=folder:photos", "--models=resnet_tiny", "--workdir=run"
    assert started(*flags).dataset.entry.content
    for name in (".DS_Store", "3/.DS_Store", "3/notes.txt", "@eaDir/3/0.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"1")
    again = started(*flags)
    assert again.dataset.entry.content and not again.cache.built
    Image.fromarray(digits.images[200, ..., 0]).save(tmp_path / "photos/3/new.png")
    with pytest.raises(UserError, match=r"split was made with other settings or files \(files"):
        started(*flags).dataset  # noqa: B018


def colour_digits(digits):
    """Images with other values in each channel, as (images, labels)."""
    return types.SimpleNamespace(
        images=np.concatenate([digits.images, digits.images // 2, 255 - digits.images], axis=-1), labels=digits.labels
    )


@pytest.mark.parametrize("is_function", [False, True])
def test_grey_images_become_three_channels_for_a_colour_model(start, tmp_path, caplog, is_function):
    save_model(tmp_path / "colour.keras", None, shape=(32, 32, 3))
    (tmp_path / "colour_models.py").write_text(
        "import keras\ndef build():\n    return keras.models.load_model('colour.keras')\n"
    )
    name = "colour_models:build" if is_function else "colour.keras"
    run = start(f"--models={name}", "--surrogate=resnet_tiny")
    with caplog.at_level("INFO", logger="tfadv"), lent(run, name):
        images = run.dataset.images
    assert run.dataset.shape == (32, 32, 3) and images["test"].images.shape == (360, 32, 32, 3)
    assert (images["train"].images[..., 1:] == images["train"].images[..., :1]).all()
    grey = sources.load("digits", run.config.data_dir, 32).images
    for split in images.values():
        np.testing.assert_array_equal(split.images[..., :1], grey[split.ids])
    assert caplog.text.count("are grey; they are converted to three equal channels for your model") == 1
    with lent(run, "resnet_tiny") as model:
        assert model.input_shape == (None, 32, 32, 3)
    assert run.network(name).inputs()["shape"] == [32, 32, 3]


def test_colour_images_become_grey_for_a_grey_model(start, tmp_path, digits, caplog):
    save_model(tmp_path / "mine.keras", None)
    colour = colour_digits(digits)
    np.savez(tmp_path / "colour.npz", x=colour.images, y=colour.labels)
    run = start("--models=mine.keras", "--dataset=npz:colour.npz")
    with caplog.at_level("INFO", logger="tfadv"), lent(run, "mine.keras"):
        images = run.dataset.images
    ordered = sources.load("npz:colour.npz", "").images
    for split in images.values():
        weighted = ordered[split.ids] @ np.array([0.299, 0.587, 0.114])
        np.testing.assert_allclose(split.images[..., 0], weighted, atol=0.51)
    assert caplog.text.count("are in colour; they are converted to grey for your model") == 1


def test_images_with_the_channels_of_the_model_are_not_touched(start, tmp_path, caplog):
    save_model(tmp_path / "mine.keras", None)
    run = start("--models=mine.keras", "--surrogate=resnet_tiny")
    with lent(run, "mine.keras"):
        assert run.dataset.images["test"].images.shape[1:] == (32, 32, 1)
    assert "converted" not in caplog.text


def test_models_of_several_channels_need_separate_runs(start, tmp_path):
    save_model(tmp_path / "mine.keras", None)
    save_model(tmp_path / "colour.keras", None, shape=(32, 32, 3))
    with pytest.raises(UserError, match="mine.keras takes grey images and colour.keras takes colour images"):
        start("--models=mine.keras,colour.keras").dataset.shape  # noqa: B018


def test_defenses_train_on_all_images_of_classes_of_any_size(start, tmp_path, digits, caplog):
    save_model(tmp_path / "mine.keras", None, classes=2)
    np.savez(tmp_path / "uneven.npz", x=digits.images[:550], y=np.repeat([0, 1], [500, 50]))
    run = start("--models=mine.keras", "--dataset=npz:uneven.npz", "--defenses=nfgsm,control,surrogate,rounds,trades")
    for defense in run.defenses[:2]:
        assert np.bincount(samples_of(run, "mine.keras", defense).labels).tolist() == [350, 35], defense.label
    assert "class balance" not in caplog.text
    assert not any(defense.balance for defense in run.defenses)


@pytest.mark.parametrize("sizes, kept, level", [((500, 50), 35 * 2, "WARNING"), ((500, 480), 336 * 2, "INFO")])
def test_class_balance_of_the_paper_warns_where_it_drops_many_images(
    start, tmp_path, digits, caplog, sizes, kept, level
):
    np.savez(tmp_path / "uneven.npz", x=digits.images[: sum(sizes), ::4, ::4, 0], y=np.repeat([0, 1], sizes))
    run = start("--models=resnet_tiny", "--dataset=npz:uneven.npz")
    with caplog.at_level("INFO", logger="tfadv"):
        samples = samples_of(run, "resnet_tiny", Augmented())
    assert len(samples.labels) == kept
    (record,) = [record for record in caplog.records if "class balance" in record.getMessage()]
    whole = round(0.7 * sum(sizes))
    assert record.levelname == level and f"augmented, class balance: {kept} of {whole} training" in record.getMessage()


def test_names_of_one_file_are_the_same_model(start, tmp_path):
    save_model(tmp_path / "mine.keras", None)
    run = start("--models=./mine.keras", "--surrogate=mine.keras", "--defenses=nfgsm(models=mine),control")
    assert run.config.models == (run.config.surrogate,) == ("mine.keras",)
    assert [defense.label for defense in run.defenses_of("mine.keras")] == ["original", "nfgsm", "control"]


def test_a_saved_model_is_evaluated_but_not_trained(start, tmp_path, digits):
    save_model(tmp_path / "mine.keras", digits)
    model = keras.models.load_model(tmp_path / "mine.keras")
    model.export(tmp_path / "exported", verbose=False)
    x = digits.images[:50] / np.float32(255)
    with lent(start("--models=exported/"), "exported") as classifier:
        logits = classifier.predict(x, verbose=0)
    expected = model.predict(x * 255, verbose=0)
    np.testing.assert_allclose(logits - logits.mean(axis=1, keepdims=True), centered_log(expected), atol=1e-3)
    with pytest.raises(UserError, match="exported can be attacked but not trained"):
        start("--models=exported", "--defenses=nfgsm")


def centered_log(probabilities):
    log = np.log(probabilities)
    return log - log.mean(axis=1, keepdims=True)


def test_a_damaged_saved_model(start, tmp_path):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/saved_model.pb").write_bytes(b"nothing")
    with (
        pytest.raises(UserError, match="the SavedModel damaged can't be loaded"),
        lent(start("--models=damaged"), "damaged"),
    ):
        pass


def test_the_same_weights_in_another_model_are_another_model(start, tmp_path):
    contents = set()
    for scale in (1.0, 0.5):
        keras.utils.set_random_seed(0)
        layers = [keras.Input((32, 32, 1)), keras.layers.Rescaling(scale), keras.layers.Flatten()]
        keras.Sequential([*layers, keras.layers.Dense(10, name="logits")]).save(tmp_path / "mine.keras")
        run = start("--models=mine.keras", "--input_range=0,1")
        contents.add(steps.train(run, "mine.keras", run.first("mine.keras")).entry.content)
    assert len(contents) == 2


@pytest.mark.parametrize("trained", [True, False])
def test_a_model_of_two_classes_that_has_not_learned_is_named(start, tmp_path, digits, caplog, trained):
    rows = np.flatnonzero(digits.labels < 2)
    two = types.SimpleNamespace(images=digits.images[rows], labels=digits.labels[rows])
    save_images(tmp_path / "photos", two)
    save_model(tmp_path / "mine.keras", two, classes=2)
    if not trained:
        model = keras.models.load_model(tmp_path / "mine.keras")
        model.set_weights([np.zeros_like(w) for w in model.get_weights()])
        model.save(tmp_path / "mine.keras")
    with lent(start("--models=mine.keras", "--dataset=folder:photos"), "mine.keras"):
        pass
    assert ("is hardly better than guessing" in caplog.text) == (not trained)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--models=resnet18", "--input_range=0,255"], "--input_range=0,255 is for your own models"),
        (["--models=mine.keras", "--weights=imagenet"], "--weights=imagenet is for built-in models"),
        (["--models=mine.keras", "--dataset=folder:.", "--label=x"], "--label=x selects a feature of a TFDS data set"),
        (
            ["--models=somewhere/else"],
            "somewhere/else is neither a .keras, .tflite or .onnx file nor a folder with a SavedModel",
        ),
    ],
)
def test_settings_that_do_not_apply_to_the_models(start, tmp_path, flags, message):
    save_model(tmp_path / "mine.keras", None)
    with pytest.raises(UserError, match=message):
        start(*flags)


@pytest.mark.parametrize(
    "flags, rate",
    [
        (["--defenses=control"], 0.001),
        (["--defenses=control(optimizer=sgd)"], 0.01),
        (["--defenses=control", "--learning_rate=0.3"], 0.3),
        (["--defenses=control(learning_rate=0.2)", "--learning_rate=0.3"], 0.2),
    ],
)
def test_models_with_weights_have_a_smaller_learning_rate(start, tmp_path, flags, rate):
    save_model(tmp_path / "mine.keras", None)
    run = start("--models=mine.keras", *flags)
    assert schedule(run, run.defenses[0], OwnModel("mine.keras", run)).learning_rate == rate
