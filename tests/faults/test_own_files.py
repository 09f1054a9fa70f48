"""Malformed models, image folders and arrays of a user: one line that says what is wrong, and never a traceback."""

import json
import pathlib
import random
import shutil
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image

from tfadv.command_line import CommandLine
from tfadv.datasets import sources
from tfadv.errors import UserError
from tfadv.models import own
from tfadv.pipeline.networks import OwnModel
from tfadv.pipeline.run import Run
from tfadv.store.workdir import Workdir

VALUES = (None, -1, 0, 1e30, "x", [], {}, "keras", [[1]], True)


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory, data_dir):
    """A `Run` whose data set is the digits."""
    workdir = str(tmp_path_factory.mktemp("own") / "run")
    config = CommandLine(["--dataset=digits", f"--data_dir={data_dir}", f"--workdir={workdir}"]).config()
    with Workdir(config.workdir) as opened:
        yield Run(config, opened)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder with a model as `.keras` file and as SavedModel, a folder of images and a file of arrays."""
    folder = tmp_path_factory.mktemp("sound")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((32, 32, 1)), keras.layers.Conv2D(2, 5), keras.layers.Flatten()])
    model.add(keras.layers.Dense(10, activation="softmax"))
    model.save(folder / "mine.keras")
    model.export(folder / "exported", verbose=False)
    rng = np.random.default_rng(0)
    for label in "ab":
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / label / f"{number}.png")
    x = rng.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    np.savez(folder / "arrays.npz", x=x, y=np.arange(40) % 4)
    return folder


def damage_bytes(path, rng):
    """Truncates a file, or changes or inserts a few of its bytes."""
    content = bytearray(path.read_bytes())
    how = rng.choice(("truncate", "change", "insert"))
    if how == "truncate":
        del content[rng.randrange(len(content)) :]
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(content) + 1)
        if how == "change" and at < len(content):
            content[at] = rng.randrange(256)
        elif how == "insert":
            content.insert(at, rng.randrange(256))
    path.write_bytes(content)


def damage_config(path, rng):
    """Replaces a value somewhere in the description of a `.keras` model; its zip file stays sound."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    config = json.loads(members["config.json"])
    places = []

    def collect(value):
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            places.append((value, key))
            collect(inner)

    collect(config)
    holder, key = rng.choice(places)
    holder[key] = rng.choice(VALUES)
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)


def damage_folder(path, rng):
    """Damages, empties, removes or adds something in a folder."""
    files = sorted(p for p in path.rglob("*") if p.is_file())
    file = rng.choice(files)
    how = rng.choice(("bytes", "empty", "remove", "text", "folder", "class"))
    if how == "bytes":
        damage_bytes(file, rng)
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "remove":
        for each in rng.sample(files, rng.randint(1, len(files))):
            each.unlink()
    elif how == "text":
        file.write_text("not an image")
    elif how == "folder":
        file.unlink()
        file.mkdir()
    elif file.parent != path:
        shutil.rmtree(file.parent)


def read_model(path, run):
    own.check(str(path))
    OwnModel(str(path), run).build()


@pytest.mark.parametrize(
    "source, damage, cases",
    [
        ("mine.keras", damage_bytes, 20),
        ("mine.keras", damage_config, 40),
        ("exported", damage_folder, 15),
        ("photos", damage_folder, 25),
        ("arrays.npz", damage_bytes, 20),
    ],
)
def test_malformed_models_folders_and_files(sound, digits_run, tmp_path, source, damage, cases, tally):
    refused = 0
    for case in range(cases):
        path = tmp_path / f"{case}{pathlib.Path(source).suffix}"
        (shutil.copytree if (sound / source).is_dir() else shutil.copy)(sound / source, path)
        damage(path, random.Random(case))
        try:
            if source in ("mine.keras", "exported"):
                read_model(path, digits_run)
            else:
                sources.load(f"{'folder' if source == 'photos' else 'npz'}:{path}", "")
        except UserError as error:
            assert str(error).strip() and "\n" not in str(error)
            refused += 1
    assert refused > cases / 4
    tally[f"malformed {source} refused, no traceback"] += refused
    tally[f"malformed {source} read nevertheless"] += cases - refused
