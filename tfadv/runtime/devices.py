"""One device or many, on `tf.distribute`: which device computes which slice of a batch, and which host writes.

All devices hold the same variables and compute their slices of the same global
batch.  Sums are reduced over the devices and batches gathered in order, so the
code of training and attacks is that of one device.
"""

from __future__ import annotations

import functools
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfadv.errors import UserError
from tfadv.runtime import compilation, signals
from tfadv.runtime.cluster import cluster

_BYTES_GATHERED = 2**26  # at a time: each device holds those of all
_SECONDS_TO_END = 1.0  # for the threads of `Devices.in_threads` when the whole is stopping


class Devices:
    """The devices of a run.

    Attributes:
      strategy: the `tf.distribute.Strategy`; models are built in its scope.
      replicas: number of devices, on all hosts, that share a batch.
      workers: number of hosts.
      share: (i, n) where this is host i of n, which computes part i of n equal parts of each batch.
    """

    def __init__(self, distribute: str = "none") -> None:
        """Initializes the devices; call it before any tensor is created.

        Args:
          distribute: "none", "mirrored" (all GPUs of this host, or its CPUs), "multiworker" (the hosts
            of TF_CONFIG), "cpu:N" (mirrored on N parts of the CPU), or "auto": multiworker where TF_CONFIG names
            several hosts, mirrored where this host has several GPUs, else none.

        Raises:
          UserError: there are no such devices.
        """
        if distribute.startswith("cpu:"):
            cpu, count = tf.config.list_physical_devices("CPU")[0], int(distribute.removeprefix("cpu:"))
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
        self.strategy: tf.distribute.Strategy = _strategy(distribute)
        self.replicas: int = self.strategy.num_replicas_in_sync
        several = isinstance(self.strategy, tf.distribute.MultiWorkerMirroredStrategy)
        self.workers, worker = cluster() if several else (1, 0)
        self.share = worker, self.workers
        # The compiled functions of `gather` live as long as their model.
        self._gathered: weakref.WeakKeyDictionary[Any, dict] = weakref.WeakKeyDictionary()
        self._sum: Callable[..., tf.Tensor] | None = None

    def __str__(self) -> str:
        kind = type(self.strategy).__name__
        return f"{kind}, {self.replicas} devices" + (f" on {self.workers} hosts" if self.workers > 1 else "")

    def check_batch(self, size: int, parts: int = 1) -> None:
        """Raises UserError where the devices can't share batches of this size equally, in this many parts each."""
        if size % (self.replicas * parts):
            devices = "" if self.replicas == 1 else f" by {self.replicas} devices"
            of_parts = "" if parts == 1 else f" in {parts} parts"
            raise UserError(
                f"a batch of {size} images can't be shared equally{devices}{of_parts}: "
                f"give a batch size that is a multiple of {self.replicas * parts}."
            )

    def distribute(self, batch: np.ndarray | tf.Tensor) -> Any:
        """Splits a batch (N, …), N a multiple of `replicas`, into the slices of this host's devices."""
        if self.replicas == 1:
            return batch
        host, hosts = self.share
        size = len(batch) // hosts
        return self.distribute_share(batch[host * size : (host + 1) * size])

    def distribute_share(self, part: np.ndarray | tf.Tensor) -> Any:
        """Splits this host's part of a batch, see `share`, into the slices of its devices."""
        if self.replicas == 1:
            return part
        of_host = self.replicas // self.workers
        size, first = len(part) // of_host, self.share[0] * of_host

        def slice_of_device(context: Any) -> tf.Tensor:
            start = (context.replica_id_in_sync_group - first) * size
            return tf.convert_to_tensor(part[start : start + size])

        return self.strategy.experimental_distribute_values_from_function(slice_of_device)

    def reduce(self, step: Callable[..., tf.Tensor], *, jit_compile: bool = False) -> Callable[..., tf.Tensor]:
        """Compiles a step that returns sums.

        Args:
          step: function of slices of batches, run on each device.
          jit_compile: with XLA, where there is one device.

        Returns:
          A function of batches from `distribute`, which returns the sum of what `step` returns on the devices.
        """
        # Without AutoGraph, as in Keras: converting functions that do not need it took most of the time of tracing.
        # TensorFlow warns of frequent retracing when functions with the same code object are traced, such as this
        # step of several models.  A partial has no code object.
        if self.replicas == 1:
            return tf.function(functools.partial(step), jit_compile=jit_compile or None, autograph=False)
        # XLA can't compile across devices; Keras does without it here as well.
        return tf.function(functools.partial(_reduced, self.strategy, step), autograph=False)

    def gather(
        self, function: Callable[..., tf.Tensor], model: Any, axis: int = 0, **settings: Any
    ) -> Callable[..., tf.Tensor]:
        """Runs a function of whole batches on all devices.

        Args:
          function: takes the model and tensors (n, …), and runs on each device; its result has the batch at `axis`.
          model: built in the scope of `strategy`.
          axis: of the result.
          **settings: hashable keyword arguments of `function`; each choice of them is compiled separately.

        Returns:
          A function of batches (N, …), which returns `function(model, *batches, **settings)`.
        """
        if self.replicas == 1:
            return functools.partial(function, model, **settings)
        compiled = self._gathered.setdefault(model, {})
        choices = compilation.use_xla(), compilation.use_accelerated()
        key = function, axis, choices, *sorted(settings.items())
        if key not in compiled:
            own = functools.partial(_with_model, function, weakref.ref(model), settings)
            compiled[key] = tf.function(functools.partial(_gathered, self.strategy, own, axis), autograph=False)
        return lambda *batches: compiled[key](*map(self.distribute, batches))

    def in_threads(self, function: Callable[[int, threading.Event], np.ndarray]) -> list[np.ndarray]:
        """Calls a function once for each device of this host, at the same time.

        Args:
          function: takes the number of its device, from 0 to `replicas` - 1, and an event after which it should end
            soon, with an error.  It runs in a thread in which TensorFlow uses this device.

        Returns:
          What it returned, in the order of the devices.

        Raises:
          BaseException: what the first function that failed has raised.
        """
        names = self.strategy.extended.worker_devices
        numbers = range(self.share[0] * len(names), (self.share[0] + 1) * len(names))
        results: dict[int, np.ndarray] = {}
        errors: list[BaseException] = []
        stopping = threading.Event()

        def run(number: int, name: str) -> None:
            try:
                with self.strategy.scope(), tf.device(name):  # a variable is read from the copy on this device
                    results[number] = function(number, stopping)
            except BaseException as error:
                errors.append(error)
                stopping.set()

        threads: list[threading.Thread] = []
        try:
            for pair in zip(numbers, names, strict=True):
                # As daemons, they do not keep the process alive that the user stops; see `signals.end_process`.
                threads.append(threading.Thread(target=run, args=pair, name=signals.DEVICE_THREAD, daemon=True))
                threads[-1].start()
            for thread in threads:
                thread.join()
        finally:
            stopping.set()
            end = time.monotonic() + _SECONDS_TO_END
            for thread in threads:
                if thread.is_alive():
                    thread.join(max(0.0, end - time.monotonic()))
        if errors:
            raise errors[0]
        return [results[number] for number in numbers]

    def gather_shares(self, shares: Sequence[np.ndarray], total: int) -> np.ndarray:
        """Puts together the rows of all devices, of which device k has the rows k, k + `replicas`, k + 2 `replicas`, ….

        Args:
          shares: of the devices of this host, (M, …) each.
          total: number of rows N of all devices.

        Returns:
          (N, …), on all hosts.
        """
        most = -(-total // self.replicas)
        padded = [np.concatenate([s, np.zeros((most - len(s), *s.shape[1:]), s.dtype)]) for s in shares]
        if self.workers == 1:
            of_devices = np.stack(padded)
        else:
            rows = max(1, _BYTES_GATHERED // max(1, padded[0][:1].nbytes * self.replicas))
            blocks = [self._gather_block([p[i : i + rows] for p in padded]) for i in range(0, most, rows)]
            of_devices = np.concatenate(blocks, axis=1)
        return of_devices.swapaxes(0, 1).reshape(-1, *of_devices.shape[2:])[:total]

    def _gather_block(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """(replicas, M, …) from the rows of this host's devices, (M, …) each."""
        first = self.share[0] * len(rows)
        values = self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(rows[context.replica_id_in_sync_group - first])
        )
        gathered = self._gather_rows(values).numpy()
        return gathered.reshape(self.replicas, -1, *gathered.shape[1:])

    @functools.cached_property
    def _gather_rows(self) -> Callable[..., tf.Tensor]:
        """Puts the rows of all devices one after another."""
        gather = functools.partial(_gathered, self.strategy, tf.identity, 0)
        return tf.function(gather, autograph=False, reduce_retracing=True)

    def average(self, variables: Sequence[Any]) -> None:
        """Replaces Keras variables that each device has updated for itself by their mean; call it within a step."""
        if self.replicas == 1 or not variables:
            return
        values = [v.value for v in variables]
        # TensorFlow does not know the device of a variable that is only read; of a copy it does.
        means = tf.distribute.get_replica_context().all_reduce("MEAN", [tf.identity(v) for v in values])
        for value, mean in zip(values, means, strict=True):
            value.assign(mean)

    def mean(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The mean of each tensor over the devices; call it within a step."""
        if self.replicas == 1:
            return list(tensors)
        return tf.distribute.get_replica_context().all_reduce("MEAN", list(tensors))

    def assign(self, variables: Sequence[Any], values: Sequence[tf.Tensor]) -> None:
        """Assigns values that are the same on all devices to Keras variables; call it within a step."""
        if self.replicas == 1:
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
            return

        def update(strategy: tf.distribute.Strategy, values: Sequence[Any]) -> None:
            for variable, value in zip(variables, values, strict=True):
                strategy.extended.update(variable.value, lambda own, new: own.assign(new), args=(value,))

        tf.distribute.get_replica_context().merge_call(update, args=(list(values),))

    def sum_over_workers(self, number: float) -> float:
        """The sum of a number of each host, in float32; waits for all of them."""
        if self.workers == 1:
            return float(number)
        if self._sum is None:
            self._sum = self.reduce(tf.identity)
        of_host = self.replicas // self.workers

        def of_device(context: Any) -> tf.Tensor:  # all of it on the first one, because parts of it would be rounded
            return tf.constant(0.0 if context.replica_id_in_sync_group % of_host else number, tf.float32)

        values = self.strategy.experimental_distribute_values_from_function(of_device)
        return float(self._sum(values))


def _reduced(strategy: tf.distribute.Strategy, step: Callable[..., tf.Tensor], *slices: Any) -> tf.Tensor:
    """The sum of what a step returns on the devices."""

    def on_device(*own_slices: tf.Tensor) -> tf.Tensor:
        return tf.distribute.get_replica_context().all_reduce("SUM", step(*own_slices))

    return strategy.experimental_local_results(strategy.run(on_device, slices))[0]


def _with_model(
    function: Callable[..., tf.Tensor], get_model: Callable[[], Any], settings: dict[str, Any], *batches: tf.Tensor
) -> tf.Tensor:
    return function(get_model(), *batches, **settings)


def _gathered(
    strategy: tf.distribute.Strategy, function: Callable[..., tf.Tensor], axis: int, *slices: Any
) -> tf.Tensor:
    """What a function returns on the devices, put together along an axis."""
    dtypes = []

    def on_device(*own_slices: tf.Tensor) -> tf.Tensor:
        result = function(*own_slices)
        dtypes.append(result.dtype)
        return tf.cast(result, tf.int32) if result.dtype in (tf.bool, tf.int8) else result  # gather takes neither

    return tf.cast(strategy.gather(strategy.run(on_device, slices), axis=axis), dtypes[0])


def _strategy(distribute: str) -> tf.distribute.Strategy:
    gpus = tf.config.list_physical_devices("GPU")  # logical ones would start TensorFlow, too early for several hosts
    if distribute == "auto":
        distribute = "multiworker" if cluster()[0] > 1 else "mirrored" if len(gpus) > 1 else "none"
    if distribute == "multiworker":
        if cluster()[0] == 1:
            raise UserError("--distribute=multiworker needs TF_CONFIG, which names the hosts, in the environment.")
        return tf.distribute.MultiWorkerMirroredStrategy()
    if distribute == "mirrored" or distribute.startswith("cpu:"):
        devices = tf.config.list_logical_devices("GPU" if gpus and distribute == "mirrored" else "CPU")
        return tf.distribute.MirroredStrategy([d.name for d in devices])
    return tf.distribute.get_strategy()
