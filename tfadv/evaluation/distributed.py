"""Attacks on all devices: each device attacks its own images, at its own pace."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfadv.attacks.base import Attack
from tfadv.attacks.cost import Cost
from tfadv.attacks.loop import Resume
from tfadv.runtime.devices import Devices


class OnAllDevices:
    """An attack that shares the images among all devices of all hosts.

    Of G devices, device k attacks the images k, k + G, k + 2G, ….  It does not wait for the
    others before it has attacked all of its images, so that images which are soon
    adversarial save time as they do on one device.  The same images become adversarial as on
    one device; where several restarts run at the same time, another one may be returned.

    With several hosts, all of them must call the attack with the same arguments; all
    of them get the whole result.
    """

    def __init__(self, attack: Any, devices: Devices) -> None:
        """`attack`: a `tfadv.attacks.base.Attack`, or a callable with the same arguments; treats each image by itself.
        `devices`: in the scope of whose strategy the attacked models were built."""
        self._attack, self._devices = attack, devices

    def __call__(
        self,
        model: Any,
        x: Any,
        y: Any,
        eps: Sequence[float] | None,
        *,
        batch_size: int,
        cost: Cost | None = None,
        progress: Callable[[int], Any] | None = None,
        resume: Any = None,
        **options: Any,
    ) -> np.ndarray:
        """Attacks images.

        Args:
          model, x, y, eps, cost, progress: as for `tfadv.attacks.base.Attack`, except that eps is a sequence of E
            numbers, or None, which counts as one.
          batch_size: number of images that are attacked at once, on all devices together.
          resume: a `tfadv.store.resume.ResumeLog`, in which each device has a log of its own; or None.
          **options: the other arguments of the attack.

        Returns:
          float32 (E, N, H, W, C).
        """
        number, cost = self._devices.replicas, Cost() if cost is None else cost
        numbers = options.pop("image_numbers", None)
        if number == 1 or len(y) < number:
            options |= {"batch_size": batch_size, "cost": cost, "progress": progress, "resume": resume}
            options |= {} if numbers is None else {"image_numbers": numbers}
            return self._attacked(model, x, y, eps, **options)
        x, y = np.asarray(x), np.asarray(y)
        options["batch_size"] = max(1, batch_size // number)
        if numbers is None and isinstance(self._attack, Attack):
            numbers = np.arange(len(y))
        reported = _Reported(progress)
        costs = {}

        def attack_share(device: int, stopping: threading.Event) -> np.ndarray:
            costs[device] = Cost()
            own = _Stoppable(resume and resume.child(f"device-{device}-of-{number}"), stopping)
            share = slice(device, None, number)
            watched = {"cost": costs[device], "progress": reported, "resume": own}
            watched |= {} if numbers is None else {"image_numbers": numbers[share]}
            result = self._attacked(model, x[share], y[share], eps, **watched, **options)
            return np.moveaxis(result, 1, 0)

        shares = self._devices.in_threads(attack_share)
        gathered = self._devices.gather_shares(shares, len(y))
        reported(len(y) - reported.images)  # those of other hosts
        for of_device in self._of_all_hosts([costs[device] for device in sorted(costs)]):
            cost.add_all(of_device)
        return np.ascontiguousarray(np.moveaxis(gathered, 0, 1))

    def _attacked(self, model: Any, x: Any, y: Any, eps: Sequence[float] | None, **options: Any) -> np.ndarray:
        """float32 (E, N, H, W, C)."""
        adversarial = np.asarray(self._attack(model, x, y, eps, **options))
        return adversarial[None] if eps is None else adversarial

    def _of_all_hosts(self, costs: list[Cost]) -> list[Cost]:
        """The costs of all devices, given those of this host's devices."""
        if self._devices.workers == 1:
            return costs
        template = costs[0]
        vectors = [np.array([_numbers(cost)], np.int64) for cost in costs]
        return [_cost(template, row) for row in self._devices.gather_shares(vectors, self._devices.replicas)]


class _Reported:
    """Reports progress from several threads, and counts the images."""

    def __init__(self, progress: Callable[[int], Any] | None) -> None:
        self._progress, self._lock, self.images = progress, threading.Lock(), 0

    def __call__(self, images: int) -> None:
        with self._lock:
            self.images += images
            if self._progress:
                self._progress(images)


class _Stopping(Exception):
    """Ends the attack of a thread."""


class _Stoppable:
    """A `Resume` for an attack in a thread, which raises once the other threads are stopping.

    An attack with several steps asks it before each unit of work, and about twice a second.
    """

    def __init__(self, resume: Resume | None, stopping: threading.Event) -> None:
        self._resume, self._stopping = resume, stopping

    def load(self) -> Any:
        self._check()
        return self._resume.load() if self._resume else None

    def partial(self, step: int, arrays_fn: Callable[[], list[np.ndarray]]) -> None:
        self._check()
        if self._resume:
            self._resume.partial(step, arrays_fn)

    def done(self, arrays: list[np.ndarray]) -> None:
        if self._resume:
            self._resume.done(arrays)

    def _check(self) -> None:
        if self._stopping.is_set():
            raise _Stopping


def _numbers(cost: Cost) -> list[int]:
    return [cost.gradients, cost.forwards, *(n for counts in cost.remaining.values() for n in counts)]


def _cost(template: Cost, numbers: np.ndarray) -> Cost:
    """The inverse of `_numbers`, for a cost with the same attacks."""
    gradients, forwards, *counts = map(int, numbers)
    remaining = {name: [counts.pop(0) for _ in own] for name, own in template.remaining.items()}
    return Cost(gradients, forwards, dict(template.fallbacks), remaining)
