"""Hardens eight architectures with the default settings: clean accuracy and accuracy under PGD before and after.

    python -m benchmarks.architectures [--models=cnn,vgg] [--optimizer=sgd --learning_rate=0.05]

The images are the 1,797 digits of scikit-learn, 8x8 pixels, of which a fifth is for testing.  Each model is trained by
Adam, `resnet_batchnorm` by SGD, then hardened for 10 epochs as the command line does.  Prints a table in Markdown.
"""

import sys

import tfadv  # before TensorFlow

import keras
from absl import flags
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from tfadv.datasets.batches import Samples
from tfadv.datasets.splits import hold_out
from tfadv.defenses.base import ADAM_RATE
from tfadv.defenses.nfgsm import NFGSM
from tfadv.training import Trainer, TrainingSettings

SHAPE, EPS = (8, 8, 1), (8 / 255, 0.1)
SETTINGS = flags.FlagValues()
flags.DEFINE_list("models", [], "Some of the models; all where empty.", flag_values=SETTINGS)
flags.DEFINE_string("optimizer", "adam", "Of the defense.", flag_values=SETTINGS)
flags.DEFINE_float("learning_rate", ADAM_RATE, "Of the defense.", flag_values=SETTINGS)


def head():
    return layers.Dense(10, activation="softmax")


def convolution(filters, size=3, activation="relu", **options):
    return layers.Conv2D(filters, size, padding="same", activation=activation, **options)


def cnn():
    body = [convolution(32), layers.MaxPooling2D(), convolution(64), layers.Flatten()]
    return keras.Sequential([keras.Input(SHAPE), layers.Rescaling(1 / 255), *body, head()])


def vgg():
    body = [*(convolution(32) for _ in range(6)), layers.MaxPooling2D(), layers.Flatten()]
    dense = [make() for _ in range(2) for make in (lambda: layers.Dense(128, "relu"), lambda: layers.Dropout(0.5))]
    return keras.Sequential([keras.Input(SHAPE), layers.Rescaling(1 / 255), *body, *dense, head()])


def mlp():
    """On pixels from 0 to 255."""
    body = [layers.Dense(256, activation="relu") for _ in range(4)]
    return keras.Sequential([keras.Input(SHAPE), layers.Flatten(), *body, head()])


def attention():
    images = keras.Input(SHAPE)
    x = layers.Conv2D(32, 2, strides=2)(layers.Rescaling(1 / 255)(images))
    x = layers.Reshape((16, 32))(x)
    for _ in range(2):
        a = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(2, 16)(a, a)
        x = x + layers.Dense(32)(layers.Dense(64, activation="gelu")(layers.LayerNormalization()(x)))
    return keras.Model(images, head()(layers.Flatten()(layers.LayerNormalization()(x))))


def convnext():
    images = keras.Input(SHAPE)
    x = layers.LayerNormalization()(layers.Conv2D(32, 2, strides=2)(layers.Rescaling(1 / 255)(images)))
    for _ in range(3):
        a = layers.LayerNormalization()(layers.DepthwiseConv2D(3, padding="same")(x))
        x = x + layers.Dense(32)(layers.Dense(128, activation="gelu")(a))
    return keras.Model(images, head()(layers.GlobalAveragePooling2D()(x)))


def mobilenetv2():
    """At 32x32 pixels, from random weights; its BatchNorm's momentum of 0.999 is too slow for so few steps."""
    images = keras.Input(SHAPE)
    x = layers.UpSampling2D(4, interpolation="bilinear")(layers.Rescaling(1 / 127.5, -1)(images))
    body = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, include_top=False, weights=None, pooling="avg")
    for layer in body.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9
    return keras.Model(images, head()(body(layers.Concatenate()([x, x, x]))))


def resnet(norm):
    def block(x, filters, stride):
        a = convolution(filters, activation=None, strides=stride, use_bias=False)(x)
        a = norm()(convolution(filters, activation=None, use_bias=False)(layers.ReLU()(norm()(a))))
        if stride > 1:
            x = norm()(layers.Conv2D(filters, 1, strides=stride, use_bias=False)(x))
        return layers.ReLU()(a + x)

    images = keras.Input(SHAPE)
    x = layers.ReLU()(norm()(convolution(32, activation=None, use_bias=False)(layers.Rescaling(1 / 255)(images))))
    return keras.Model(images, head()(layers.GlobalAveragePooling2D()(block(block(x, 32, 1), 64, 2))))


MODELS = {
    "cnn": cnn,
    "vgg": vgg,
    "mlp": mlp,
    "attention": attention,
    "convnext": convnext,
    "mobilenetv2": mobilenetv2,
    "resnet_batchnorm": lambda: resnet(layers.BatchNormalization),
    "resnet_groupnorm": lambda: resnet(lambda: layers.GroupNormalization(8)),
}


def harden(classifier, samples, eps):
    """The record of `Trainer.fit`; a tenth of the images is held out."""
    rate, optimizer = SETTINGS.learning_rate, SETTINGS.optimizer
    rows, held_out = hold_out(samples.labels, 0.1, seed=0)
    settings = TrainingSettings(epochs=10, batch_size=128, learning_rate=rate, patience=10, eps=eps)
    trainer = Trainer(classifier, defense=NFGSM(), optimizer=optimizer, weight_decay=NFGSM().weight_decay)
    return trainer.fit(samples.select(rows), samples.select(held_out), settings)


def main(argv):
    del argv
    digits = load_digits()
    images = (digits.images[..., None] / 16 * 255).astype("uint8")
    x, x_test, y, y_test = train_test_split(images, digits.target, test_size=0.2, random_state=0)
    print("| model | eps | clean before | clean after | PGD-20 before | PGD-20 after | epoch kept |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in SETTINGS.models or MODELS:
        keras.utils.set_random_seed(0)
        model = MODELS[name]()
        sgd = keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True)
        model.compile(sgd if name == "resnet_batchnorm" else "adam", "sparse_categorical_crossentropy")
        model.fit(x, y, epochs=25, verbose=0)
        classifier, weights = tfadv.classifier(model, (0, 255), quiet=True), model.get_weights()
        for eps in EPS:
            model.set_weights(weights)
            before = tfadv.evaluate(classifier, x_test, y_test, "pgd(steps=20)", eps)
            record = harden(classifier, Samples(x, y), eps)
            after = tfadv.evaluate(classifier, x_test, y_test, "pgd(steps=20)", eps)
            shown = before.clean_accuracy, after.clean_accuracy, before.robust_accuracy, after.robust_accuracy
            cells = [name, f"{eps:.3f}", *(f"{100 * value:.1f}" for value in shown), str(record["best_epoch"])]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(SETTINGS(sys.argv))
