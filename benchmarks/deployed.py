"""A quantized file beside the Keras model that it was made from: accuracy under attacks of every kind of access.

    python -m benchmarks.deployed --data_dir=data

Trains a small network on CIFAR-10 images with `tfadv.AdversarialModel`, exports it to LiteRT, in float32 and quantized
to int8, and attacks all three.  Prints a table in Markdown.
"""

import pathlib
import sys
import tempfile
import time

import tfadv  # before TensorFlow

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from keras import layers

from benchmarks.tutorials import images_of
from tfadv.evaluation.evaluator import FixedImages
from tfadv.evaluation.records import wilson_interval
from tfadv.models.export import litert_int8

EPS = 4 / 255
SETTINGS = flags.FlagValues()
flags.DEFINE_string("data_dir", "data", "Folder of the TFDS data sets.", flag_values=SETTINGS)
flags.DEFINE_integer("train", 10000, "Training images.", flag_values=SETTINGS)
flags.DEFINE_integer("epochs", 20, "Epochs.", flag_values=SETTINGS)
flags.DEFINE_integer("attacked", 500, "Test images.", flag_values=SETTINGS)


def network():
    """A network with BatchNorm, which the converter folds into the convolutions."""
    model = keras.Sequential([keras.Input((32, 32, 3)), layers.Rescaling(1 / 255)])
    for size in (32, 64, 128):
        model.add(layers.Conv2D(size, 3, strides=1 if size == 32 else 2, padding="same", use_bias=False))
        model.add(layers.BatchNormalization())
        model.add(layers.ReLU())
    for layer in (layers.GlobalAveragePooling2D(), layers.Dense(10, activation="softmax")):
        model.add(layer)
    return model


def row(name, attack, model, x, y):
    """Prints a row of the table."""
    started = time.monotonic()
    result = tfadv.evaluate(model, x, y, attack, EPS)
    correct = result.robust if attack else result.clean_correct
    low, high = wilson_interval(int(correct.sum()), len(y))
    label = "transfer of AutoAttack" if isinstance(attack, FixedImages) else attack or "none"
    passes = (result.cost.forwards + result.cost.gradients) / len(y)
    cells = [name, label, str(len(y)), f"{100 * correct.mean():.1f}", f"{100 * low:.1f} to {100 * high:.1f}"]
    print(f"| {' | '.join([*cells, f'{passes:,.0f}', f'{(time.monotonic() - started) / 60:.1f}'])} |", flush=True)


def main(argv):
    del argv
    keras.utils.set_random_seed(0)
    (x_train, y_train), (x, y) = images_of("cifar10", SETTINGS.train, SETTINGS.attacked, data_dir=SETTINGS.data_dir)
    model = network()
    robust = tfadv.AdversarialModel(model, "nfgsm", EPS, (0, 255))
    robust.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    robust.fit(x_train, y_train, batch_size=128, epochs=SETTINGS.epochs, verbose=0)
    folder = pathlib.Path(tempfile.mkdtemp())
    model.export(folder / "saved", verbose=False)
    float32 = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved")).convert()
    (folder / "float32.tflite").write_bytes(float32)
    litert_int8(model, x_train[:200].astype("float32"), folder / "int8.tflite")

    files = {name: tfadv.deployed(folder / f"{name}.tflite", twin=model) for name in ("float32", "int8")}
    keras_model, float32, int8 = (tfadv.classifier(m, (0, 255), quiet=True) for m in (model, *files.values()))
    same = np.mean(model.predict(x, verbose=0).argmax(1) == files["int8"].predict(x, verbose=0).argmax(1))
    print(f"{100 * same:.1f}% of the labels of model and int8 file are the same.")
    print("| model | attack | images | accuracy | 95% interval | passes per image | minutes |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, attacked in (("Keras", keras_model), ("float32 file", float32), ("int8 file", int8)):
        row(name, None, attacked, x, y)
        row(name, "autoattack", attacked, x, y)
    pixels = (x / 255).astype("float32")
    transferred = tfadv.attacks.AutoAttack()(keras_model, pixels, y, [EPS])
    row("int8 file", FixedImages(transferred), int8, x, y)
    blind = tfadv.classifier(tfadv.deployed(folder / "int8.tflite"), (0, 255), quiet=True)
    row("int8 file", "square", blind, x, y)
    for attack in ("autoattack", "hopskipjump", "rays"):
        row("int8 file", attack, int8 if attack == "autoattack" else blind, x[:100], y[:100])


if __name__ == "__main__":
    main(SETTINGS(sys.argv))
