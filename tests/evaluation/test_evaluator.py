"""`evaluate`, against independent counts with plain Keras and numpy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfadv
from tfadv import attacks, models
from tfadv.attacks import ATTACKS, FGSM, PGD, AutoAttack
from tfadv.attacks.corruptions.constants import NAMES as CORRUPTIONS
from tfadv.errors import UserError
from tfadv.evaluation.evaluator import Execution, FixedImages, evaluate
from tfadv.runtime import compilation

EPSILONS = (0.02, 0.5)
SMALL_AUTOATTACK = AutoAttack(queries=20, steps=5)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    return models.build("resnet_tiny", (16, 16, 1), 4)


@pytest.fixture(scope="module")
def labeled(model):
    """(images uint8 (50, 16, 16, 1), labels), of which the model classifies 35 correctly."""
    images = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 1), dtype=np.uint8)
    labels = model.predict(images.astype("float32") / 255, verbose=0).argmax(1)
    labels[20:35] = (labels[20:35] + 1) % 4
    return images, labels


@pytest.fixture(autouse=True)
def default_compilation():
    yield
    compilation.configure()


def is_correct(model, x, labels):
    return model.predict(x, verbose=0).argmax(1) == labels


def perturbations(images):
    return np.random.default_rng(1).choice(np.array([-127, 127], np.int8), images.shape)


# ---- correctness ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", [FGSM(), PGD(), PGD(steps=3, restarts=2, early_stop=False)], ids=lambda a: a.label)
def test_equals_an_independent_count(model, labeled, attack):
    images, labels = labeled
    x = images.astype("float32") / np.float32(255)
    result = evaluate(model, images, labels, attack, EPSILONS, batch_size=50, seed=5)
    adversarial = attack(model, x, labels, list(EPSILONS), seed=5).numpy()
    np.testing.assert_array_equal(result.clean_correct, is_correct(model, x, labels))
    assert result.clean_correct.sum() == 35 and result.adversarial_correct.shape == (2, 50)
    for row, own in zip(result.adversarial_correct, adversarial):
        np.testing.assert_array_equal(row, is_correct(model, own, labels))
    assert result.robust[1].sum() < result.robust[0].sum() < 35  # the attack succeeds, or this test compares nothing
    assert result.attack == attack.name and result.settings == attack.settings() and result.eps == EPSILONS
    assert result.cost.gradients > 0 and result.cost.seconds > 0


def test_fixed_images_equal_an_independent_count(model, labeled):
    images, labels = labeled
    x, p = images.astype("float32") / np.float32(255), perturbations(images)
    adversarial = np.stack([np.clip(x + np.float32(eps) * (p / np.float32(127)), 0, 1) for eps in EPSILONS])
    result = evaluate(model, images, labels, FixedImages(adversarial), EPSILONS, batch_size=16)
    clean = is_correct(model, x, labels)
    lucky = 0
    for own_images, row, robust in zip(adversarial, result.adversarial_correct, result.robust):
        own = is_correct(model, own_images, labels)
        np.testing.assert_array_equal(row, own)
        np.testing.assert_array_equal(robust, own & clean)
        lucky += (own & ~clean).sum()  # misclassified on the clean image, correct on the perturbed one
    assert lucky > 0  # or the test would not notice if they counted as robust


def test_fixed_images(model, labeled):
    images, labels = labeled
    x = images.astype("float32") / np.float32(255)
    gray = np.full((1, *x.shape), 0.5, "float32")
    result = evaluate(model, images, labels, FixedImages(gray), 0.5)
    np.testing.assert_array_equal(result.adversarial_correct[0], is_correct(model, gray[0], labels))
    assert result.attack == "fixed" and result.eps == 0.5


def test_clean_images_only(model, labeled):
    images, labels = labeled
    result = evaluate(model, images, labels, None)
    assert result.clean_correct.sum() == 35 and result.clean_accuracy == 0.7
    assert result.attack is None and result.adversarial_correct.shape == (0, 50) and result.robust_accuracy == ()


@pytest.mark.parametrize("attack", [FGSM(), PGD(steps=2), None], ids=str)
def test_images_of_any_type(model, labeled, attack):
    images, labels = labeled
    x = images.astype("float32") / np.float32(255)
    first, *others = (evaluate(model, i, labels, attack, 0.1) for i in (images, x, tf.constant(images), tf.constant(x)))
    for other in others:
        np.testing.assert_array_equal(other.robust, first.robust)


def test_attacks_as_text(model, labeled):
    text = evaluate(model, *labeled, "pgd(steps=2)", 0.1)
    assert text.settings == PGD(steps=2).settings()
    np.testing.assert_array_equal(text.robust, evaluate(model, *labeled, PGD(steps=2), 0.1).robust)
    with pytest.raises(UserError, match="did you mean 'pgd'"):
        evaluate(model, *labeled, "pdg", 0.1)


def test_a_model_with_softmax_is_refused(model, labeled):
    softmax = keras.Sequential([model, keras.layers.Softmax()])
    with pytest.raises(ValueError, match="softmax"):
        evaluate(softmax, *labeled, PGD(), 0.1)


# ---- what must not change the result --------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_one_pass_in_any_batch_size(model, labeled, batch_size):
    whole, batched = (evaluate(model, *labeled, FGSM(), EPSILONS, batch_size=b) for b in (50, batch_size))
    np.testing.assert_array_equal(batched.robust, whole.robust)
    assert batched.cost.gradients == whole.cost.gradients == 50


@pytest.mark.parametrize("name", ["pgd", "apgd-ce"])
def test_iterative_attacks_in_any_batch_size(model, labeled, name):
    done = []
    whole = evaluate(model, *labeled, name, EPSILONS, batch_size=50)
    batched = evaluate(model, *labeled, name, EPSILONS, batch_size=7, execution=Execution(progress=done.append))
    assert sum(done) == 50
    assert (whole.robust != batched.robust).sum() <= 1  # rounding


def test_progress_of_one_pass(model, labeled):
    done = []
    evaluate(model, *labeled, FGSM(), 0.1, batch_size=16, execution=Execution(progress=done.append))
    assert done == [16, 16, 16, 2]


def test_the_statistics_of_batchnorm_stay(model, labeled):
    before = model.get_weights()
    for attack in (FGSM(), PGD(steps=2)):
        evaluate(model, *labeled, attack, EPSILONS)
    for a, b in zip(model.get_weights(), before):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "attack, choice",
    [
        (FGSM(), {"accelerate": "off"}),
        (PGD(steps=5), {"accelerate": "off"}),
        # With a smaller network: tests/attacks/test_all.py.
        pytest.param(FGSM(), {"jit_compile": "true"}, marks=pytest.mark.long),
        pytest.param(PGD(steps=5), {"jit_compile": "true"}, marks=pytest.mark.long),
    ],
    ids=lambda value: getattr(value, "label", str(value)),
)
def test_compilation_changes_no_result(model, labeled, attack, choice):
    plain = evaluate(model, *labeled, attack, EPSILONS, batch_size=16)
    compilation.configure(**choice)
    other = evaluate(model, *labeled, attack, EPSILONS, batch_size=16)
    assert np.abs(plain.robust.sum(axis=1) - other.robust.sum(axis=1)).max() <= 1  # rounding
    np.testing.assert_array_equal(plain.clean_correct, other.clean_correct)


# ---- AutoAttack, and all attacks ------------------------------------------------------------------------


def test_autoattack_tells_what_each_attack_left(model, labeled):
    done = []
    execution = Execution(progress=done.append)
    result = evaluate(model, *labeled, SMALL_AUTOATTACK, (0.02, 0.1), batch_size=16, execution=execution)
    assert sum(done) == 50 and len(done) == 8  # four attacks at two eps
    assert list(result.cost.remaining) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    for k in range(2):
        left = [numbers[k] for numbers in result.cost.remaining.values()]
        assert left == sorted(left, reverse=True) and left[-1] == result.robust[k].sum()


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in CORRUPTIONS[1:]])
def test_every_registered_attack(name, model, labeled):
    few = {"steps": 2, "queries": 100 if name in ("hopskipjump", "rays") else 2, "angles": 3, "shifts": 1}
    few |= {"corruptions": "contrast"} if name == "corruptions" else {}
    attack = attacks.ATTACKS[name](**{key: few[key] for key in few.keys() & attacks.parse(name).settings()})
    images, labels = labeled
    eps = 3 if name in ("sparse-rs", "sigma-zero") else 0.1 if attack.has_eps else None
    result = evaluate(model, images[15:25], labels[15:25], attack, eps)
    assert result.attack == name and result.n == 10 and result.clean_correct.sum() == 5
    assert result.sets or not (result.robust & ~result.clean_correct).any()


@pytest.mark.parametrize(
    "text, eps, follows",
    [
        ("apgd-ce(steps=2)", 1e-6, "cross-entropy"),
        ("autoattack(attacks=apgd-ce, steps=2)", 1e-6, "cross-entropy"),
        ("autoattack(attacks=apgd-ce+square, steps=2, queries=2)", 1e-6, "cross-entropy"),
        ("autoattack(attacks=apgd-ce+apgd-t, steps=2)", 1e-6, "margin"),
        ("fab(steps=2)", 1e-6, "margin"),
        ("fab-t(steps=2)", 1e-6, "margin"),
        ("sigma-zero(steps=2)", 1, "margin"),
        ("patch(steps=2, size=0.001)", None, "margin"),
    ],
)
def test_only_attacks_that_follow_the_cross_entropy_lack_its_gradient(linear, text, eps, follows):
    """Of a confident model, whose margin has a gradient."""
    confident = keras.Sequential([linear[0], keras.layers.Rescaling(1e8)])
    x = np.random.default_rng(0).uniform(size=(20, 2, 2, 3)).astype("float32")
    result = evaluate(confident, x, confident(x).numpy().argmax(1), text, eps)
    assert result.gradients_checked > 3
    assert result.without_gradient == (result.gradients_checked if follows == "cross-entropy" else 0)


@pytest.mark.parametrize("text", ["square(steps=2)", "autoattack(attacks=square, queries=2)"])
def test_attacks_without_gradient_lack_none(linear, text):
    x = np.random.default_rng(0).uniform(size=(20, 2, 2, 3)).astype("float32")
    result = evaluate(linear[0], x, linear[0](x).numpy().argmax(1), text, 1e-6)
    assert result.robust_accuracy == 1 and result.gradients_checked == 0


# ---- arguments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_a_model_that_ends_in_a_softmax_is_refused_by_every_attack(model, labeled, attack):
    softmax = keras.Sequential([model, keras.layers.Softmax()])
    with pytest.raises(ValueError, match="ends in a softmax"):
        evaluate(softmax, *labeled, attack, 0.1)


@pytest.mark.parametrize("attack", [None, "fgsm", "pgd"])
def test_images_of_another_range_labels_and_sizes_are_refused(model, labeled, attack):
    images, labels = labeled
    with pytest.raises(ValueError, match="x must be in"):
        evaluate(model, images.astype("float32"), labels, attack, 0.1)
    with pytest.raises(ValueError, match="whole numbers must be from 0 to 255"):
        evaluate(model, 2 * images.astype("int32"), labels, attack, 0.1)
    with pytest.raises(ValueError, match=f"{len(images)} images and 10 labels"):
        evaluate(model, images, labels[:10], attack, 0.1)
    with pytest.raises(ValueError, match="at least one image"):
        evaluate(model, images[:0], labels[:0], attack, 0.1)
    with pytest.raises(ValueError, match=r"sparse-rs needs eps, a number of pixels such as 24\."):
        evaluate(model, images, labels, "sparse-rs")
    if attack:
        with pytest.raises(ValueError, match="eps"):
            evaluate(model, images, labels, attack, -0.1)
    with pytest.raises(ValueError, match="class numbers from 0 to 3"):
        evaluate(model, images, labels + 4, attack, 0.1)


def test_clean_images_and_given_ones_need_logits_of_each_class_or_probabilities(model, labeled):
    """The class of one column would always be 0; a softmax does not change the class."""
    images, labels = labeled
    given = FixedImages(images[None].astype("float32") / 255)
    one = keras.Sequential([model, keras.layers.Dense(1, activation="sigmoid")])
    softmax = keras.Sequential([model, keras.layers.Softmax()])
    for attack in (None, given):
        with pytest.raises(ValueError, match="one: attack tfadv.classifier"):
            evaluate(one, images, labels % 2, attack, 0.1)
        assert evaluate(tfadv.classifier(one, quiet=True), images, labels % 2, attack, 0.1).n == len(labels)
        expected = evaluate(model, images, labels, attack, 0.1)
        np.testing.assert_array_equal(evaluate(softmax, images, labels, attack, 0.1).robust, expected.robust)


@pytest.mark.parametrize("attack", [FGSM(targeted=True), PGD(targeted=True)], ids=lambda a: a.label)
def test_targeted_attacks_are_refused_because_they_measure_no_robustness(model, labeled, attack):
    with pytest.raises(ValueError, match="targeted"):
        evaluate(model, *labeled, attack, 0.1)


def test_autoattack_without_attacks_is_refused():
    with pytest.raises(ValueError, match="attacks must not be empty"):
        AutoAttack(attacks=())


# ---- as people use it -----------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.1, (0.05, 0.1)])
@pytest.mark.parametrize("attack", ["fgsm", "pgd(steps=3)"])
def test_adversarial_images_are_kept(model, labeled, attack, eps):
    images, labels = labeled
    result = evaluate(model, images, labels, attack, eps, keep_images=True)
    without = evaluate(model, images, labels, attack, eps)
    assert result.adversarial.shape == (*np.shape(eps), *images.shape) and without.adversarial is None
    np.testing.assert_array_equal(result.adversarial_correct, without.adversarial_correct)
    for adversarial, size, row in zip(
        result.adversarial.reshape(-1, *images.shape), np.atleast_1d(eps), result.adversarial_correct
    ):
        assert 0 < np.abs(adversarial - images / 255).max() <= size + 1e-6
        np.testing.assert_array_equal(row, is_correct(model, adversarial, labels))
    assert result.first(3).adversarial is None and "adversarial=" not in repr(result)


def test_a_data_set_and_one_hot_labels_give_the_same(model, labeled):
    images, labels = labeled
    expected = evaluate(model, images, labels, "fgsm", 0.05)
    dataset = tf.data.Dataset.from_tensor_slices((images, tf.one_hot(labels, 4))).batch(7)
    for result in (
        evaluate(model, dataset, attack="fgsm", eps=0.05),
        evaluate(model, images / 255, np.eye(4)[labels], "fgsm", 0.05),
    ):
        np.testing.assert_array_equal(result.robust, expected.robust)
