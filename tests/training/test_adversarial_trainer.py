import keras
import numpy as np
import pytest

import tfadv
from tfadv.defenses import DEFENSES
from tfadv.errors import UserError
from tfadv.training import trainer
from tfadv.training.adversarial_trainer import AdversarialTrainer


def cnn(classes=10, shape=(32, 32, 1)):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Conv2D(8, 5, strides=2, activation="relu"),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(classes),
        ]
    )


def test_three_lines_harden_a_model_that_tfadv_did_not_make(digits):
    x, y = digits.images[:1200], digits.labels[:1200]
    test_x, test_y = digits.images[1200:1500], digits.labels[1200:1500]
    model = cnn()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x.astype("float32") / 255, y, epochs=6, verbose=0)
    before = tfadv.evaluate(model, test_x, test_y, attack="pgd", eps=0.1)
    record = tfadv.AdversarialTrainer(model, defense="nfgsm", eps=0.1).fit(x, y, epochs=6, batch_size=32)
    after = tfadv.evaluate(model, test_x, test_y, attack="pgd", eps=0.1)
    assert before.clean_accuracy > 0.85 and after.clean_accuracy > 0.8
    assert after.robust_accuracy > before.robust_accuracy + 0.2
    assert len(record["history"]["val_robust_accuracy"]) == 6


def test_an_application_of_keras_is_hardened(digits):
    model = keras.applications.MobileNet((32, 32, 3), weights=None, classes=10, classifier_activation=None, alpha=0.25)
    x = np.repeat(digits.images[:96], 3, axis=-1).astype("float32") / 255
    before = model.get_weights()
    record = AdversarialTrainer(model, defense="nfgsm(share=0.5)").fit(x, digits.labels[:96], epochs=1, batch_size=16)
    assert record["steps"] == 86 // 16 and all(np.isfinite(w).all() for w in model.get_weights())
    changed = any((a != b).any() for a, b in zip(before, model.get_weights()))
    assert changed == (record["best_epoch"] > 0)  # one epoch on 86 images need not be better


def test_same_seed_same_weights_and_eps_decides(digits):
    models = [cnn() for _ in range(3)]
    start, trainers = models[0].get_weights(), [AdversarialTrainer(m, eps=e) for m, e in zip(models, (0.1, 0.1, 0.2))]
    weights = []
    for i, seed in ((0, 0), (1, 0), (1, 1), (2, 0)):
        models[i].set_weights(start)
        trainers[i].fit(digits.images[:200], digits.labels[:200], epochs=4, batch_size=16, seed=seed)
        weights.append(np.concatenate([w.ravel() for w in models[i].get_weights()]))
    np.testing.assert_array_equal(weights[0], weights[1])
    assert (weights[0] != weights[2]).any() and (weights[0] != weights[3]).any()


def test_the_collapsed_epoch_is_never_kept_and_a_stronger_attack_takes_over(digits, monkeypatch, caplog):
    """Robust accuracy is made to fall in the fourth epoch, as it does in catastrophic overfitting."""
    accuracies = iter([0.05, 0.1, 0.3, 0.5, 0.05, 0.4, 0.45])  # the first is that of the start
    monkeypatch.setattr(trainer.Trainer, "_robust_accuracy", lambda self, run: (next(accuracies), 20))
    monkeypatch.setattr(trainer, "hardly_better_than_guessing", lambda *_: False)
    model = cnn()
    with caplog.at_level("WARNING", logger="tfadv"):
        record = AdversarialTrainer(model, eps=0.1).fit(digits.images[:200], digits.labels[:200], epochs=6)
    assert record["best_epoch"] == 3 and record["collapsed_epoch"] == 4
    assert "training continues with pgd(steps=2)." in caplog.text
    (message,) = [r.getMessage() for r in caplog.records if r.name == "tfadv.training.trainer"]
    assert "fell from 50.0% to 5.0%" in message and "epoch 3 are restored" in message and "steps=2" in message


def test_real_catastrophic_overfitting_is_noticed_and_undone(digits):
    """One large step without noise fools training images less and less, while robust accuracy collapses."""
    x, y = digits.images[:, ::2, ::2], digits.labels
    keras.utils.set_random_seed(0)
    convolutions = [
        keras.layers.Conv2D(channels, size, strides=2, activation="relu", padding="same")
        for channels, size in ((16, 5), (32, 3))
    ]
    dense = [keras.layers.Flatten(), keras.layers.Dense(64, activation="relu"), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((16, 16, 1)), *convolutions, *dense])
    defense = "nfgsm(noise=0, step=5, optimizer=sgd, learning_rate=0.1)"
    record = AdversarialTrainer(model, defense=defense, eps=0.1).fit(x[:1500], y[:1500], epochs=30, batch_size=32)
    robust = record["history"]["val_robust_accuracy"]
    epoch = record["collapsed_epoch"]
    assert robust[epoch - 1] < max(robust[: epoch - 1]) - 0.2
    assert record["best_epoch"] == 1 + robust.index(max(robust)) != epoch and max(robust) == max(robust[epoch:])
    after = tfadv.evaluate(model, x[1500:], y[1500:], attack="pgd(steps=10)", eps=0.1)
    assert after.robust_accuracy > robust[epoch - 1] + 0.1


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"defense": "nfgms"}, UserError, "did you mean 'nfgsm'"),
        ({"defense": "nfgsm(shar=1)"}, UserError, "has no setting 'shar'"),
        ({"defense": "nfgsm(share=2)"}, UserError, "share must be a finite number above 0"),
        ({"defense": "nfgsm,pgd"}, ValueError, "one defense"),
        ({"eps": 0}, ValueError, "eps must be one number above 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        AdversarialTrainer(cnn(), **arguments)


def test_wrong_images_are_named(digits):
    hardener = AdversarialTrainer(cnn())
    with pytest.raises(ValueError, match="from 0 to 255, got 0 to 510"):
        hardener.fit(2 * digits.images.astype("int32"), digits.labels)
    with pytest.raises(ValueError, match="from 0 to 255"):
        hardener.fit(digits.images.astype("float32"), digits.labels)


def test_the_table_of_defenses_has_settings_in_its_entries():
    assert DEFENSES["trades"](beta=3).beta == 3


def test_a_defense_that_trains_on_clean_or_on_stored_images_is_refused():
    with pytest.raises(ValueError, match="control does not attack in each step: it trains as fit does"):
        AdversarialTrainer(cnn(), defense="control")
    with pytest.raises(ValueError, match="rounds does not .* needs stored images, which the command line makes"):
        AdversarialTrainer(cnn(), defense="rounds")


def test_models_without_logits_and_labels_of_other_classes_are_refused(digits):
    x, y = digits.images[:100], digits.labels[:100]
    ending = keras.Sequential([cnn(), keras.layers.Softmax()])
    with pytest.raises(ValueError, match="ends in a softmax .*tfadv.classifier"):
        AdversarialTrainer(ending).fit(x, y)
    with pytest.raises(ValueError, match="class numbers from 0 to 4"):
        AdversarialTrainer(cnn(classes=5)).fit(x, np.concatenate([np.zeros(40), y[40:]]))
