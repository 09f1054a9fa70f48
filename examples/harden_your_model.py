"""Makes a Keras classifier harder to fool, and shows by how much."""

import tfadv  # before TensorFlow and Keras: it enables oneDNN, which is much faster on CPUs
import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

EPS = 0.1  # the largest change of a pixel; pixels are in [0, 1]

# Your model and your images.
keras.utils.set_random_seed(0)
digits = load_digits()
x = (digits.images[..., None] / 16 * 255).astype("uint8")
x_train, x_test, y_train, y_test = train_test_split(x, digits.target, test_size=0.2, random_state=0)
x_train, x_val, y_train, y_val = train_test_split(x_train, y_train, test_size=0.1, random_state=0)
model = keras.Sequential([
    keras.Input((8, 8, 1)),
    keras.layers.Rescaling(1 / 255),
    keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
    keras.layers.MaxPooling2D(),
    keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
    keras.layers.Flatten(),
    keras.layers.Dense(10, activation="softmax"),
])  # fmt: skip
model.compile("adam", "sparse_categorical_crossentropy")
model.fit(x_train, y_train, epochs=20, verbose=0)


def show(title: str) -> None:
    """Prints the accuracy on clean images and under PGD.  For a figure to publish, take "autoattack"."""
    result = tfadv.evaluate(classifier, x_test, y_test, "pgd(steps=20)", EPS)
    low, high = result.interval
    print(f"{title:7} clean {result.clean_accuracy:.1%}, PGD-20 {result.robust_accuracy:.1%} [{low:.1%}, {high:.1%}]")


classifier = tfadv.classifier(model, input_range=(0, 255))
show("before")

# Every batch is attacked before the weights are updated.  The epoch with the highest accuracy under PGD is kept.
robust = tfadv.AdversarialModel(model, defense="nfgsm", eps=EPS, input_range=(0, 255))
robust.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
accuracy = tfadv.RobustAccuracy(x_val, y_val, "pgd(steps=10)", eps=EPS, restore_best_weights=True)
robust.fit(x_train, y_train, validation_data=(x_val, y_val), epochs=20, verbose=0, callbacks=[accuracy])
print(f"kept epoch {accuracy.best_epoch} of 20")
show("after")

# The weights are those of your model, which keeps its softmax and its range of pixels.
model.save("hardened.keras")
print("saved hardened.keras, which loads without tfadv")
