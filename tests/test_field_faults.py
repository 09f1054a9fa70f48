"""What went wrong for users of their own models, images and data sets: each input with the right value."""

import math
import tracemalloc

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_digits

import tfadv
from tfadv.datasets.arrays import labeled_batches
from tfadv.defenses.base import Defense
from tfadv.errors import UserError
from tfadv.evaluation import evaluator
from tfadv.models.logits import original
from tfadv.training import Trainer


def network(shape=(8, 8, 1), **options):
    body = [layers.Conv2D(16, 3, padding="same", activation="relu"), layers.MaxPooling2D(), layers.Flatten()]
    return keras.Sequential(
        [keras.Input(shape), layers.Rescaling(1 / 255), *body, layers.Dense(10, activation="softmax", **options)]
    )


@pytest.fixture(scope="module")
def data():
    """(x uint8 (1797, 8, 8, 1), y int64 (1797,))."""
    digits = load_digits()
    return (digits.images[..., None] / 16 * 255).astype("uint8"), digits.target


@pytest.fixture(scope="module")
def trained(data):
    """A model of pixels from 0 to 255, trained on the first 1,400 images."""
    x, y = data
    keras.utils.set_random_seed(0)
    model = network()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x[:1400], y[:1400], epochs=8, verbose=0)
    return model


@pytest.fixture
def classifier(trained):
    """A classifier of a copy of the trained model, which a test may train further."""
    copy = keras.models.clone_model(trained)
    copy.set_weights(trained.get_weights())
    return tfadv.classifier(copy, (0, 255), quiet=True)


class Counted(keras.utils.PyDataset):
    """Batches that count how often they are drawn."""

    def __init__(self, *arrays, size=450):
        super().__init__()
        self.arrays, self.size, self.drawn, self.epochs = arrays, size, 0, 0

    def __len__(self):
        return math.ceil(len(self.arrays[0]) / self.size)

    def __getitem__(self, i):
        self.drawn += 1
        return tuple(a[self.size * i : self.size * (i + 1)] for a in self.arrays)

    def on_epoch_end(self):
        self.epochs += 1


def pixels_of(name, x):
    """The same images in another form."""
    return {
        "uint8": x,
        "int64": x.astype("int64"),
        "float32 0-255": x.astype("float32"),
        "float64 0-1": x / 255,
        "list": x.tolist(),
        "tensor": tf.constant(x),
    }[name]


@pytest.mark.parametrize("form", ["uint8", "int64", "float32 0-255", "float64 0-1", "list", "tensor"])
def test_the_same_pixels_in_every_form_give_the_same_accuracies(data, classifier, form):
    x, y = (a[1400:1500] for a in data)
    expected = tfadv.evaluate(classifier, x, y, "pgd(steps=3)", 0.1)
    result = tfadv.evaluate(classifier, pixels_of(form, x), y, "pgd(steps=3)", 0.1)
    np.testing.assert_array_equal(result.robust, expected.robust)


@pytest.mark.parametrize("kind", ["keras loader", "dicts", "single", "PyDataset", "weights"])
def test_a_data_set_gives_the_accuracies_of_its_arrays(data, classifier, kind, caplog):
    x, y = (a[1400:1500] for a in data)
    expected = tfadv.evaluate(classifier, x, y, "pgd(steps=3)", 0.1)
    of_slices = tf.data.Dataset.from_tensor_slices
    dataset = {
        "keras loader": of_slices((x.astype("float32"), tf.one_hot(y, 10))).batch(32),
        "dicts": of_slices({"id": np.arange(100), "image": x, "label": y}).batch(7),
        "single": of_slices((x, y)),
        "PyDataset": Counted(x, y),
        "weights": of_slices((x, y, np.ones(100, "float32"))).batch(64),
    }[kind]
    result = tfadv.evaluate(classifier, dataset, attack="pgd(steps=3)", eps=0.1)
    np.testing.assert_array_equal(result.robust, expected.robust)
    assert ("sample weights are not used" in caplog.text) == (kind == "weights")


def test_whole_numbers_0_and_1_are_black_and_white_and_a_line_says_so(data, classifier, caplog):
    x, y = data[0][:200] > 127, data[1][:200]
    expected = tfadv.evaluate(classifier, x.astype("float32"), y, None)
    assert expected.clean_accuracy > 0.5
    for same in (x.astype("uint8"), x):
        caplog.clear()
        result = tfadv.evaluate(classifier, same, y, None)
        np.testing.assert_array_equal(result.clean_correct, expected.clean_correct)
        assert ("1 is read as white" in caplog.text) == (same.dtype == np.uint8)


def test_a_model_that_guesses_is_named(data, trained, caplog):
    x, y = (a[1400:1500] for a in data)
    forgotten = tfadv.classifier(trained, quiet=True)  # input_range=(0, 255) is missing
    tfadv.evaluate(forgotten, x, y, None)
    assert "hardly more than guessing" in caplog.text and "input_range" in caplog.text


@pytest.mark.parametrize("eps", ["0.1", "25.5/255", ["0.05", 0.1]])
def test_eps_may_be_a_text(data, classifier, eps):
    x, y = (a[1400:1450] for a in data)
    result = tfadv.evaluate(classifier, x, y, "fgsm", eps)
    assert np.max(result.eps) == pytest.approx(0.1) and result.robust[-1].sum() < 50


@pytest.mark.parametrize("eps", [8, [0.1, 8], 2.0])
@pytest.mark.parametrize(
    "call",
    [
        lambda c, x, y, eps: tfadv.evaluate(c, x, y, "pgd", eps),
        lambda c, x, y, eps: tfadv.attacks.FGSM()(c, x.astype("float32") / 255, y, eps),
        lambda c, x, y, eps: tfadv.check_gradient_masking(c, x, y, np.max(eps)),
        lambda c, x, y, eps: tfadv.explain(c, x, y, np.max(eps)),
        lambda c, x, y, eps: tfadv.AdversarialModel(c, eps=np.max(eps)),
    ],
)
def test_eps_of_255_levels_is_explained(data, classifier, call, eps):
    with pytest.raises(ValueError, match="eps must be"):
        call(classifier, data[0][:4], data[1][:4], eps)


def test_eps_in_l2_may_be_larger_than_a_pixel(data, classifier):
    x, y = (a[1400:1420] for a in data)
    assert tfadv.evaluate(classifier, x, y, "pgd(norm=l2)", 2.0).n == 20
    with pytest.raises(ValueError, match="eps must be at most 8"):  # the distance of black and white, √64
        tfadv.evaluate(classifier, x, y, "pgd(norm=l2)", 9.0)


@pytest.mark.parametrize("shape", [(8, 8), (64,)])
def test_images_without_channels_are_attacked_as_they_are(data, trained, shape):
    x, y = (a[1400:1500] for a in data)
    images = keras.Input(shape)
    model = keras.Model(images, trained(layers.Reshape((8, 8, 1))(images)))
    flat = x.reshape(100, *shape)
    result, expected = (
        tfadv.evaluate(tfadv.classifier(m, (0, 255), quiet=True), own, y, "pgd(steps=3)", 0.1, keep_images=True)
        for m, own in ((model, flat), (trained, x))
    )
    np.testing.assert_array_equal(result.robust, expected.robust)
    assert result.adversarial.shape == flat.shape
    np.testing.assert_allclose(result.adversarial, expected.adversarial.reshape(flat.shape))


def test_logits_of_flat_images_need_no_classifier():
    model = keras.Sequential([keras.Input((28, 28)), layers.Flatten(), layers.Dense(10)])
    x = np.random.default_rng(0).random((8, 28, 28), np.float32)
    y = model(x).numpy().argmax(1)
    assert tfadv.attacks.PGD(steps=2)(model, x, y, 0.1).shape == x.shape
    assert tfadv.evaluate(model, x, y, "square(steps=5)", 0.3).n == 8


def test_a_model_of_several_inputs_is_told_what_to_write(trained):
    images, age = keras.Input((8, 8, 1), name="image"), keras.Input((3,), name="meta")
    model = keras.Model([images, age], layers.Dense(10)(layers.Concatenate()([layers.Flatten()(images), age])))
    with pytest.raises(ValueError, match=r"image \(8, 8, 1\), meta \(3,\).*keras.Model\(image, outputs\)"):
        tfadv.classifier(model)
    image = keras.Input((8, 8, 1))
    fixed = tfadv.classifier(keras.Model(image, model([image, layers.Lambda(lambda x: x[:, :3, 0, 0] * 0)(image)])))
    assert fixed.output_shape == (None, 10)


def test_an_upper_bound_is_named(data, classifier, caplog):
    x, y = (a[1400:1500] for a in data)
    confident = keras.Sequential([classifier, layers.Rescaling(1e4)])
    result = tfadv.evaluate(confident, x, y, "pgd(steps=3)", 0.1)
    assert result.robust_accuracy > 0.8 and "upper bound" in caplog.text and "upper bound" in result.summary()
    assert result.without_gradient > 0.9 * result.gradients_checked > 50
    caplog.clear()
    assert tfadv.evaluate(confident, x, y, "apgd-dlr(steps=10)", 0.1).robust_accuracy < 0.6
    assert tfadv.evaluate(classifier, x, y, "pgd(steps=3)", 0.1).without_gradient <= 3 and not caplog.text


@pytest.mark.parametrize(
    "text, words",
    [
        ("pgd(alpha=0.01)", "alpha is step_size here"),
        ("pgd(iterations=10)", "iterations is steps here"),
        ("square(n_queries=10)", "n_queries is steps here"),
        ("pgd(stepz=3)", "did you mean 'steps'"),
        ("pgd(eps=0.1)", "no setting 'eps': the eps of a run is given beside the attack"),
        ("autoattack(version=rand)", "no setting 'version': autoattack accepts"),
        ("pgdd", "did you mean 'pgd'"),
    ],
)
def test_names_of_other_libraries_are_translated(text, words):
    with pytest.raises(UserError, match=words):
        tfadv.attacks.parse(text)


def test_capital_letters_do_not_matter():
    assert tfadv.attacks.parse("PGD(steps=3)") == tfadv.attacks.parse("pgd(steps=3)")
    expected = tfadv.attacks.PGD(norm="l2", random_start=False)
    assert tfadv.attacks.parse("pgd(norm=L2, random_start=False)") == expected


@pytest.mark.parametrize(
    "x, words",
    [
        (tf.ragged.constant([[1.0], [1.0, 2.0]]), "RaggedTensor: give them in one shape"),
        (tf.sparse.from_dense([[1.0, 0.0], [0.0, 1.0]]), "SparseTensor: give them in one shape"),
    ],
)
def test_tensors_that_are_no_images_are_refused(classifier, x, words):
    with pytest.raises(ValueError, match=words):
        tfadv.evaluate(classifier, x, [0, 1], None)


def test_a_variable_holds_images(data, classifier):
    x, y = (a[1400:1420] for a in data)
    result = tfadv.evaluate(classifier, tf.Variable(x), y, None)
    assert result.clean_accuracy == tfadv.evaluate(classifier, x, y, None).clean_accuracy > 0.5


def test_the_class_of_an_attack_is_no_attack(data, classifier):
    with pytest.raises(ValueError, match="attack must be an attack, a text"):
        tfadv.evaluate(classifier, data[0][:5], data[1][:5], tfadv.attacks.PGD)


@pytest.mark.parametrize("kind, greatest", [("uint8", 16), ("int64", 16), ("uint16", 65535), ("int32", 65535)])
def test_whole_numbers_are_read_in_the_range_of_the_model(data, trained, kind, greatest):
    x, y = (a[1400:1500] for a in data)
    expected = tfadv.evaluate(tfadv.classifier(trained, (0, 255), quiet=True), x, y, None).clean_correct
    scaled = np.round(x / 255 * greatest).astype(kind)
    of_range = keras.Sequential([keras.Input((8, 8, 1)), layers.Rescaling(255 / greatest), trained])
    result = tfadv.evaluate(tfadv.classifier(of_range, (0, greatest), quiet=True), scaled, y, None)
    np.testing.assert_array_equal(result.clean_correct, expected)


def test_uint8_images_of_a_model_of_16_bits_are_from_0_to_255(data, trained):
    x, y = (a[1400:1500] for a in data)
    expected = tfadv.evaluate(tfadv.classifier(trained, (0, 255), quiet=True), x, y, None).clean_correct
    of_16_bits = keras.Sequential([keras.Input((8, 8, 1)), layers.Rescaling(1 / 257), trained])
    result = tfadv.evaluate(tfadv.classifier(of_16_bits, (0, 65535), quiet=True), x, y, None)
    np.testing.assert_array_equal(result.clean_correct, expected)


# ---- hardening ------------------------------------------------------------------------------------------------------


def harden(classifier, x, y=None, *, eps=0.1, rate=0.003, epochs=3, held_out=slice(0, 100), defense="nfgsm"):
    """Adversarial training of the model of a classifier, on pixels from 0 to 255; returns the callback."""
    model = original(classifier)
    robust = tfadv.AdversarialModel(model, defense, eps, (0, 255))
    loss = keras.losses.SparseCategoricalCrossentropy()
    robust.compile(keras.optimizers.Adam(rate), loss=loss, metrics=["accuracy"], jit_compile=False)
    validation = [array[held_out] for array in (load_digits().images[..., None] / 16 * 255, load_digits().target)]
    callback = tfadv.RobustAccuracy(*validation, "pgd(steps=5)", eps, restore_best_weights=True)
    robust.fit(x, y, epochs=epochs, verbose=0, callbacks=[callback])
    return callback


@pytest.mark.parametrize("rate", [1e8, 1e3])
def test_training_that_fails_leaves_every_variable_as_it_was(data, classifier, rate, caplog):
    before = classifier.get_weights()
    assert harden(classifier, *data, rate=rate, epochs=2).best_epoch == 0 and "weights are unchanged" in caplog.text
    assert all((a == b).all() for a, b in zip(classifier.get_weights(), before))


def test_images_in_0_to_1_for_a_model_of_0_to_255_are_refused(data, classifier):
    with pytest.raises(ValueError, match="pixels from 0 to 1, and the model expects 0 to 255: multiply them by 255"):
        harden(classifier, data[0][:100] / np.float32(255), data[1][:100], epochs=1)


def test_a_data_set_of_dicts_is_told_what_to_map(data, classifier):
    pipeline = tf.data.Dataset.from_tensor_slices({"image": data[0][:64], "label": data[1][:64]}).batch(32)
    with pytest.raises(ValueError, match=r"2 inputs \(image, label\).*map the data set to \(image, label\)"):
        harden(classifier, pipeline, epochs=1)


def test_validation_images_below_0_cause_no_warning(data, caplog):
    """They are in the range of the model, [-1, 1], and read once."""
    model = network()
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = data[0][:64].astype("float32") / 127.5 - 1, data[1][:64]
    model.fit(x, y, verbose=0, callbacks=[tfadv.RobustAccuracy(x, y, "fgsm", 0.1, input_range=(-1, 1))])
    assert "although the model expects" not in caplog.text


def test_a_better_model_is_kept(data, classifier):
    x, y = data
    before = tfadv.evaluate(classifier, x[1400:], y[1400:], "pgd", 0.1)
    assert harden(classifier, x[:1400], y[:1400], epochs=6).best_epoch > 0
    assert tfadv.evaluate(classifier, x[1400:], y[1400:], "pgd", 0.1).robust_accuracy > before.robust_accuracy


def test_the_users_model_keeps_its_optimizer_and_loads_without_tfadv(data, tmp_path):
    """A layer that is used twice has no optimized clone."""
    images, twice = keras.Input((8, 8, 1)), layers.Dense(8, activation="relu")
    x = layers.Flatten()(twice(twice(layers.Dense(8)(images))))
    model = keras.Model(images, layers.Dense(10, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy")
    optimizer = model.optimizer
    harden(tfadv.classifier(model, quiet=True), *data, epochs=1)
    assert model.optimizer is optimizer and int(optimizer.iterations) == 0
    model.save(tmp_path / "hardened.keras")
    loaded = keras.saving.load_model(tmp_path / "hardened.keras")
    np.testing.assert_allclose(loaded(data[0][:5]), model(data[0][:5]), rtol=1e-5)


@pytest.mark.parametrize("rows", ["60 images", "2 images"])
def test_few_images_are_enough(data, classifier, rows):
    number = int(rows.split()[0])
    harden(classifier, data[0][:number], data[1][:number], epochs=1, held_out=slice(0, number))


def test_a_quantized_model_is_refused_in_one_line(trained):
    model = keras.models.clone_model(trained)
    model.quantize("int8")
    with pytest.raises(UserError, match="harden the float model, then quantize it"):
        tfadv.AdversarialModel(model, input_range=(0, 255))


def test_images_are_not_kept_unless_asked_for(data, classifier):
    x, y = (a[1400:1450] for a in data)
    assert tfadv.evaluate(classifier, x, y, "fgsm", 0.1).adversarial is None
    assert tfadv.evaluate(classifier, x, y, "fgsm", 0.1, keep_images=True).adversarial.shape == x.shape


@pytest.mark.parametrize("attack", ["fgsm", "pgd(steps=1)"])
def test_evaluate_takes_little_more_memory_than_a_piece_of_the_images(monkeypatch, attack):
    """What NumPy allocates on top of 8 MB of images, which are 34 MB in float32 and 101 MB for three eps."""
    monkeypatch.setattr(evaluator, "_PIECE_BYTES", 2**21)
    model = keras.Sequential([keras.Input((64, 64, 1)), layers.Flatten(), layers.Dense(10)])
    images = np.random.default_rng(0).integers(0, 256, (2048, 64, 64, 1), dtype=np.uint8)
    dataset = tf.data.Dataset.from_tensors((images[:128], np.zeros(128, int))).repeat(16)
    for given in ((images, np.zeros(2048, int)), (dataset,)):
        tracemalloc.start()
        try:
            assert tfadv.evaluate(model, *given, attack=attack, eps=[0.01, 0.02, 0.03]).n == 2048
            assert tracemalloc.get_traced_memory()[1] < 0.3 * images.nbytes + 2**24
        finally:
            tracemalloc.stop()


def test_a_later_batch_with_pixels_of_another_range_is_refused(data, classifier):
    x, y = (a[:900] for a in data)
    dataset = Counted(np.concatenate([x[:450] * 1.0, x[450:] * 2.0]), y)
    with pytest.raises(ValueError, match=r"and input_range is \(0, 255\)"):
        harden(classifier, dataset)


def test_weights_in_a_dict_are_used(data):
    x, y = (a[:20] for a in data)
    weights = np.arange(20) / 20
    dataset = tf.data.Dataset.from_tensor_slices({"image": x, "label": y, "sample_weight": weights}).batch(20)
    ((images, labels, found),) = labeled_batches(dataset)
    np.testing.assert_array_equal(images, x)
    np.testing.assert_array_equal(labels, y)
    np.testing.assert_array_equal(found, weights.astype("float32"))


class NoLoss(Defense):
    def loss(self, model, x, y, adversarial):
        losses, logits = super().loss(model, x, y, adversarial)
        return 0.0 * losses, logits


def test_regularizers_of_the_model_are_used(data):
    """Where the defense has no loss, only L2(0.3) has a gradient: 0.6 w. A first step of SGD takes 0.19 of it."""
    x, y = data[0][:20] / np.float32(255), data[1][:20]
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10, kernel_regularizer=keras.regularizers.L2(0.3))]
    )
    kernel, bias = model.get_weights()
    trainer = Trainer(model, weight_decay=0.0, defense=NoLoss())
    trainer._optimizer.learning_rate = 0.1
    trainer.train_step(tf.constant(x), tf.constant(y))
    np.testing.assert_allclose(model.get_weights()[0], kernel * (1 - 0.1 * 1.9 * 0.6), rtol=1e-5)
    np.testing.assert_array_equal(model.get_weights()[1], bias)


def enable_lora(model):
    model.layers[-1].enable_lora(2)
    rng = np.random.default_rng(0)
    for variable in (model.layers[-1].lora_kernel_a, model.layers[-1].lora_kernel_b):
        variable.assign(rng.normal(size=variable.shape))


@pytest.mark.parametrize("change", [lambda model: model.quantize("int4"), enable_lora])
def test_a_classifier_follows_a_model_whose_layers_are_changed(data, classifier, change):
    x, y = (a[1400:1500] for a in data)
    model = original(classifier)
    before = tfadv.evaluate(classifier, x, y, "pgd(steps=3)", 0.05)
    change(model)
    after, anew = (
        tfadv.evaluate(each, x, y, "pgd(steps=3)", 0.05, keep_images=True)
        for each in (classifier, tfadv.classifier(model, (0, 255), quiet=True))
    )
    np.testing.assert_array_equal(after.adversarial, anew.adversarial)
    assert (before.robust != after.robust).any()


def test_a_layer_that_is_frozen_between_two_fits_stays(data, classifier):
    x, y = (a[:900] for a in data)
    convolution = original(classifier).layers[1]
    harden(classifier, x, y, epochs=1)
    convolution.trainable = False
    kernel, head = convolution.get_weights()[0], original(classifier).layers[-1].get_weights()[0]
    assert harden(classifier, x, y, epochs=6).best_epoch > 0
    np.testing.assert_array_equal(convolution.get_weights()[0], kernel)
    assert (original(classifier).layers[-1].get_weights()[0] != head).any()
