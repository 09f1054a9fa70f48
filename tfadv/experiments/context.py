"""What all artifacts of a work folder share."""

from __future__ import annotations

import dataclasses

from tfadv.config import Config
from tfadv.datasets.storage import Storage
from tfadv.experiments.graph import Graph
from tfadv.experiments.model_pool import ModelPool
from tfadv.runtime.devices import Devices
from tfadv.store.workdir import Workdir

AFFECTS_RESULTS = False


@dataclasses.dataclass(frozen=True)
class Context:
    """Settings, work folder and devices.

    Attributes:
      config: the settings, resolved.
      workdir: the work folder.
      devices: where training and attacks run.
      graph: builds artifacts.
      pool: built models for reuse.
      storage: creates arrays of images, in memory or on the disk.
    """

    config: Config
    workdir: Workdir
    devices: Devices
    graph: Graph
    pool: ModelPool
    storage: Storage
