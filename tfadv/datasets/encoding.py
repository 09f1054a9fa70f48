"""Surrogate samples as bytes, for a writer that must keep up with the attack.

What TFDS would write for the same features takes several times as long: neither
photographs nor signs of gradients repeat themselves, so zlib's search for
repetitions costs much and saves next to nothing.
"""

import struct
import zlib

import numpy as np
import tensorflow as tf


def encode(images, perturbations, labels, numbers):
    """Encodes samples as `tf.train.Example`s, which TFDS decodes.

    Args:
      images: uint8 (N, H, W, C), C 1 or 3.
      perturbations: int8 (N, H, W, C).
      labels: int (N,).
      numbers: int (N,).

    Yields:
      bytes, sample after sample.
    """
    example = tf.train.Example()  # one for all: making it takes longer than filling it
    feature = example.features.feature
    channels = images.shape[-1]
    for rows, perturbation, label, number in zip(_filtered(images), perturbations, labels, numbers):
        feature["image"].bytes_list.value[:] = [_png(rows, channels)]
        feature["perturbation"].bytes_list.value[:] = [_deflated(perturbation)]
        feature["label"].int64_list.value[:] = [label]
        feature["id"].int64_list.value[:] = [number]
        yield example.SerializeToString(deterministic=True)  # else the order of the features is the process's own


def _filtered(images):
    """uint8 (N, H, 1 + W * C): PNG rows with filter 4, Paeth (https://www.w3.org/TR/png-3/#9Filters)."""
    n, height, width, channels = images.shape
    x = images.reshape(n, height, width * channels).astype(np.int16)
    left, above, corner = np.zeros((3, *x.shape), np.int16)
    left[:, :, channels:] = x[:, :, :-channels]
    above[:, 1:] = x[:, :-1]
    corner[:, 1:, channels:] = x[:, :-1, :-channels]
    to_left, to_above, to_corner = above - corner, left - corner, above + left - 2 * corner
    for distance in (to_left, to_above, to_corner):
        np.abs(distance, out=distance)
    nearest = np.where(to_above <= to_corner, above, corner)
    nearest = np.where((to_left <= to_above) & (to_left <= to_corner), left, nearest)
    result = np.full((n, height, 1 + width * channels), 4, np.uint8)
    np.subtract(x, nearest, out=result[:, :, 1:], casting="unsafe")
    return result


def _png(rows, channels):
    """bytes of a PNG file from its filtered rows."""
    height, width = rows.shape[0], (rows.shape[1] - 1) // channels
    header = struct.pack(">2I5B", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, content in ((b"IHDR", header), (b"IDAT", _deflated(rows)), (b"IEND", b"")):
        body = kind + content
        parts += [struct.pack(">I", len(content)), body, struct.pack(">I", zlib.crc32(body))]
    return b"".join(parts)


def _deflated(array):
    packer = zlib.compressobj(strategy=zlib.Z_RLE)
    return packer.compress(array) + packer.flush()
