"""Simulates synchronous training on many devices: `python -m benchmarks.scaling`.

In each step, every device computes the gradients of its images, and a ring over the hosts adds them up.  A step begins
when all hosts have read their part of the batch and have the sum of the step before.  The sum within a host takes no
time, and nothing is sent before all gradients are computed.  Flags give the rates; --measure measures --reader_ms.
"""

from __future__ import annotations

import dataclasses
import pathlib
import resource
import tempfile

import numpy as np
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_list("devices", ["1", "8", "64", "512"], "Numbers of devices.")
flags.DEFINE_integer("devices_per_host", 8, "Devices of each host; fewer where there are fewer in all.")
flags.DEFINE_integer("images", 128, "Images of each device and step.")
flags.DEFINE_float("device_rate", 1500.0, "Images that a device trains on in a second.")
flags.DEFINE_float("jitter", 0.02, "Standard deviation of the logarithm of the time that a device takes for a step.")
flags.DEFINE_float("reader_ms", 2.4, "CPU milliseconds to read and augment an image.")
flags.DEFINE_integer("cores", 64, "Cores of each host.")
flags.DEFINE_float("megabytes", 102.0, "Size of the gradients.")
flags.DEFINE_float("gbit", 25.0, "Network bandwidth of each host in Gbit/s.")
flags.DEFINE_float("latency_us", 20.0, "Latency of a message in microseconds.")
flags.DEFINE_bool("measure", False, "Measure reader_ms on images of 224x224 pixels in a file.")
PREFETCHED = 2  # batches that a host reads ahead
STEPS = 500


@dataclasses.dataclass(frozen=True)
class Cluster:
    """What a simulated step depends on.

    Attributes:
      hosts: number of hosts.
      devices: devices of each host.
      images: images of each device and step.
      device_rate: images per second of a device.
      reader_rate: images per second that the cores of a host read and augment.
      reduce_seconds: time to add up the gradients of all hosts.
      jitter: standard deviation of the logarithm of a device's time.
    """

    hosts: int
    devices: int
    images: int
    device_rate: float
    reader_rate: float
    reduce_seconds: float
    jitter: float


@dataclasses.dataclass(frozen=True)
class Shares:
    """Images per second of the whole cluster, and the shares of the time that go to each part of a step.

    `computing` is the mean of the devices, and `stragglers` the time until the slowest of them has ended.
    """

    rate: float
    computing: float
    stragglers: float
    readers: float
    network: float


def ring_seconds(hosts: int, gigabytes: float, gbit: float, latency: float) -> float:
    """Time of a ring all-reduce: each host sends 2 (h - 1) messages with a part of 1 / h of the data."""
    messages = 2 * (hosts - 1)
    return messages * (gigabytes * 8 / gbit / hosts + latency)


def simulate(cluster: Cluster, steps: int = STEPS, seed: int = 0) -> Shares:
    """Simulates training steps.

    Args:
      cluster: the hosts and their devices.
      steps: number of steps.
      seed: of the times of the devices.
    """
    rng = np.random.default_rng(seed)
    per_step = cluster.images / cluster.device_rate
    per_batch = cluster.images * cluster.devices / cluster.reader_rate
    started = [0.0] * PREFETCHED  # when the last steps began: each makes room for another batch
    read, end = 0.0, 0.0
    waited = computed = straggled = 0.0
    for _ in range(steps):
        read = max(read, started[-PREFETCHED]) + per_batch
        start = max(end, read)
        times = per_step * np.exp(cluster.jitter * rng.standard_normal(cluster.hosts * cluster.devices))
        waited, computed = waited + start - end, computed + times.mean()
        straggled += times.max() - times.mean()
        started.append(start)
        end = start + times.max() + cluster.reduce_seconds
    images = steps * cluster.images * cluster.devices * cluster.hosts
    return Shares(images / end, computed / end, straggled / end, waited / end, steps * cluster.reduce_seconds / end)


def measured_reader_ms(size: int = 224, images: int = 8192, batch: int = 64) -> float:
    """CPU milliseconds to read an image of size x size x 3 from a file and to augment it."""
    import tfadv  # noqa: F401  before TensorFlow
    from tfadv.datasets import AUGMENTATIONS
    from tfadv.datasets.batches import Samples, training_batches
    from tfadv.datasets.storage import Storage

    with tempfile.TemporaryDirectory() as folder:
        array = Storage("false", pathlib.Path(folder)).allocate((images, size, size, 3), np.uint8)
        array[:] = np.random.default_rng(0).integers(0, 256, array.shape, np.uint8)
        samples = Samples(array, np.zeros(images, np.int64))
        dataset, steps = training_batches(samples, batch_size=batch, epochs=2, seed=0, augmentations=AUGMENTATIONS)
        batches = iter(dataset)
        for _ in range(steps):  # the first epoch compiles and warms up
            next(batches)
        before = _cpu_seconds()
        for _ in batches:
            pass
        return (_cpu_seconds() - before) / (steps * batch) * 1e3


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(_: list[str]) -> None:
    """Prints a table."""
    reader_ms = measured_reader_ms() if FLAGS.measure else FLAGS.reader_ms
    reader_rate = FLAGS.cores / reader_ms * 1e3
    print(f"reading and augmenting an image: {reader_ms:.2f} CPU ms; {reader_rate:,.0f} images/s on a host")
    print("| devices | hosts | images/s | efficiency | computing | stragglers | readers | network |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for devices in map(int, FLAGS.devices):
        hosts = max(1, devices // FLAGS.devices_per_host)
        if devices % hosts:
            raise app.UsageError(f"{devices} devices: give multiples of --devices_per_host={FLAGS.devices_per_host}.")
        seconds = ring_seconds(hosts, FLAGS.megabytes / 1e3, FLAGS.gbit, FLAGS.latency_us / 1e6)
        on_host = devices // hosts
        cluster = Cluster(hosts, on_host, FLAGS.images, FLAGS.device_rate, reader_rate, seconds, FLAGS.jitter)
        shares = simulate(cluster)
        efficiency = shares.rate / (devices * FLAGS.device_rate)
        parts = shares.computing, shares.stragglers, shares.readers, shares.network
        print(f"| {devices} | {hosts} | {shares.rate:,.0f} | {efficiency:.0%} |", *(f"{p:.0%} |" for p in parts))


if __name__ == "__main__":
    app.run(main)
