import zlib

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tfadv.datasets.encoding import encode


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
    smooth=st.booleans(),
)
def test_an_independent_decoder_finds_what_went_in(height, width, channels, seed, smooth):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (3, height, width, channels)).astype(np.uint8)
    if smooth:
        images = np.cumsum(images // 32, axis=2).astype(np.uint8)
    perturbations = rng.choice(np.array([-127, 0, 127], np.int8), images.shape)
    records = list(encode(images, perturbations, np.arange(3), np.arange(3) + 2**40))
    assert len(records) == 3
    for i, record in enumerate(records):
        feature = tf.train.Example.FromString(record).features.feature
        decoded = tf.io.decode_png(feature["image"].bytes_list.value[0], channels=channels)
        np.testing.assert_array_equal(decoded, images[i])
        back = np.frombuffer(zlib.decompress(feature["perturbation"].bytes_list.value[0]), np.int8)
        np.testing.assert_array_equal(back.reshape(images[i].shape), perturbations[i])
        assert feature["label"].int64_list.value[:] == [i] and feature["id"].int64_list.value[:] == [2**40 + i]


@pytest.mark.parametrize("channels", [1, 3])
def test_smooth_images_and_signs_become_small(channels):
    ramp = np.linspace(0, 255, 32 * 32).reshape(1, 32, 32, 1).repeat(channels, 3).astype(np.uint8)
    signs = np.random.default_rng(0).choice(np.array([-127, 127], np.int8), ramp.shape)
    (record,) = encode(ramp, signs, [0], [0])
    assert len(record) < 0.45 * ramp.size + 200
