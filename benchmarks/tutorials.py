"""Hardens five training scripts that follow the Keras tutorials: clean accuracy and AutoAttack before and after.

    python -m benchmarks.tutorials --data_dir=data [--only=mnist_convnet,mixup]

Each function is a tutorial on few images.  `wrap` is the one line that is added to harden it: it returns the model
itself, or `tfadv.AdversarialModel(model, ...)`.  Prints a table in Markdown.
"""

import sys
import time

import tfadv  # before TensorFlow

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from keras import layers

from tfadv.datasets import sources

ATTACKED = 200  # test images
SETTINGS = flags.FlagValues()
flags.DEFINE_string("data_dir", "data", "Folder of the TFDS data sets.", flag_values=SETTINGS)
flags.DEFINE_list("only", [], "Some of the tutorials; all where empty.", flag_values=SETTINGS)


def images_of(name, train, test, size=32, data_dir=None):
    """uint8 images and labels: (x_train, y_train), (x_test, y_test), drawn with a seed."""
    dataset = sources.load(name, data_dir or SETTINGS.data_dir, size)
    rows = np.random.default_rng(0).permutation(len(dataset.labels))[: train + test]
    x, y = np.stack([dataset.images[row] for row in rows]), dataset.labels[rows]
    return (x[:train], y[:train]), (x[train:], y[train:])


def mnist_convnet(wrap):
    """https://keras.io/examples/vision/mnist_convnet/: one-hot labels, pixels in [0, 1], dropout."""
    (x_train, y_train), test = images_of("mnist", 6000, 1000, 28)
    x_train, y_train = x_train.astype("float32") / 255, keras.utils.to_categorical(y_train, 10)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    trained = wrap(model, eps=0.1)
    trained.compile("adam", loss="categorical_crossentropy", metrics=["accuracy"])
    trained.fit(x_train, y_train, batch_size=128, epochs=15, validation_split=0.1, verbose=0)
    return model, (0, 1), test, 0.1


def from_scratch(wrap):
    """https://keras.io/examples/vision/image_classification_from_scratch/: cats and dogs, one logit, tf.data."""
    (x_train, y_train), test = images_of("cats_vs_dogs", 4000, 1000, 48)
    augmentation = [layers.RandomFlip("horizontal"), layers.RandomTranslation(0.1, 0.1)]

    def augment(x, y):
        for layer in augmentation:
            x = layer(x, training=True)
        return x, y

    train = tf.data.Dataset.from_tensor_slices((x_train.astype("float32"), y_train.astype("float32")))
    train = train.shuffle(4000, seed=0).batch(32).map(augment).prefetch(2)
    inputs = keras.Input((48, 48, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Activation("relu")(layers.BatchNormalization()(layers.Conv2D(32, 3, strides=2, padding="same")(x)))
    for size in (64, 128):
        before = x
        x = layers.BatchNormalization()(layers.SeparableConv2D(size, 3, padding="same")(x))
        x = layers.Activation("relu")(x)
        x = layers.BatchNormalization()(layers.SeparableConv2D(size, 3, padding="same")(x))
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        x = layers.add([x, layers.Conv2D(size, 1, strides=2, padding="same")(before)])
    x = layers.Dropout(0.25)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, layers.Dense(1)(x))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    model.fit(train, epochs=15, verbose=0)
    trained = wrap(model, eps=2 / 255, input_range=(0, 255))  # on few images, attacked ones teach a new model nothing
    if trained is not model:
        trained.compile(keras.optimizers.Adam(1e-3), loss)
        trained.fit(train, epochs=15, verbose=0)
    return model, (0, 255), test, 2 / 255


def transfer_learning(wrap):
    """https://keras.io/guides/transfer_learning/: a frozen base, a new head, then fine-tuning of all layers."""
    (x_train, y_train), (x_test, y_test) = images_of("cifar10", 12000, 2000)
    first, second = y_train < 5, y_train >= 5
    base = keras.Sequential([keras.Input((32, 32, 3)), layers.Rescaling(1 / 255)], name="base")
    for size in (32, 64, 128):
        base.add(layers.Conv2D(size, 3, padding="same", use_bias=False))
        base.add(layers.BatchNormalization())
        base.add(layers.ReLU())
        base.add(layers.MaxPooling2D())
    base.add(layers.GlobalAveragePooling2D())
    source = keras.Sequential([base, layers.Dense(5, activation="softmax")])
    source.compile("adam", "sparse_categorical_crossentropy")
    source.fit(x_train[first], y_train[first], epochs=10, verbose=0)
    base.trainable = False
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, layers.Dense(5)(layers.Dropout(0.2)(base(inputs, training=False))))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(x_train[second], y_train[second] - 5, epochs=5, verbose=0)
    base.trainable = True
    trained = wrap(model, eps=4 / 255, input_range=(0, 255))
    trained.compile(keras.optimizers.Adam(3e-4), loss, metrics=["accuracy"])
    trained.fit(x_train[second], y_train[second] - 5, epochs=10, verbose=0)
    return model, (0, 255), (x_test[y_test >= 5], y_test[y_test >= 5] - 5), 4 / 255


def mixup(wrap):
    """https://keras.io/examples/vision/mixup/: the data set mixes images and labels in pairs."""
    (x_train, y_train), test = images_of("cifar10", 8000, 1000)
    one_hot = keras.utils.to_categorical(y_train, 10).astype("float32")
    one = tf.data.Dataset.from_tensor_slices((x_train.astype("float32") / 255, one_hot))
    pairs = tf.data.Dataset.zip(one.shuffle(8000, seed=0).batch(64), one.shuffle(8000, seed=1).batch(64))

    def mix(a, b):
        n = tf.shape(a[0])[0]
        gammas = [tf.random.gamma((n,), 0.2) + 1e-6 for _ in range(2)]  # beta(0.2, 0.2)
        share = gammas[0] / (gammas[0] + gammas[1])
        return (
            a[0] * tf.reshape(share, (n, 1, 1, 1)) + b[0] * tf.reshape(1 - share, (n, 1, 1, 1)),
            a[1] * share[:, None] + b[1] * (1 - share)[:, None],
        )

    model = keras.Sequential([keras.Input((32, 32, 3))])
    for size in (32, 64, 128):
        model.add(layers.Conv2D(size, 3, padding="same", activation="relu"))
        model.add(layers.BatchNormalization())
        model.add(layers.MaxPooling2D())
    for layer in (layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(10, activation="softmax")):
        model.add(layer)
    trained = wrap(model, eps=4 / 255)
    trained.compile("adam", loss="categorical_crossentropy", metrics=["accuracy"])
    trained.fit(pairs.map(mix).prefetch(2), epochs=15, verbose=0)
    return model, (0, 1), test, 4 / 255


def vision_transformer(wrap):
    """https://keras.io/examples/vision/image_classification_with_vision_transformer/, on small images."""
    (x_train, y_train), test = images_of("cifar10", 8000, 1000)
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(64, 4, strides=4)(layers.Rescaling(1 / 127.5, -1)(inputs))
    x = layers.Reshape((64, 64))(x)
    x = x + layers.Embedding(64, 64)(keras.ops.arange(64))
    for _ in range(4):
        a = layers.LayerNormalization(epsilon=1e-6)(x)
        x = x + layers.MultiHeadAttention(4, 16, dropout=0.1)(a, a)
        a = layers.Dense(128, activation="gelu")(layers.LayerNormalization(epsilon=1e-6)(x))
        x = x + layers.Dropout(0.1)(layers.Dense(64)(a))
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization(epsilon=1e-6)(x))
    model = keras.Model(inputs, layers.Dense(10)(x))
    trained = wrap(model, eps=4 / 255, input_range=(0, 255))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile(keras.optimizers.AdamW(1e-3, weight_decay=1e-4), loss, metrics=["accuracy"])
    trained.fit(x_train, y_train, batch_size=128, epochs=20, verbose=0)
    return model, (0, 255), test, 4 / 255


TUTORIALS = (mnist_convnet, from_scratch, transfer_learning, mixup, vision_transformer)


def plain(model, **_):
    """The tutorial as it is."""
    return model


def hardened(model, **options):
    """The line that is added."""
    return tfadv.AdversarialModel(model, "nfgsm", **options)


def main(argv):
    del argv
    print("| tutorial | eps | training | clean | AutoAttack | 95% interval | minutes |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for tutorial in TUTORIALS:
        if SETTINGS.only and tutorial.__name__ not in SETTINGS.only:
            continue
        for wrap in (plain, hardened):
            keras.utils.set_random_seed(0)
            started = time.monotonic()
            model, input_range, (x, y), eps = tutorial(wrap)
            minutes = (time.monotonic() - started) / 60
            classifier = tfadv.classifier(model, input_range, quiet=True)
            clean = tfadv.evaluate(classifier, x, y, None).clean_accuracy
            attacked = tfadv.evaluate(classifier, x[:ATTACKED], y[:ATTACKED], "autoattack", eps)
            low, high = attacked.interval
            cells = [tutorial.__name__, f"{eps:.3f}", wrap.__name__, f"{100 * clean:.1f}"]
            cells += [f"{100 * attacked.robust_accuracy:.1f}", f"{100 * low:.1f} to {100 * high:.1f}", f"{minutes:.1f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(SETTINGS(sys.argv))
