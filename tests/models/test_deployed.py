"""LiteRT and ONNX files and functions of arrays as models: predictions of the file, gradient of the twin."""

import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfadv
from tfadv import evaluate
from tfadv.errors import UserError
from tfadv.evaluation import masking
from tfadv.evaluation.checks import run_checks
from tfadv.models import own, runtimes
from tfadv.models.compiled import compiled_logits
from tfadv.runtime import compilation

EPS = 0.1


@pytest.fixture(scope="module")
def trained(digits):
    """(a softmax model of images (8, 8, 1) in [0, 1], images, labels)."""
    x, y = digits.images[:600, ::4, ::4].astype("float32") / 255, digits.labels[:600]
    keras.utils.set_random_seed(0)
    layers = keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.Flatten()
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(10, activation="softmax")])
    model.compile(keras.optimizers.Adam(0.005), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=8, verbose=0)
    return model, x[:64], y[:64]


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """With model.keras, float.tflite, int8.tflite and fixed.tflite, whose graph takes one image at a time."""
    model, x, _ = trained
    folder = tmp_path_factory.mktemp("deployed")
    model.save(folder / "model.keras")
    model.export(folder / "saved", verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
    (folder / "float.tflite").write_bytes(converter.convert())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in x)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    (folder / "int8.tflite").write_bytes(converter.convert())

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serve",
        lambda image: tf.reshape(model(image), (1, 10)),
        input_signature=[tf.TensorSpec((1, 8, 8, 1))],
    )
    archive.write_out(folder / "one", verbose=False)
    (folder / "fixed.tflite").write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(folder / "one")).convert())
    return folder


def onnx_file(path, model, channels_first):
    """The dense softmax regression of `model` as an ONNX file."""
    onnx = pytest.importorskip("onnx", reason="needs the extra test")
    pytest.importorskip("onnxruntime", reason="needs the extra deployed")
    helper, kernel, bias = onnx.helper, *model.layers[-1].get_weights()
    h, w, c = model.input_shape[1:]
    shape = ["n", c, h, w] if channels_first else ["n", h, w, c]
    nodes = [helper.make_node("Flatten", ["last" if channels_first else "image"], ["flat"])]
    if channels_first:
        nodes.insert(0, helper.make_node("Transpose", ["image"], ["last"], perm=[0, 2, 3, 1]))
    nodes += [helper.make_node("Gemm", ["flat", "kernel", "bias"], ["logits"])]
    graph = helper.make_graph(
        nodes,
        "regression",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", len(bias)])],
        [onnx.numpy_helper.from_array(kernel, "kernel"), onnx.numpy_helper.from_array(bias, "bias")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    path.write_bytes(made.SerializeToString())


def classified(folder, name, trained, **options):
    return tfadv.classifier(tfadv.deployed(folder / name, twin=trained[0], **options))


def test_a_float_file_is_its_keras_model_image_by_image(folder, trained):
    model, x, y = trained
    file = classified(folder, "float.tflite", trained)
    assert not file.weights
    for attack in ("fgsm", "autoattack(attacks=apgd-t+square, steps=5, queries=30, targets=2)"):
        expected = evaluate(tfadv.classifier(model, quiet=True), x, y, attack, EPS)
        found = evaluate(file, x, y, attack, EPS)
        assert 5 < expected.robust.sum() < 60
        assert (found.robust != expected.robust).sum() <= 1
    kept = evaluate(tfadv.classifier(model, quiet=True), x, y, attack, EPS, keep_images=True)
    assert expected.rounded_correct is None and (found.rounded_correct != kept.rounded_correct).sum() <= 1
    assert found.fooled_after_rounding > 0.5 and "rounded to 8 bits" in found.summary()


def test_an_int8_file_decides_and_its_twin_gives_the_gradient(folder, trained):
    model, x, y = trained
    file = tfadv.deployed(folder / "int8.tflite", twin=model)
    images = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(images)
        total = tf.reduce_sum(file(images)[:, 3])
    with tf.GradientTape() as expected:
        expected.watch(images)
        logit = tf.reduce_sum(tfadv.classifier(model, quiet=True)(images)[:, 3])
    np.testing.assert_allclose(tape.gradient(total, images), expected.gradient(logit, images), rtol=1e-4, atol=1e-5)
    interpreter = tf.lite.Interpreter(str(folder / "int8.tflite"))
    interpreter.allocate_tensors()
    (takes,), (returns,) = interpreter.get_input_details(), interpreter.get_output_details()
    classes = []
    for image in x:
        scale, zero = takes["quantization"]
        interpreter.set_tensor(takes["index"], (np.round(image[None] / scale) + zero).clip(-128, 127).astype("int8"))
        interpreter.invoke()
        classes.append(interpreter.get_tensor(returns["index"])[0].argmax())  # the first of equal ones
    np.testing.assert_array_equal(np.argmax(compiled_logits(tfadv.classifier(file), x), axis=1), classes)


def test_without_a_twin_only_attacks_without_gradient_find_anything(folder, trained, caplog):
    _, x, y = trained
    file = tfadv.classifier(tfadv.deployed(folder / "int8.tflite"))
    with caplog.at_level("WARNING", logger="tfadv"):
        blind = evaluate(file, x, y, "pgd(steps=5)", EPS)
    assert "have no gradient for pgd to follow" in caplog.text and blind.robust_accuracy > 0.8 * blind.clean_accuracy
    sizes = {"square(steps=150)": EPS, "sparse-rs(steps=150)": 6, "hopskipjump(queries=1500)": EPS}
    for attack, eps in (sizes | {"rays(queries=400)": EPS}).items():
        assert evaluate(file, x[:16], y[:16], attack, eps).robust.sum() < blind.robust[:16].sum() - 2, attack


def test_a_file_for_one_image_at_a_time(folder, trained):
    file = tfadv.deployed(folder / "fixed.tflite", twin=trained[0])
    batched = tfadv.deployed(folder / "float.tflite", twin=trained[0])
    assert not file.layers[-1]._hidden.predictor._takes_batches
    assert batched.layers[-1]._hidden.predictor._takes_batches
    np.testing.assert_allclose(file(trained[1]), batched(trained[1]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("channels_first", [False, True])
def test_an_onnx_file(channels_first, tmp_path):
    keras.utils.set_random_seed(0)
    layers = keras.layers.Flatten(), keras.layers.Dense(4)
    model = keras.Sequential([keras.Input((4, 5, 3)), *layers])
    onnx_file(tmp_path / "model.onnx", model, channels_first)
    x = np.random.default_rng(0).uniform(size=(30, 4, 5, 3)).astype("float32")
    y = model.predict(x, verbose=0).argmax(axis=1)
    file = tfadv.deployed(tmp_path / "model.onnx", twin=model)
    assert file.input_shape == (None, 4, 5, 3)
    expected = evaluate(model, x, y, "pgd(steps=5)", 0.02)
    np.testing.assert_array_equal(evaluate(file, x, y, "pgd(steps=5)", 0.02).robust, expected.robust)
    assert 0 < expected.robust.sum() < 30


def test_a_function_of_logits_probabilities_or_labels(trained):
    model, x, y = trained
    logits = tfadv.classifier(model, quiet=True)

    def labels(images):
        return model.predict(images, verbose=0).argmax(axis=1)

    functions = {
        "logits": lambda images: logits.predict(images, verbose=0),
        "probabilities": lambda images: model.predict(images, verbose=0),
        "labels": labels,
    }
    expected = evaluate(logits, x, y, "fgsm", EPS)
    for returns, function in functions.items():
        found = tfadv.deployed(function, twin=model)
        assert found.layers[-1].returns == returns
        assert evaluate(found, x, y, None).clean_accuracy == expected.clean_accuracy, returns
    for attack, eps in (("square", EPS), ("sparse-rs", 6)):
        with pytest.raises(UserError, match=f"{attack} needs scores, and the model returns labels: take hopskipjump"):
            evaluate(tfadv.classifier(tfadv.deployed(labels, twin=model)), x, y, attack, eps)
    settings = masking.DiagnosticSettings(steps=2, factor=2, queries=2, targets=2, batch_size=32)
    found = masking.collect_diagnostics(
        tfadv.classifier(tfadv.deployed(labels, twin=model)), x[:8], y[:8], EPS, settings=settings
    )
    assert "square" not in found["attacks"] and "pgd" in found["attacks"]
    (black_box,) = (each for each in run_checks(found) if each.name == "black box")
    assert black_box.passed is None and "Square Attack needs scores" in black_box.sentence
    assert evaluate(tfadv.deployed(functions["logits"], twin=model), x, y, "fgsm", EPS).robust_accuracy == (
        expected.robust_accuracy
    )
    with pytest.raises(ValueError, match="labels returns labels: give classes"):
        tfadv.deployed(labels, input_shape=(8, 8, 1))
    with pytest.raises(ValueError, match="give input_shape"):
        tfadv.deployed(labels)


def test_one_sigmoid(trained):
    _, x, _ = trained
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(1, "sigmoid")])
    y = (model.predict(x, verbose=0)[:, 0] > 0.5).astype(int)
    file = tfadv.classifier(tfadv.deployed(lambda images: model.predict(images, verbose=0), twin=model))
    expected = evaluate(tfadv.classifier(model, quiet=True), x, y, "fgsm", 0.05)
    np.testing.assert_array_equal(evaluate(file, x, y, "fgsm", 0.05).robust, expected.robust)
    assert 0 < expected.robust.sum() < len(y) == expected.clean_correct.sum()


def test_it_is_saved_by_its_paths_and_loaded(folder, trained, tmp_path):
    file = tfadv.deployed(str(folder / "int8.tflite"), twin=str(folder / "model.keras"))
    file.save(tmp_path / "file.keras")
    loaded = keras.models.load_model(tmp_path / "file.keras")
    np.testing.assert_array_equal(loaded(trained[1]), file(trained[1]))
    with pytest.raises(ValueError, match="given by their paths"):
        tfadv.deployed(str(folder / "int8.tflite"), twin=trained[0]).save(tmp_path / "file.keras")


def test_a_function_is_saved_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "mine_to_save.py").write_text(
        "def labels(images):\n    return (images[:, 0, 0, 0] > 0.5).astype(int)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    file = tfadv.deployed("mine_to_save:labels", input_shape=(4, 4, 1), classes=2)
    file.save(tmp_path / "file.keras")
    x = np.random.default_rng(0).uniform(size=(9, 4, 4, 1)).astype("float32")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "file.keras")(x), file(x))


def test_where_xla_is_on_it_is_attacked_without(folder, trained):
    _, x, y = trained
    file = classified(folder, "float.tflite", trained)
    expected = [evaluate(file, x, y, attack, EPS).robust for attack in ("fgsm", "pgd(steps=3)")]
    compilation.configure(jit_compile="true")
    try:
        found = [evaluate(file, x, y, attack, EPS).robust for attack in ("fgsm", "pgd(steps=3)")]
    finally:
        compilation.configure()
    np.testing.assert_array_equal(found, expected)
    assert all(0 < robust.sum() < 64 for robust in expected)


def shape(*given):
    return lambda images: np.zeros((len(images), *given), "float32")


@pytest.mark.parametrize(
    "function, message",
    [
        (shape(2, 2), "must return one row of outputs per image"),
        (lambda images: np.zeros((3, 10)), "got 48 images and returned outputs of shape (3, 10)"),
        (lambda images: ["a"] * len(images), "must return numbers"),
        (lambda images: 1.0, "returned outputs of shape ()"),
        (shape(4), "returns 4 values per image, and its twin 10"),
    ],
)
def test_functions_that_do_not_fit(function, message, trained):
    with pytest.raises(UserError) as raised:
        tfadv.deployed(function, twin=trained[0])
    assert message in str(raised.value)


def nan(images):
    return np.where(np.arange(10) == 3, np.nan, np.zeros((len(images), 10)))


def fails(images):
    raise ConnectionError("the service is down")


def other_class(images):
    return np.full(len(images), 12)


@pytest.mark.parametrize(
    "later, message",
    [
        (nan, "returned NaN or infinity for 64 images"),
        (fails, "later failed on a batch of images (ConnectionError: the service is down)"),
        (shape(9), "returned outputs (64, 9), and before 10 per image"),
    ],
)
@pytest.mark.parametrize("attack", [None, "pgd(steps=2)"])
def test_a_function_that_breaks_later_is_one_line(later, message, attack, trained):
    model, x, y = trained
    calls = []

    def function(images):
        calls.append(len(images))
        return model.predict(images, verbose=0) if len(calls) == 1 else later(images)

    function.__name__ = "later"
    file = tfadv.deployed(function, twin=model)
    with pytest.raises(UserError) as raised:
        evaluate(file, x, y, attack, EPS, batch_size=64)
    assert message in str(raised.value)


def test_a_function_may_change_its_argument(trained):
    """As `preprocess_input` of Keras' applications does."""
    model, x, y = trained

    def in_place(images):
        images *= 255.0
        return model.predict(images / 255.0, verbose=0)

    file = tfadv.deployed(in_place, twin=model)
    result = evaluate(file, x, y, "square(steps=20)", EPS, keep_images=True)
    assert result.adversarial.max() <= 1 and np.abs(result.adversarial - x).max() <= EPS + 1e-6
    assert result.clean_accuracy == evaluate(tfadv.classifier(model, quiet=True), x, y, None).clean_accuracy


def test_logits_of_pixels_to_255_are_not_taken_for_probabilities():
    w = np.random.default_rng(0).normal(size=16) / 255

    def logit(images):
        return (images.reshape(len(images), -1) @ w + 0.4)[:, None]

    x = np.random.default_rng(1).uniform(0, 255, (30, 4, 4, 1)).astype("float32")
    file = tfadv.deployed(logit, input_shape=(4, 4, 1))
    np.testing.assert_allclose(file(x), logit(x), rtol=1e-4)


def test_a_wrapper_is_no_twin(trained):
    with pytest.raises(ValueError, match="give its attribute model"):
        tfadv.deployed(shape(10), twin=tfadv.AdversarialModel(trained[0]))


def test_a_class_out_of_range_is_one_line(trained):
    with pytest.raises(UserError, match="returned class 12, and there are 10 classes"):
        evaluate(tfadv.deployed(other_class, twin=trained[0]), *trained[1:], None)


@pytest.mark.parametrize("name", ["broken.tflite", "empty.tflite", "broken.onnx"])
def test_damaged_files(name, folder, tmp_path):
    if name.endswith(".onnx"):
        pytest.importorskip("onnxruntime", reason="needs the extra deployed")
    (tmp_path / name).write_bytes((folder / "int8.tflite").read_bytes()[:1000] if "broken" in name else b"")
    with pytest.raises(UserError, match=f"{name} can't be read"):
        tfadv.deployed(tmp_path / name)


def test_names_of_the_command_line(folder, tmp_path, monkeypatch):
    name = str(folder / "int8.tflite")
    assert own.is_own(name) and own.is_fixed(name) and own.label(name) == "int8"
    own.check(name)
    assert own.image_shape(name) == (8, 8, 1) and own.channels(name) == 1
    assert own.identity(name) != own.identity(str(folder / "float.tflite"))
    with pytest.raises(UserError, match="there is no model file none.onnx"):
        own.check("none.onnx")
    (tmp_path / "mine_of_a_test.py").write_text("def labels(images):\n    return images[:, 0, 0, 0] > 0.5\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert runtimes.takes_images(own.load("mine_of_a_test:labels"))
    assert own.channels("mine_of_a_test:labels") is None
    assert len(own.identity("mine_of_a_test:labels")["source_sha256"]) == 64


@pytest.mark.parametrize(
    "code, message",
    [
        ("return [[1.0], [1.0, 2.0]] * 24", "must return one row of numbers per image, all of the same length"),
        ("import sys; sys.exit(0)", r"f ended with sys.exit\(0\) and returned nothing"),
        ("return 1 / 0", "of_a_test:f fails on random images .ZeroDivisionError: division by zero"),
        ("return [9] * len(images)", "f returned class 9, and there are 3 classes"),
    ],
)
def test_functions_that_do_not_return_rows_are_one_line(code, message, tmp_path, monkeypatch):
    (tmp_path / "of_a_test.py").write_text(f"def f(images):\n    {code}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "of_a_test", raising=False)
    with pytest.raises(UserError, match=message):
        compiled_logits(own.load("of_a_test:f", "", (4, 4, 1), 3), np.zeros((2, 4, 4, 1), np.float32))


@pytest.mark.parametrize(
    "code, message",
    [
        ("import sys; sys.exit(0)", "of_a_test calls sys.exit when it is imported"),
        ("import sys\ndef f(): sys.exit(0)", "the model of_a_test:f can't be built .SystemExit: 0"),
        ("", "of_a_test:f can't be built .AttributeError"),
    ],
)
def test_modules_that_end_the_process_are_one_line(code, message, tmp_path, monkeypatch):
    """With exit code 0, a gate would have passed."""
    (tmp_path / "of_a_test.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "of_a_test", raising=False)
    with pytest.raises(UserError, match=message):
        own.load("of_a_test:f")


def test_a_function_without_source(monkeypatch):
    """Its module was compiled, or typed."""
    module = types.ModuleType("of_a_test")
    exec("def labels(images):\n    return images[:, 0, 0, 0] > 0.5", module.__dict__)
    monkeypatch.setitem(sys.modules, "of_a_test", module)
    with pytest.raises(UserError, match="name a function of a .py file"):
        own.identity("of_a_test:labels")


def test_a_file_of_any_size_is_tried_with_the_images_that_are_given(tmp_path):
    """The smallest size that a convolution without padding takes is not that of the file, 1 x 1."""
    layers = keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)
    model = keras.Sequential([keras.Input((None, None, 1)), *layers])
    model.export(tmp_path / "saved", verbose=False)
    content = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved")).convert()
    (tmp_path / "any.tflite").write_bytes(content)
    x = np.random.default_rng(0).uniform(size=(5, 8, 8, 1)).astype("float32")
    for options in ({}, {"input_shape": (8, 8, 1)}):
        np.testing.assert_allclose(
            tfadv.deployed(tmp_path / "any.tflite", **options)(x), model(x), rtol=1e-3, atol=1e-4
        )


def test_an_onnx_file_of_open_sizes_that_takes_one(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs the extra test")
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    onnx_file(tmp_path / "model.onnx", model, False)
    made = onnx.load(tmp_path / "model.onnx")
    for axis in made.graph.input[0].type.tensor_type.shape.dim[1:3]:
        axis.dim_param = "any"
    onnx.save(made, tmp_path / "open.onnx")
    x = np.random.default_rng(0).uniform(size=(5, 4, 4, 1)).astype("float32")
    np.testing.assert_allclose(own.load(str(tmp_path / "open.onnx"), "", (4, 4, 1))(x), model(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="open.onnx fails on random images"):
        own.load(str(tmp_path / "open.onnx"))


def test_an_onnx_file_of_texts(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs the extra test")
    pytest.importorskip("onnxruntime", reason="needs the extra deployed")
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = [helper.make_node("ArgMax", ["x"], ["a"], axis=1), helper.make_node("Cast", ["a"], ["y"], to=kinds.STRING)]
    takes = helper.make_tensor_value_info("x", kinds.FLOAT, ["n", 4, 4, 1])
    returns = helper.make_tensor_value_info("y", kinds.STRING, ["n", 1, 4, 1])
    made = helper.make_model(
        helper.make_graph(nodes, "g", [takes], [returns]), opset_imports=[helper.make_opsetid("", 13)]
    )
    made.ir_version = 8
    onnx.save(made, tmp_path / "texts.onnx")
    with pytest.raises(UserError, match="texts.onnx must return numbers; it returned an array of object"):
        tfadv.deployed(tmp_path / "texts.onnx")
