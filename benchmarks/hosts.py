"""Trains and attacks on several devices and hosts, and compares the results and what each host reads and computes.

    python -m benchmarks.hosts --out=runs/hosts

Trains the tiny network for one epoch on handwritten digits in a file, then attacks one and the same model, on one
device, on 2 and 4 virtual devices, and on 2, 3 and 4 hosts, which are processes of this machine.
"""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import keras
import numpy as np
from absl import app, flags, logging
from sklearn.datasets import load_digits

from tfadv import attacks, models
from tfadv.datasets.batches import Samples
from tfadv.datasets.storage import Storage
from tfadv.evaluation.evaluator import Execution, evaluate
from tfadv.objectives.cross_entropy import cross_entropy
from tfadv.runtime.devices import Devices
from tfadv.training import Trainer, TrainingSettings

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "runs/hosts", "Folder of what each host finds.")
flags.DEFINE_string("layout", "", "Run this layout in this process, as one of its hosts.")
LAYOUTS = {  # the number of hosts, and the arguments of `Devices` on each
    "1 device": (1, ()),
    "2 devices": (1, ("mirrored", 2)),
    "4 devices": (1, ("mirrored", 4)),
    "2 hosts": (2, ("multiworker",)),
    "3 hosts": (3, ("multiworker",)),
    "4 hosts": (4, ("multiworker",)),
}
BATCH, VALIDATION, ATTACKED, EPS = 48, 240, 96, (0.05, 0.1, 0.2)
FEW_STEPS = {"square": "square(steps=100)", "autoattack": "autoattack(steps=10, queries=100, targets=2)"}


class CountedImages(np.memmap):
    """An array in a file that counts the bytes of the rows that are read."""

    read = 0

    def __getitem__(self, rows):
        found = super().__getitem__(rows)
        CountedImages.read += found.nbytes
        return found


def images_on_disk(folder: pathlib.Path) -> tuple[CountedImages, np.ndarray]:
    """(uint8 (N, 16, 16, 1) in a file, labels int64 (N,))."""
    digits = load_digits()
    pixels = np.kron(digits.images, np.ones((2, 2)))[..., None] * 15
    images = Storage("false", folder).allocate(pixels.shape, np.uint8)
    images[:] = pixels.astype(np.uint8)
    return images.view(CountedImages), digits.target.astype(np.int64)


def run_host(layout: str, folder: pathlib.Path) -> None:
    """Trains and attacks as one host of a layout, and writes what it found to a file."""
    _, arguments = LAYOUTS[layout]
    devices = Devices(*arguments)
    host, _ = devices.share
    images, labels = images_on_disk(folder)
    training = Samples(images[VALIDATION:], labels[VALIDATION:])
    validation = Samples(np.array(images[:VALIDATION]), labels[:VALIDATION])
    keras.utils.set_random_seed(0)
    with devices.strategy.scope():
        model = models.build("resnet_tiny", (16, 16, 1), 10, synchronized=True)
    trainer = Trainer(model, weight_decay=0.0, objective=cross_entropy, devices=devices)
    settings = TrainingSettings(epochs=1, batch_size=BATCH, learning_rate=0.05, patience=1)
    CountedImages.read, before = 0, time.process_time()
    history = trainer.fit(training, validation, settings)["history"]
    read, training_seconds = CountedImages.read, time.process_time() - before
    weights = folder / "weights.npz"  # of one device, which comes first
    if not weights.exists():
        np.savez(weights, *model.get_weights())
    with np.load(weights) as saved:
        model.set_weights(list(saved.values()))
    x, y = validation.images[:ATTACKED].astype(np.float32) / 255, validation.labels[:ATTACKED]
    before = time.process_time()
    robust = {
        name: evaluate(
            model, x, y, FEW_STEPS.get(name, name), EPS, batch_size=BATCH, execution=Execution(devices)
        ).robust.tolist()
        for name in attacks.ATTACKS
    }
    found = {
        "loss": history["loss"][0],
        "val_loss": history["val_loss"][0],
        "robust": robust,
        "read": read,
        "training_seconds": training_seconds,
        "attack_seconds": time.process_time() - before,
    }
    (folder / f"{layout}, host {host}.json").write_text(json.dumps(found))


def run_layout(layout: str, folder: pathlib.Path) -> list[dict]:
    """What each host of a layout found."""
    hosts, _ = LAYOUTS[layout]
    addresses = free_addresses(hosts)
    command = [sys.executable, "-m", "benchmarks.hosts", f"--out={folder}", f"--layout={layout}"]
    processes = []
    for index in range(hosts):
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        if hosts > 1:
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment["TF_CONFIG"] = json.dumps(task)
        processes.append(subprocess.Popen(command, env=environment))
    codes = [process.wait() for process in processes]
    if any(codes):
        sys.exit(f"{layout} failed")
    return [json.loads((folder / f"{layout}, host {host}.json").read_text()) for host in range(hosts)]


def free_addresses(number: int) -> list[str]:
    """Addresses of free ports of this machine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for each in sockets:
        each.close()
    return addresses


def main(_: list[str]) -> None:
    """Prints a table, or runs one host of a layout."""
    folder = pathlib.Path(FLAGS.out)
    if FLAGS.layout:
        logging.set_verbosity(logging.WARNING)
        run_host(FLAGS.layout, folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.npz").unlink(missing_ok=True)
    print("| layout | training loss | validation loss | decisions that differ | kB read | CPU s, training + attacks |")
    print("| --- | --- | --- | --- | --- | --- |")
    reference: dict = {}
    for layout in LAYOUTS:
        found = run_layout(layout, folder)
        reference = reference or found[0]["robust"]
        different = sum(
            (np.array(host["robust"][name]) != np.array(reference[name])).sum() for host in found for name in reference
        )
        read = ", ".join(f"{host['read'] / 1e3:.0f}" for host in found)
        seconds = ", ".join(f"{host['training_seconds']:.0f} + {host['attack_seconds']:.0f}" for host in found)
        print(
            f"| {layout} | {found[0]['loss']:.6f} | {found[0]['val_loss']:.6f} | {different} | {read} | {seconds} |",
            flush=True,
        )
    compared = sum(np.size(robust) for robust in reference.values())
    print(f"{len(reference)} attacks, {compared} decisions of images and eps, on each host")


if __name__ == "__main__":
    app.run(main)
