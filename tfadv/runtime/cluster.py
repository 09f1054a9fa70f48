"""The hosts of a distributed run, from TF_CONFIG; no TensorFlow here."""

from __future__ import annotations

import json
import os

from tfadv.errors import UserError


def cluster() -> tuple[int, int]:
    """Reads from the environment variable TF_CONFIG which worker this process is.

    Returns:
      (number of workers, index of this worker, 0 for the chief, which writes); (1, 0) without TF_CONFIG.

    Raises:
      UserError: TF_CONFIG is not a description of a cluster.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        return 1, 0
    try:
        config = json.loads(text)
        kinds = [kind for kind in ("chief", "worker") if kind in config["cluster"]]
        task = config["task"]
        before = sum(len(config["cluster"][kind]) for kind in kinds[: kinds.index(task["type"])])
        return sum(len(config["cluster"][kind]) for kind in kinds), before + int(task["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"TF_CONFIG can't be read ({error}): it must be JSON such as "
            '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}.'
        )
