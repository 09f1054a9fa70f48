"""What happens when another host of a distributed run is gone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from tfadv.errors import UserError
from tfadv.runtime.cluster import cluster

_PEER_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.InternalError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


@contextlib.contextmanager
def peers_may_die() -> Iterator[None]:
    """Turns the failure of a collective operation, when another host is gone, into a `UserError`."""
    try:
        yield
    except _PEER_ERRORS as error:
        words = ("Collective", "peer", "heartbeat", "Socket closed", "connect", "GRPC")
        if cluster()[0] == 1 or not any(word in str(error) for word in words):
            raise
        raise UserError(
            "another worker of this run is gone: start all of them again; the run continues from its last checkpoint."
        ) from error
