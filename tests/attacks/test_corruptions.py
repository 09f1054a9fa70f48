"""Common corruptions: closed forms, independent references, and what holds for each of them."""

import colorsys
import dataclasses

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import tensorflow as tf
from PIL import Image

import tfadv
from tests.attacks.conftest import perceptron
from tfadv.attacks import ATTACKS, FGSM, Corruption, Corruptions, parse
from tfadv.attacks.corruptions import constants as table
from tfadv.attacks.corruptions import operations
from tfadv.attacks.corruptions.attack import corrupt
from tfadv.attacks.corruptions.blur import _sources, disk
from tfadv.attacks.corruptions.constants import BENCHMARK, NAMES, SEVERITIES, constants
from tfadv.attacks.corruptions.operations import Draws
from tfadv.attacks.corruptions.weather import plasma
from tfadv.errors import UserError
from tfadv.evaluation import intervals
from tfadv.evaluation.intervals import mean_interval
from tfadv.evaluation.result import concatenate
from tfadv.pipeline.results import content_hash, load_result, save_result

RANDOM = [*NAMES[:3], "glass_blur", "motion_blur", "snow", "fog", "elastic_transform", "speckle_noise"]


def photos(n=4, height=20, width=26, channels=3, seed=0):
    """Smooth 8-bit images with some noise, as float32 in [0, 1]."""
    rng = np.random.default_rng(seed)
    smooth = scipy.ndimage.gaussian_filter(rng.normal(size=(n, height, width, channels)), (0, 3, 3, 0))
    levels = 128 + 400 * smooth + rng.normal(0, 4, smooth.shape)
    return np.clip(levels, 0, 255).round().astype("float32") / np.float32(255)


def levels(x):
    return np.round(255 * np.asarray(x)).astype(int)


def floored(x):
    """The levels of images in [0, 1], cut off."""
    return np.floor(255 * np.clip(x, 0, 1) + 1e-3).astype(int)


# ---- what holds for each ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_images_are_of_8_bits_and_depend_on_their_seed_and_number_only(name):
    x = photos(5)
    whole = corrupt(x, name, 4, seed=3).numpy()
    assert whole.shape == x.shape and whole.dtype == np.float32 and whole.min() >= 0 and whole.max() <= 1
    np.testing.assert_array_equal(whole, (levels(whole) / 255).astype("float32"))
    parts = [corrupt(x[i:j], name, 4, seed=3, numbers=np.arange(i, j)).numpy() for i, j in ((3, 5), (0, 1), (1, 3))]
    np.testing.assert_array_equal(whole, np.concatenate([parts[1], parts[2], parts[0]]))
    assert (whole != x).any(axis=(1, 2, 3)).all()
    same = np.repeat(x[:1], 2, axis=0)
    one, other = corrupt(same, name, 4).numpy()
    reseeded = corrupt(same[:1], name, 4, seed=2**40).numpy()[0]
    assert (one != other).any() == (one != reseeded).any() == (name in RANDOM)


RISING = [name for name in NAMES if name not in ("glass_blur", "elastic_transform", "snow", "saturate")]


@pytest.mark.parametrize("name", RISING)  # of the others, one constant rises and another one falls
@pytest.mark.parametrize("side", [20, pytest.param(224, marks=pytest.mark.long)])
def test_severities_get_worse(name, side):
    x = photos(3, side, round(1.3 * side))
    several = SEVERITIES if side > 32 else (1, 4)  # 4 is compiled already
    distances = [np.abs(corrupt(x, name, severity).numpy() - x).mean() for severity in several]
    assert (np.diff(distances) > -1e-6).all() and distances[-1] > 1.1 * distances[0]


@pytest.mark.parametrize("name", NAMES)
def test_tiny_images(name):
    out = corrupt(photos(2, 1, 2, channels=1), name, 4).numpy()
    assert out.shape == (2, 1, 2, 1) and np.isfinite(out).all()


@pytest.mark.parametrize(
    "name", ["defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"]
)
def test_gray_images_are_colored_ones_of_equal_channels(name):
    gray = photos(2, 20, 26, 1)
    color = corrupt(np.repeat(gray, 3, axis=3), name, 4).numpy()
    np.testing.assert_allclose(color[..., :1], corrupt(gray, name, 4).numpy(), atol=1.1 / 255)
    np.testing.assert_array_equal(corrupt(gray, "saturate", 4), gray)


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(ValueError, match="not of 2 channels"):
        corrupt(np.zeros((1, 4, 4, 2), "float32"), "fog", 1)


def test_constants_between_the_two_sizes_are_geometric_means():
    assert constants("gaussian_noise", 5, 32) == constants("gaussian_noise", 5, 8) == (0.1,)
    assert constants("gaussian_noise", 5, 224) == constants("gaussian_noise", 5, 500) == (0.38,)
    between = constants("gaussian_noise", 5, round((32 * 224) ** 0.5))[0]
    assert between == pytest.approx((0.1 * 0.38) ** 0.5, rel=0.01)
    assert constants("elastic_transform", 1, 85)[2] == pytest.approx(0.04, rel=0.01)  # one of the two is 0
    assert [table.source(side) for side in (28, 32, 64, 224)] == [
        *("CIFAR-C", "CIFAR-C", "CIFAR-C to ImageNet-C", "ImageNet-C")
    ]


# ---- noise -----------------------------------------------------------------------------------------------------------


def test_statistics_of_noise():
    x = np.full((40, 32, 32, 3), 128 / 255, "float32")
    normal, shot, speckle = (
        corrupt(x, name, 5).numpy() - x + 0.5 / 255 for name in ("gaussian_noise", "shot_noise", "speckle_noise")
    )
    n = x.size
    for noise, deviation in ((normal, 0.1), (shot, (128 / 255 / 50) ** 0.5), (speckle, 0.2 * 128 / 255)):
        assert abs(noise.mean()) < 4 * deviation / n**0.5
        assert noise.std() == pytest.approx(deviation, rel=0.01)
        assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.08
    salted = corrupt(x, "impulse_noise", 5).numpy()
    assert (salted == 1).mean() == pytest.approx(0.035, rel=0.05) and (salted == 0).mean() == pytest.approx(
        0.035, rel=0.05
    )
    np.testing.assert_array_equal(salted[(salted > 0) & (salted < 1)], x[0, 0, 0, 0])


def test_shot_noise_has_the_distribution_of_poisson():
    """At 50 photons of a white pixel; a pixel of more is white."""
    x = np.full((30, 32, 32, 3), 51 / 255, "float32")
    counts = np.round(corrupt(x, "shot_noise", 5).numpy() * 50).astype(int)
    found = np.bincount(counts.ravel(), minlength=30)[:30] / counts.size
    np.testing.assert_allclose(found, scipy.stats.poisson.pmf(np.arange(30), 10), atol=0.004)
    assert (corrupt(np.zeros_like(x), "shot_noise", 5).numpy() == 0).all()


def test_severities_share_random_numbers_and_corruptions_do_not():
    x = np.full((1, 32, 32, 3), 0.5, "float32")
    sets = (("gaussian_noise", 1), ("gaussian_noise", 5), ("speckle_noise", 5))
    one, five, other = (corrupt(x, *each).numpy().ravel() - 0.5 for each in sets)
    assert np.corrcoef(one, five)[0, 1] > 0.99 and abs(np.corrcoef(five, other)[0, 1]) < 0.1


# ---- blur ------------------------------------------------------------------------------------------------------------


def test_gaussian_blur_is_that_of_scipy():
    x = photos()
    expected = scipy.ndimage.gaussian_filter(x.astype(float), (0, 1, 1, 0), mode="nearest", truncate=4)
    assert np.abs(levels(corrupt(x, "gaussian_blur", 5)) - floored(expected)).max() == 0


@pytest.mark.parametrize("radius, edge", [(0.3, 0.4), (1.5, 0.1), (3, 0.1), (8, 0.5), (10, 0.5)])
def test_a_disk_is_round_and_keeps_the_mean(radius, edge):
    kernel = disk(radius, edge)
    assert kernel.sum() == pytest.approx(1, abs=1e-9 if radius < 8 else 0.02) and (kernel >= 0).all()
    np.testing.assert_allclose(kernel, kernel.T)
    np.testing.assert_allclose(kernel, kernel[::-1])
    if edge == 0.1:  # a sharp one
        squares = np.add.outer(*[np.arange(-8, 9) ** 2] * 2)
        assert ((kernel > 1e-6) == (squares <= radius**2)).all()


@pytest.mark.parametrize("radius, edge", [(1.5, 0.1), (6, 0.5)])
def test_defocus_blur_is_a_convolution_with_mirrored_borders(radius, edge):
    x = photos(2, 30, 21)
    kernel = disk(radius, edge)[None, :, :, None]
    expected = scipy.ndimage.convolve(x.astype(float), kernel, mode="mirror")
    np.testing.assert_allclose(operations.convolved(tf.constant(x), disk(radius, edge)), expected, atol=2e-6)


def test_zoom_blur_is_the_mean_of_magnified_images():
    x = photos(1, 32, 32)
    layers = [x[0].astype(float)]
    for factor in np.arange(1, 1.26, 0.01):
        kept = int(np.ceil(32 / factor))
        start = (32 - kept) // 2
        middle = x[0, start : start + kept, start : start + kept].astype(float)
        layers.append(scipy.ndimage.zoom(middle, (factor, factor, 1), order=1)[:32, :32])
    assert np.abs(levels(corrupt(x, "zoom_blur", 5))[0] - floored(np.mean(layers, 0))).max() <= 1


@pytest.mark.parametrize("angle", [0.0, 90.0, -45.0])
def test_motion_blur_along_a_line(angle):
    """A point becomes half a Gaussian that trails away from where the motion goes."""
    x = np.zeros((1, 25, 25, 1), "float32")
    x[0, 12, 12] = 1
    line = operations.moved(tf.constant(x), tf.constant([angle]), 4, 2.0).numpy()[0, ..., 0]
    weights = np.exp(-(np.arange(9) ** 2) / 8)
    i, down, right = np.arange(9), -np.sin(np.deg2rad(angle)), -np.cos(np.deg2rad(angle))
    places = 12 + np.floor(i * down + 0.5).astype(int), 12 + np.floor(i * right + 0.5).astype(int)
    expected = np.zeros((25, 25))
    np.add.at(expected, places, weights / weights.sum())
    np.testing.assert_allclose(line, expected, atol=1e-6)


@pytest.mark.parametrize("shift", [1, 3])
def test_glass_blur_copies_pixels_in_the_order_of_the_published_loop(shift):
    """As the loop would: from the last pixel to the first, each takes the present value of its neighbor."""
    height, width = 13, 11
    draws = [Draws(tf.constant(5, tf.int64), tf.constant([7], tf.int64), 0) for _ in range(2)]
    found = _sources(draws[0], height, width, shift).numpy().reshape(height, width)
    steps = np.floor(draws[1].uniform((2, height, width), -shift, shift).numpy()[0]).astype(int)
    expected = np.arange(height * width).reshape(height, width)
    for h in range(height - shift, shift, -1):
        for w in range(width - shift, shift, -1):
            expected[h, w] = expected[h + steps[0, h, w], w + steps[1, h, w]]
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found)) < found.size


# ---- weather ---------------------------------------------------------------------------------------------------------


def test_plasma_has_the_means_of_the_diamond_square_algorithm():
    """With noise that decays to nothing, each new point is the mean of its four neighbors; opposite borders touch."""
    draws = Draws(tf.constant(0, tf.int64), tf.constant([3, 4], tf.int64), 0)
    fog = plasma(draws, 4, 1e9).numpy()
    assert fog.shape == (2, 16, 16) and fog.min() == 0 and fog.max() == 1
    even = fog[:, ::2, ::2]

    def means(corners):
        return sum(np.roll(corners, (i, j), (1, 2)) for i in (0, -1) for j in (0, -1)) / 4

    middle = means(even)
    np.testing.assert_allclose(fog[:, 1::2, 1::2], middle, atol=1e-5)
    right = (even + np.roll(even, -1, 2) + middle + np.roll(middle, 1, 1)) / 4
    np.testing.assert_allclose(fog[:, ::2, 1::2], right, atol=1e-5)
    rough = plasma(draws, 7, 1.5).numpy()
    fine, coarse = (points[:, 1::2, 1::2] - means(points[:, ::2, ::2]) for points in (rough, rough[:, ::2, ::2]))
    assert coarse.std() / fine.std() == pytest.approx(1.5**2, rel=0.05)  # of the noise


def test_fog_adds_a_cloud_and_keeps_the_greatest_value():
    x = photos(1, 32, 32)
    c, greatest = 1.5, x.max()
    cloud = corrupt(x, "fog", 5).numpy() * (greatest + c) / greatest - x
    assert np.ptp(cloud, axis=3).max() < 0.02  # gray
    assert cloud.min() > -0.01 and cloud.max() == pytest.approx(c, abs=0.02)


def test_snow_whitens_and_adds_flakes():
    x = np.full((2, 32, 32, 3), 0.2, "float32")
    flakes = corrupt(x, "snow", 5).numpy() - (0.8 * 0.2 + 0.2 * 0.8)
    assert flakes.min() > -0.01 and flakes.max() > 0.1 and np.ptp(flakes, axis=3).max() < 1e-6
    inside = (flakes < 0.6).all(axis=(3)) & (flakes[:, ::-1, ::-1] < 0.6).all(axis=3)
    np.testing.assert_allclose(flakes[inside], flakes[:, ::-1, ::-1][inside], atol=1.1 / 255)


# ---- digital ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, severity", [("brightness", 2), ("brightness", 5), ("saturate", 1), ("saturate", 5)])
def test_hsv(name, severity):
    x, values = photos(1, 6, 7), constants(name, severity, 6)
    x[0, 0, :3] = [[0, 0, 0], [0.4, 0.4, 0.4], [1, 1, 1]]
    found = levels(corrupt(x, name, severity))[0]
    for row, column in np.ndindex(6, 7):
        h, s, v = colorsys.rgb_to_hsv(*x[0, row, column].tolist())
        s, v = (s, min(v + values[0], 1)) if name == "brightness" else (min(max(s * values[0] + values[1], 0), 1), v)
        assert np.abs(found[row, column] - floored(np.array(colorsys.hsv_to_rgb(h, s, v)))).max() <= 1


def test_contrast_about_the_mean_of_each_channel():
    x = photos().astype(float)
    means = x.mean(axis=(1, 2), keepdims=True)
    assert np.abs(levels(corrupt(x.astype("float32"), "contrast", 4)) - floored(means + 0.3 * (x - means))).max() <= 1


@pytest.mark.parametrize("height, width, severity", [(32, 32, 5), (20, 27, 3), (31, 9, 1)])
def test_pixelate_is_pillows(height, width, severity):
    x, (factor,) = photos(2, height, width), constants("pixelate", severity, min(height, width))
    for image, found in zip(levels(x), levels(corrupt(x, "pixelate", severity))):
        small = Image.fromarray(image.astype("uint8")).resize((int(width * factor), int(height * factor)), Image.BOX)
        np.testing.assert_array_equal(found, np.asarray(small.resize((width, height), Image.BOX)))


def test_jpeg_is_near_pillows(tmp_path):
    x = photos(1, 32, 32)
    Image.fromarray(levels(x)[0].astype("uint8")).save(tmp_path / "a.jpg", quality=40)
    other = np.asarray(Image.open(tmp_path / "a.jpg")).astype(int)
    assert np.abs(levels(corrupt(x, "jpeg_compression", 5))[0] - other).max() <= 3


@pytest.mark.parametrize("severity, most", [(1, 0.08 * 32), (4, 0.1 * 32)])
def test_elastic_transform_moves_pixels_a_little(severity, most):
    """Images whose levels are the row and the column: where a pixel comes from can be read from it."""
    rows, columns = np.mgrid[:32, :32]
    x = (np.stack([rows, columns, 0 * rows], 2)[None] * 7 / 255).astype("float32")
    moved = corrupt(np.repeat(x, 3, 0), "elastic_transform", severity).numpy() * 255 / 7
    shift = (moved - np.stack([rows, columns, 0 * rows], 2))[:, 8:-8, 8:-8, :2]
    assert 0.3 < np.abs(shift).mean() < 2 * most and (np.abs(shift[0] - shift[1]) > 0.5).any()
    if severity == 1:  # an affine map: second differences are those of rounding to 8 bits
        assert np.abs(np.diff(shift, 2, axis=1)).max() < 3 / 7


# ---- attacks and results ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated():
    """(model, images uint8, labels, the result of three corruptions)."""
    model = perceptron(4, (12, 12, 1))
    x = levels(photos(30, 12, 12, 1)).astype("uint8")
    y = np.argmax(model(x.astype("float32") / 255), axis=1)
    y[:15] = np.arange(15) % 4
    return model, x, y, tfadv.evaluate(model, x, y, "corruptions(corruptions=fog+contrast+shot_noise)", seed=4)


def test_a_row_for_each_corruption_and_severity(evaluated):
    model, x, y, result = evaluated
    assert result.sets == tuple((name, s) for name in ("fog", "contrast", "shot_noise") for s in SEVERITIES)
    assert result.eps is None and result.distances is None and result.settings["constants"] == "CIFAR-C"
    for row, (name, severity) in zip(result.robust, result.sets):
        images = corrupt(x.astype("float32") / 255, name, severity, seed=4)
        np.testing.assert_array_equal(row, np.argmax(model(images), axis=1) == y)
        single = tfadv.evaluate(model, x, y, f"{name}(severity={severity})", seed=4)
        np.testing.assert_array_equal(single.robust[0], row)
        assert single.robust_accuracy == row.mean()
    assert result.robust_accuracy == pytest.approx(result.robust.mean())
    assert result.by_corruption()["contrast"] == pytest.approx(result.robust[5:10].mean())
    assert result.by_severity()[2] == pytest.approx(result.robust[1::5].mean())
    assert f"mean over 15 sets: {result.robust_accuracy:.1%}" in result.summary()
    wrong = dataclasses.replace(result, clean_correct=np.zeros(30, bool))
    assert wrong.robust_accuracy == result.robust_accuracy > 0  # the clean image does not count


def test_the_benchmark_has_70_sets_and_the_attacks_are_in_the_table():
    assert len(Corruptions().sets) == 70 and Corruptions().sets[4] == Corruption("gaussian_noise", 5)
    assert "frost" not in NAMES and len(NAMES) == 17 and len(BENCHMARK) == 14
    for name in NAMES:
        attack = parse(f"{name}(severity=5)")
        assert attack == Corruption(name, 5) and attack.label == f"{name}(severity=5)" and parse(name).label == name
    for text, words in (("fog(severity=6)", "at most 5"), ("fgo", "'fog'"), ("corruptions(corruptions=fgo)", "'fog'")):
        with pytest.raises(UserError, match=words):
            parse(text)


def test_an_eps_is_refused_and_a_call_returns_images(evaluated):
    model, x, y, _ = evaluated
    floats = x.astype("float32") / 255
    for text in ("fog", "corruptions", "spatial"):
        with pytest.raises(ValueError, match="has no eps"):
            tfadv.evaluate(model, x, y, text, 0.1)
        with pytest.raises(ValueError, match="has no eps"):
            parse(text)(model, floats, y, 0.1)
    done = []
    images = parse("fog")(model, floats, y, None, seed=2, batch_size=7, progress=done.append)
    np.testing.assert_array_equal(images, corrupt(floats, "fog", 3, seed=2))
    assert sum(done) == 30 and len(done) == 5
    with pytest.raises(ValueError, match="tfadv.evaluate"):
        parse("corruptions")(model, floats, y, None)
    shifted = parse("fog")(model, 0.25 + floats / 4, y, None, seed=2, clip=(0.25, 0.5))
    np.testing.assert_allclose(shifted, 0.25 + images / 4, atol=1.1 / 255 / 4)


def test_parts_resumption_and_the_disk(evaluated, tmp_path):
    model, x, y, result = evaluated
    text = "corruptions(corruptions=fog+contrast+shot_noise)"
    parts = [tfadv.evaluate(model, x[i : i + 10], y[i : i + 10], text, seed=4, first=i) for i in (0, 10, 20)]
    np.testing.assert_array_equal(concatenate(parts).adversarial_correct, result.adversarial_correct)
    save_result(tmp_path, result)
    loaded = load_result(tmp_path)
    assert loaded.sets == result.sets and loaded.summary() == result.summary()
    assert content_hash(loaded) == content_hash(result)


def test_finished_sets_are_not_made_again(evaluated, monkeypatch):
    from tfadv.evaluation.evaluator import Execution

    class Log:
        """As `tfadv.store.resume.ResumeLog`."""

        def __init__(self):
            self.units, self.at = [], -1

        def load(self):
            self.at += 1
            return ("done", self.units[self.at]) if self.at < len(self.units) else None

        def done(self, arrays):
            self.units.append(arrays)

    model, x, y, result = evaluated
    log, progress, common = Log(), [], {"attack": "corruptions(corruptions=fog+contrast+shot_noise)", "seed": 4}
    tfadv.evaluate(model, x, y, **common, execution=Execution(resume=log, progress=progress.append))
    assert sum(progress) == 30 and len(log.units) == 15
    log.at, made = -1, []
    log.units = log.units[:9]
    attacked = Corruption.attack_batch
    monkeypatch.setattr(Corruption, "attack_batch", lambda self, *a: made.append(self.label) or attacked(self, *a))
    again = tfadv.evaluate(model, x, y, **common, execution=Execution(resume=log))
    assert made[0] == "contrast(severity=5)" and len(made) == 6
    np.testing.assert_array_equal(again.adversarial_correct, result.adversarial_correct)


def test_kept_images(evaluated):
    model, x, y, _ = evaluated
    several = tfadv.evaluate(model, x, y, "corruptions(corruptions=contrast)", keep_images=True).adversarial
    single = tfadv.evaluate(model, x, y, "contrast(severity=2)", keep_images=True).adversarial
    assert several.shape == (5, *x.shape)
    np.testing.assert_array_equal(single, several[1])


def test_other_attacks_have_no_sets(evaluated):
    model, x, y, _ = evaluated
    result = tfadv.evaluate(model, x, y, FGSM(), 0.1)
    assert result.sets == () and result.by_corruption() == {} and result.by_severity() == {}
    assert all(ATTACKS[name]().has_eps for name in ("fgsm", "square", "rays"))


def test_interval_of_a_mean_is_that_of_images():
    """Rows that are all alike tell nothing new, independent rows do."""
    rng = np.random.default_rng(0)
    one = rng.random((1, 200)) < 0.6
    low, high = mean_interval(np.repeat(one, 10, axis=0))
    single = mean_interval(one)
    assert low == pytest.approx(single[0], abs=0.01) and high == pytest.approx(single[1], abs=0.01)
    narrow = mean_interval(rng.random((10, 200)) < 0.6)
    assert narrow[1] - narrow[0] < 0.5 * (high - low)
    assert mean_interval(np.ones((3, 50), bool))[0] < 1 == mean_interval(np.ones((3, 50), bool))[1]


def test_covers_the_true_mean_in_95_percent_of_samples(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 500)
    rng, inside = np.random.default_rng(1), 0
    for _ in range(200):
        hard = rng.random(80)  # the accuracy on each image
        low, high = mean_interval(rng.random((6, 80)) < hard)
        inside += low <= 0.5 <= high
    assert 180 <= inside <= 199
