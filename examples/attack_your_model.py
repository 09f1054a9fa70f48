"""How easily is a Keras classifier fooled?  Trains a small one on digits, attacks it, and checks the figures."""

import tfadv  # before TensorFlow and Keras: it enables oneDNN, which is much faster on CPUs
import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

EPS = 0.1  # the largest change of a pixel; pixels are in [0, 1]

# Your model and your images.  The images are uint8, or float32 in [0, 1].
keras.utils.set_random_seed(0)
digits = load_digits()
x = (digits.images[..., None] / 16 * 255).astype("uint8")
x_train, x_test, y_train, y_test = train_test_split(x, digits.target, test_size=0.2, random_state=0)
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

# A model from pixels in [0, 1] to logits.  It shares the weights of yours, which takes pixels from 0 to 255.
classifier = tfadv.classifier(model, input_range=(0, 255))

# From weak to strong.  AutoAttack is the one to publish.
for attack in ("fgsm", "pgd(steps=20)", "autoattack"):
    result = tfadv.evaluate(classifier, x_test, y_test, attack, EPS)
    low, high = result.interval
    print(f"{attack:14} {result.robust_accuracy:6.1%} robust, 95% interval {low:.1%} to {high:.1%}")
print(f"{'clean':14} {result.clean_accuracy:6.1%} of {result.n} images")

# Does the model hide its gradient?
checks = tfadv.check_gradient_masking(classifier, x_test[:128], y_test[:128], EPS)
for check in checks:
    if check.passed is False:
        print("SUSPICIOUS:", check.sentence)
print(f"{sum(check.passed is True for check in checks)} of {len(checks)} checks for gradient masking passed")

# How far is an image from being fooled?
medians = tfadv.explain(classifier, x_test[:64], y_test[:64], EPS).vulnerability.medians()
print(f"smallest eps that fools the model, median of 64 images: {medians['smallest_eps']:.3f}")
