import dataclasses

import numpy as np
import pytest

from benchmarks.scaling import Cluster, ring_seconds, simulate

FAST = Cluster(hosts=4, devices=8, images=100, device_rate=1000.0, reader_rate=1e9, reduce_seconds=0.0, jitter=0.0)


def test_nothing_is_lost_where_only_devices_take_time():
    shares = simulate(FAST)
    assert shares.rate == pytest.approx(4 * 8 * 1000.0, rel=1e-4)
    assert shares.computing == pytest.approx(1.0, rel=1e-4)


def test_slow_readers_decide_the_rate():
    shares = simulate(dataclasses.replace(FAST, reader_rate=2000.0))
    assert shares.rate == pytest.approx(4 * 2000.0, rel=1e-2)
    assert shares.readers == pytest.approx(0.75, abs=0.01)


def test_the_network_adds_to_each_step():
    shares = simulate(dataclasses.replace(FAST, reduce_seconds=0.1))  # as long as the gradients take
    assert shares.rate == pytest.approx(4 * 8 * 1000.0 / 2, rel=1e-3)
    assert shares.network == pytest.approx(0.5, abs=1e-3)


def test_reading_goes_on_while_the_devices_compute():
    """Readers as fast as the devices do not slow them down, up to the first batch."""
    steps = 200
    shares = simulate(dataclasses.replace(FAST, reader_rate=8000.0), steps)
    assert shares.rate == pytest.approx(4 * 8 * 1000.0 * steps / (steps + 1), rel=1e-6)


def test_a_step_waits_for_its_slowest_device():
    few, many = (simulate(dataclasses.replace(FAST, jitter=0.1, hosts=hosts)) for hosts in (1, 64))
    assert 0.05 < few.stragglers < many.stragglers
    expected = np.exp(0.1 * np.random.default_rng(1).standard_normal((2000, 512))).max(axis=1).mean()
    assert many.rate == pytest.approx(512 * 1000.0 / expected, rel=0.01)


def test_shares_add_up():
    shares = simulate(dataclasses.replace(FAST, jitter=0.1, reader_rate=7000.0, reduce_seconds=0.01))
    assert sum(dataclasses.astuple(shares)[1:]) == pytest.approx(1.0)


def test_a_ring_sends_twice_the_data_however_many_hosts():
    assert ring_seconds(1, 1.0, 8.0, 0.001) == 0
    assert ring_seconds(2, 1.0, 8.0, 0.0) == pytest.approx(1.0)
    assert ring_seconds(1000, 1.0, 8.0, 0.0) == pytest.approx(2.0, rel=0.01)
    assert ring_seconds(1000, 0.0, 8.0, 0.001) == pytest.approx(1.998)
