"""One device or many, on `tf.distribute`: who computes which slice of a batch, and who writes.

Every device holds the same variables and computes its own slice of the same
global batch; what they count is summed, what they make is put together in order.
So the code of training and attacks is that of one device.
"""

import contextlib
import functools

import tensorflow as tf

from tfadv.config import cluster
from tfadv.errors import UserError


class Devices:
    """The devices of a run.

    Attributes:
      strategy: the `tf.distribute.Strategy`; models are built in its scope.
      replicas: int, the devices, on all hosts, that share a batch.
      workers: int, the hosts.
    """

    def __init__(self, distribute="none", virtual_devices=0):
        """Takes hold of the devices; before any tensor is made.

        Args:
          distribute: "none", "mirrored" (all GPUs of this host, or its CPUs), "multiworker" (the hosts
            of TF_CONFIG), "tpu", or "auto": the first of multiworker and mirrored that there is more than one of.
          virtual_devices: int, cut the CPU into so many devices, to rehearse "mirrored"; 0 leaves it whole.

        Raises:
          UserError: there are no such devices.
        """
        if virtual_devices:
            cpu = tf.config.list_physical_devices("CPU")[0]
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * virtual_devices)
        self.strategy = _strategy(distribute)
        self._joined, self._summed = {}, None
        self.replicas = self.strategy.num_replicas_in_sync
        self.workers = cluster()[0] if isinstance(self.strategy, tf.distribute.MultiWorkerMirroredStrategy) else 1

    def __str__(self):
        kind = type(self.strategy).__name__
        return f"{kind}, {self.replicas} devices" + (f" on {self.workers} hosts" if self.workers > 1 else "")

    def check_batch(self, size):
        """Raises UserError where a batch can't be shared out equally."""
        if size % self.replicas:
            raise UserError(
                f"--batch_size={size} can't be shared by {self.replicas} devices: give a multiple of {self.replicas}."
            )

    def split(self, batch):
        """A tensor or array (N, …) as the slices of this host's devices; N is a multiple of `replicas`."""
        if self.replicas == 1:
            return batch
        size = len(batch) // self.replicas

        def part(context):
            start = context.replica_id_in_sync_group * size
            return tf.convert_to_tensor(batch[start : start + size])

        return self.strategy.experimental_distribute_values_from_function(part)

    def summing(self, step, *, jit_compile=False):
        """Compiles a step: a function of `split` batches that returns the sum of what `step` returns on each device."""
        if self.replicas == 1:
            return tf.function(step, jit_compile=jit_compile or None)

        def summed(*own):
            return tf.distribute.get_replica_context().all_reduce("SUM", step(*own))

        @tf.function  # XLA can't compile across devices: Keras leaves it out here as well
        def run(*slices):
            return self.strategy.experimental_local_results(self.strategy.run(summed, slices))[0]

        return run

    def joining(self, function, model, axis=0, **settings):
        """`function(model, *batches, **settings)` of whole batches (N, …), each device computing a slice of them.

        Args:
          function: callable of the model and tensors (n, …), on each device; its result has the batch at `axis`.
          model: built in the strategy's scope.
          axis: int.
          settings: hashable; a compiled function is kept for each choice of them.
        """
        if self.replicas == 1:
            return functools.partial(function, model, **settings)
        key = function, model, axis, *sorted(settings.items())
        if key not in self._joined:

            @tf.function
            def run(*slices):
                kinds = []

                def gatherable(*own):  # TensorFlow gathers neither bool nor int8
                    result = function(model, *own, **settings)
                    kinds.append(result.dtype)
                    return tf.cast(result, tf.int32) if result.dtype in (tf.bool, tf.int8) else result

                results = self.strategy.gather(self.strategy.run(gatherable, slices), axis=axis)
                return tf.cast(results, kinds[0])

            self._joined[key] = run
        return lambda *batches: self._joined[key](*map(self.split, batches))

    def average(self, variables):
        """Makes variables that each device has moved for itself the same again; call it within a step."""
        if self.replicas == 1 or not variables:
            return
        values = [v.value for v in variables]
        # Of a variable that is only read, TensorFlow does not know the device; of a copy it does.
        means = tf.distribute.get_replica_context().all_reduce("MEAN", [tf.identity(v) for v in values])
        for value, mean in zip(values, means):
            value.assign(mean)

    def sum_over_workers(self, number):
        """float, the sum of a number of each host; waits for all of them."""
        if self.workers == 1:
            return float(number)
        per_device = number * self.workers / self.replicas
        if self._summed is None:
            self._summed = self.summing(tf.identity)
        values = self.strategy.experimental_distribute_values_from_function(
            lambda _: tf.constant(per_device, tf.float32)
        )
        return float(self._summed(values))


@contextlib.contextmanager
def peers_may_die():
    """Turns the failure of a collective operation, because another host is gone, into one clear line."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.InternalError, tf.errors.CancelledError) as e:
        words = ("Collective", "peer", "heartbeat", "Socket closed", "connect", "GRPC", "task")
        if cluster()[0] == 1 or not any(word in str(e) for word in words):
            raise
        raise UserError(
            "another worker of this run is gone: start all of them again, and the run goes on from its last checkpoint."
        )


def _strategy(distribute):
    gpus = tf.config.list_physical_devices("GPU")  # logical ones would start TensorFlow, too early for several hosts
    if distribute == "auto":
        distribute = "multiworker" if cluster()[0] > 1 else "mirrored" if len(gpus) > 1 else "none"
    if distribute == "multiworker":
        if cluster()[0] == 1:
            raise UserError("--distribute=multiworker needs TF_CONFIG, which names the hosts, in the environment.")
        return tf.distribute.MultiWorkerMirroredStrategy()
    if distribute == "mirrored":
        devices = tf.config.list_logical_devices("GPU" if gpus else "CPU")
        return tf.distribute.MirroredStrategy([d.name for d in devices])
    if distribute == "tpu":
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
        except (ValueError, tf.errors.OpError) as error:
            raise UserError(f"--distribute=tpu: no TPU was found ({str(error).splitlines()[0][:120]}).")
        return tf.distribute.TPUStrategy(resolver)
    return tf.distribute.get_strategy()
