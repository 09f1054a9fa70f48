"""The paper's augmentations (sections 3.2 and 4.2): batched, seeded, in the graph.

The geometric ones are 3x3 matrices, multiplied into one, so that an image is
resampled once however many of them are asked for.  Every random number is a
pure function of the seed given: nothing is kept between calls, and a resumed
run draws what the unbroken one would have drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tensorflow as tf

# Each augmentation draws from a stream of its own, whatever the other ones are.
_STREAMS = {
    "rotation": 0, "flip": 1, "shift": 2, "scaling": 3, "crop": 4, "shear": 5, "brightness": 6, "noise": 7, "choice": 8,
}  # fmt: skip

# The largest amounts; each image draws its own, uniformly, in both directions.
ROTATION = math.radians(10)
SHIFT = 0.08  # of the height and of the width
SCALING = 0.1
CROP = 0.15  # of the height and of the width, cut away; the rest fills the image again
SHEAR = 0.1
BRIGHTNESS = 0.1  # of the range [0, 1]
NOISE = 0.02  # standard deviation
# Resampling blurs a perturbation of +-eps pixel by pixel.  Half of the images stay as they are,
# so that retraining also sees the unchanged samples of the surrogate.
AUGMENTED_SHARE = 0.5


def _affine(n: tf.Tensor, row_x: tuple, row_y: tuple) -> tf.Tensor:
    """(n, 3, 3): where a pixel of the result comes from, about the image's centre; entries are numbers or (n,)."""
    entries = [tf.broadcast_to(tf.cast(v, tf.float32), [n]) for v in (*row_x, *row_y, 0, 0, 1)]
    return tf.reshape(tf.stack(entries, axis=1), (n, 3, 3))


def _geometry(name: str, n: tf.Tensor, height: int, width: int, draw: Callable[[int], tf.Tensor]) -> tf.Tensor | None:
    """The matrices of one geometric augmentation; `draw(i)` is uniform in [-1, 1), shape (n,)."""
    if name == "rotation":
        angle = ROTATION * draw(0)
        return _affine(n, (tf.cos(angle), -tf.sin(angle), 0), (tf.sin(angle), tf.cos(angle), 0))
    if name == "flip":
        return _affine(n, (tf.where(draw(0) < 0, -1.0, 1.0), 0, 0), (0, 1, 0))
    if name == "shift":
        return _affine(n, (1, 0, SHIFT * width * draw(0)), (0, 1, SHIFT * height * draw(1)))
    if name == "scaling":
        zoom = 1 / (1 + SCALING * draw(0))
        return _affine(n, (zoom, 0, 0), (0, zoom, 0))
    if name == "crop":
        cut = CROP * (draw(0) + 1) / 2
        return _affine(n, (1 - cut, 0, cut * width / 2 * draw(1)), (0, 1 - cut, cut * height / 2 * draw(2)))
    if name == "shear":
        return _affine(n, (1, SHEAR * draw(0), 0), (0, 1, 0))
    return None


def augment(images: tf.Tensor, seed: tf.Tensor, names: Sequence[str], share: tuple[int, int] = (0, 1)) -> tf.Tensor:
    """Changes half of the images of a batch, each by its own random amounts.

    Args:
      images: float32 (N, H, W, C) in [0, 1].
      seed: int32 or int64 (2,); the same seed gives the same result.
      names: names in `tfadv.datasets.AUGMENTATIONS`; each draws the same numbers whatever the others are.
      share: (i, n) where `images` are part i of n equal parts of a batch; each image is changed as in the whole batch.

    Returns:
      float32 (N, H, W, C) in [0, 1].
    """
    height, width = images.shape[1:3]
    part, of_parts = share
    seeds = {name: tf.random.experimental.stateless_fold_in(seed, i) for name, i in _STREAMS.items()}

    def draw_for(name):
        return lambda i: tf.random.stateless_uniform(
            [n], tf.random.experimental.stateless_fold_in(seeds[name], i), -1.0, 1.0
        )

    # Only the chosen images are computed: at 32x32 pixels, this is the most expensive part of the data path.  What is
    # drawn and computed for each image of the whole batch is little, and the same to the bit whatever the part is.
    size = tf.shape(images)[0]
    chosen = tf.where(tf.random.stateless_uniform([of_parts * size], seeds["choice"]) < AUGMENTED_SHARE)
    n = tf.shape(chosen)[0]

    def own(values: tf.Tensor) -> tf.Tensor:
        return values if of_parts == 1 else tf.boolean_mask(values, tf.cast(chosen[:, 0], tf.int32) // size == part)

    places = own(chosen) - tf.cast(part * size, tf.int64)
    result = tf.gather_nd(images, places)
    geometry = [_geometry(name, n, height, width, draw_for(name)) for name in names]
    geometry = [matrices for matrices in geometry if matrices is not None]
    if geometry:
        x, y = (width - 1) / 2, (height - 1) / 2  # of the centre
        total = _affine(n, (1, 0, x), (0, 1, y))
        for matrices in geometry:
            total = total @ matrices
        total = total @ _affine(n, (1, 0, -x), (0, 1, -y))
        result = tf.raw_ops.ImageProjectiveTransformV3(
            images=result,
            transforms=own(tf.reshape(total, (n, 9))[:, :8]),
            output_shape=[height, width],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="NEAREST",
        )
    if "brightness" in names:
        # A subtraction, because TensorFlow reorders two additions in some graphs, which changes the last bit.
        result -= own(-BRIGHTNESS * draw_for("brightness")(0)[:, None, None, None])
    if "noise" in names:
        shape = tf.concat([[n], tf.shape(images)[1:]], axis=0)
        result += own(tf.random.stateless_normal(shape, seeds["noise"], stddev=NOISE))
    result = tf.tensor_scatter_nd_update(images, places, tf.clip_by_value(result, 0.0, 1.0))
    return tf.ensure_shape(result, images.shape)
