"""Trains several defenses from the same weights and prints one row for each."""

import tfadv  # before TensorFlow and Keras: it enables oneDNN, which is much faster on CPUs
import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

EPS = 0.1  # the largest change of a pixel; pixels are in [0, 1]
EPOCHS = 15
DEFENSES = ("nfgsm", "nfgsm(share=0.5)", "pgd(steps=2)", "trades(steps=2)")

digits = load_digits()
x = (digits.images[..., None] / 16 * 255).astype("uint8")
x_train, x_test, y_train, y_test = train_test_split(x, digits.target, test_size=0.2, random_state=0)
x_train, x_val, y_train, y_val = train_test_split(x_train, y_train, test_size=0.1, random_state=0)


def new_model() -> keras.Model:
    """A small network for pixels from 0 to 255."""
    model = keras.Sequential([
        keras.Input((8, 8, 1)),
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dense(10),
    ])  # fmt: skip
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def row(name: str, model: keras.Model) -> str:
    """Accuracies on the test images."""
    classifier = tfadv.classifier(model, input_range=(0, 255))
    result = tfadv.evaluate(classifier, x_test, y_test, "pgd(steps=20)", EPS)
    low, high = result.interval
    clean, robust = result.clean_accuracy, result.robust_accuracy
    return f"{name:17} {clean:6.1%} {robust:7.1%} [{low:.1%}, {high:.1%}]"


keras.utils.set_random_seed(0)
original = new_model()
original.fit(x_train, y_train, epochs=20, verbose=0)
print(f"{'defense':17} {'clean':>6} {'PGD-20':>7} 95% interval")
print(row("original", original))

for defense in DEFENSES:
    model = new_model()
    model.set_weights(original.get_weights())
    robust = tfadv.AdversarialModel(model, defense, EPS, input_range=(0, 255))
    robust.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    best = tfadv.RobustAccuracy(x_val, y_val, eps=EPS, restore_best_weights=True)
    robust.fit(x_train, y_train, epochs=EPOCHS, verbose=0, callbacks=[best])
    print(row(defense, model))
