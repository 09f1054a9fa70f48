"""How near the adversarial images of fmn, ddn and fab are, and what they cost, on two small networks for CIFAR-10.

    python -m benchmarks.nearest --data_dir=tfds_data --folder=runs/nearest

Trains a network on clean images and one with N-FGSM, unless they are in the folder.
"""

from __future__ import annotations

import argparse
import pathlib
import time
from collections.abc import Callable
from typing import Any

import tfadv  # before TensorFlow

import keras
import numpy as np
import tensorflow_datasets as tfds

IMAGES, TRAINED_ON, EPOCHS = 200, 20_000, 6
SIZES = (2 / 255, 4 / 255, 8 / 255)
ATTACKS = (
    *("fmn", "fmn(steps=50)", "fab(steps=20)", "fmn(norm=l2)", "ddn", "fab(norm=l2, steps=20)"),
    *("fmn(norm=l1)", "sigma-zero(steps=200)"),
)


def images(data_dir: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(float32 (N, 32, 32, 3) in [0, 1], int (N,)) of CIFAR-10."""
    data = tfds.load("cifar10", data_dir=data_dir, split=split, batch_size=-1, as_supervised=True, download=False)
    x, y = tfds.as_numpy(data)
    return x.astype("float32") / 255, y


def network() -> keras.Model:
    """Two convolutions and two dense layers, without a softmax."""
    keras.utils.set_random_seed(0)
    layers, convolution = keras.layers, {"strides": 2, "padding": "same", "activation": "relu"}
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(32, 4, **convolution),
            layers.Conv2D(64, 3, **convolution),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10),
        ]
    )


def in_torch(model: keras.Model, dropout: float = 0.0) -> Any:
    """The network of `benchmarks.nearest` in PyTorch, with dropout; it counts passes of images."""
    import torch
    from torch.nn import functional

    class Network(torch.nn.Module):
        passes = 0

        def forward(self, x):
            self.passes += len(x)
            x = torch.relu(functional.conv2d(x, *self.of[0], stride=2, padding=1))
            x = torch.relu(functional.conv2d(functional.pad(x, (0, 1, 0, 1)), *self.of[1], stride=2))
            x = functional.dropout(x.permute(0, 2, 3, 1).flatten(1), dropout)
            x = functional.dropout(torch.relu(functional.linear(x, *self.of[2])), dropout)
            return functional.linear(x, *self.of[3])

    def turned(w):  # Keras: height, width, in, out; PyTorch: out, in, height, width
        return torch.tensor(np.ascontiguousarray(w.transpose(3, 2, 0, 1) if w.ndim == 4 else w.T))

    network = Network().eval()
    network.of = [[turned(w) for w in layer.get_weights()] for layer in model.layers if layer.weights]
    return network


def trained(
    path: pathlib.Path, x: np.ndarray, y: np.ndarray, eps: float, build: Callable[[], keras.Model] = network
) -> keras.Model:
    """The network of that file; trained, with N-FGSM where eps is not 0, and written, where it is missing."""
    if not path.exists():
        model = build()
        wrapped = tfadv.AdversarialModel(model, defense="nfgsm", eps=eps) if eps else model
        wrapped.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        wrapped.fit(x, y, batch_size=128, epochs=EPOCHS, verbose=2)
        model.save(path)
    return keras.models.load_model(path)


def measure(name: str, model: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    """Prints a row for each attack; medians are of the images that are classified correctly."""
    print(f"{name}\nattack | median distance | mean | none found | gradients | forwards | seconds | at 2, 4, 8 / 255")
    correct = tfadv.evaluate(model, x, y, None).clean_correct
    x, y = x[correct], y[correct]
    for attack in ATTACKS:
        started, result = time.monotonic(), tfadv.evaluate(model, x, y, attack)
        found, cost = result.distances[np.isfinite(result.distances)], result.cost
        row = [attack, f"{result.median_distance:.4g}", f"{found.mean():.4g}", f"{len(y) - len(found)}"]
        row += [f"{passes / len(y):.0f}" for passes in (cost.gradients, cost.forwards)]
        row += [f"{time.monotonic() - started:.0f}", " ".join(f"{result.accuracy_at(eps):.1%}" for eps in SIZES)]
        print(" | ".join(row), flush=True)
    auto = tfadv.evaluate(model, x, y, "autoattack", SIZES)
    row = f"{auto.cost.gradients / len(y):.0f} | {auto.cost.forwards / len(y):.0f}"
    print(f"autoattack | – | – | – | {row} | – | {' '.join(f'{each:.1%}' for each in auto.robust_accuracy)}")
    print(f"{len(y)} images", flush=True)


def flags(parser: argparse.ArgumentParser | None = None) -> argparse.Namespace:
    """The folders of the data and of the networks, and the other flags of the parser."""
    parser = parser or argparse.ArgumentParser()
    parser.add_argument("--data_dir")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/nearest"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    return options


def on_both(measure: Callable[[str, keras.Model, np.ndarray, np.ndarray], None], options: argparse.Namespace) -> None:
    """Calls `measure` with the name of each network, the network, and test images with labels."""
    train, test = images(options.data_dir, f"train[:{TRAINED_ON}]"), images(options.data_dir, f"test[:{IMAGES}]")
    for name, eps in (("clean", 0.0), ("nfgsm", 8 / 255)):
        measure(name, trained(options.folder / f"{name}.keras", *train, eps), *test)


if __name__ == "__main__":
    on_both(measure, flags())
