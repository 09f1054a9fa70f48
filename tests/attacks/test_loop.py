"""The loops, with steps that count down instead of attacking; chunks, resumption and interruption."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv import attacks
from tfadv.attacks import loop
from tfadv.models.compiled import PerModel, compiled_logits

SHORT = {("pgd", 1), ("pgd", 7), ("square", 3)}
STEPPING = ["pgd", "apgd-ce", "apgd-t", "fab", "fab-t", "square"]


def images(n):
    return tf.reshape(tf.range(n, dtype=tf.float32), (-1, 1, 1, 1))


class Countdown:
    """An image is done when its number of steps is used up, and then it is 100 more per step taken."""

    def step(self, model, inputs, i, state):
        x, left = state
        x, left = x + 100, left - 1
        return loop.Step((x, left), x, loop.score(left <= 0), left <= 0)

    def last(self, model, inputs, state):
        x, left = state
        return -x, loop.score(left < -99)


def run(left, steps, owners=None, compact=True):
    """(images, scores, visits, images left at the end) of a countdown."""
    n, inputs, options = len(left), (), {"attack": Countdown(), "compact": compact}
    owners = tf.range(n) if owners is None else owners
    state = loop.begin((images(n), tf.constant(left)), tf.ones(n, tf.bool))
    state = loop.advance(None, state, owners, tf.constant(steps), inputs, **options)
    results = loop.finish(None, state, inputs, **options) if len(state.rows) else (state.images, state.scores)
    return *results, int(state.visits), len(state.rows)


@pytest.mark.parametrize("compact", [True, False])
def test_each_image_leaves_when_it_is_done(compact):
    results, scores, visits, ends = run([3, 1, 9, 2], 4, compact=compact)
    np.testing.assert_array_equal(tf.squeeze(results), [300, 101, -402, 203])
    np.testing.assert_array_equal(scores, [-np.inf, -np.inf, np.inf, -np.inf])
    assert (visits, ends) == ((4 + 3 + 2 + 1, 1) if compact else (16, 4))


@pytest.mark.parametrize("compact", [True, False])
def test_the_loop_ends_with_the_last_image(compact):
    *_, visits, ends = run([2, 1], 1000, compact=compact)
    assert (visits, ends) == ((3, 0) if compact else (4, 2))


def test_copies_of_an_image_leave_together():
    results, scores, visits, _ = run([5, 1, 5, 4], 9, owners=tf.constant([7, 7, 2, 2], tf.int64))
    np.testing.assert_array_equal(scores, [np.inf, -np.inf, np.inf, -np.inf])
    assert visits == 4 + 2 * 3 and results[3, 0, 0, 0] == 403


class GivingUp(Countdown):
    """An image whose number of steps is used up has failed."""

    def step(self, model, inputs, i, state):
        step = super().step(model, inputs, i, state)
        return step._replace(scores=tf.fill(tf.shape(step.scores), loop.NOT_ADVERSARIAL))


def test_a_copy_that_gives_up_leaves_alone():
    state, options = loop.begin((images(2), tf.constant([1, 5])), tf.ones(2, tf.bool)), {"compact": True}
    state = loop.advance(None, state, tf.zeros(2, tf.int64), tf.constant(3), (), attack=GivingUp(), **options)
    assert state.rows.numpy().tolist() == [1] and int(state.visits) == 2 + 1 + 1
    np.testing.assert_array_equal(state.scores, [np.inf, np.inf])


@pytest.mark.parametrize("compact, capacity, calls", [(True, 1, 6), (True, 100, 1), (True, 9, 3), (False, 100, 6)])
def test_rounds_keep_the_best_of_each_and_leave_the_rest(compact, capacity, calls):
    """Image i is adversarial in round 2 i; image 3 is not to be attacked; image 4 never is, and is best in round 1."""
    seen, visits = [], []

    def attempt(rounds, rows, active):
        seen.append(rows[active].tolist())
        visits.append(len(rows))
        assert len(rounds) == len(rows) and set(rounds) <= set(range(6))
        adversarial = (2 * rows == rounds) & (rows < 4)
        score = np.where(adversarial, -np.inf, np.where(rows == 4, np.abs(rounds - 1.0), np.inf))
        results = 10.0 * rounds.astype("float32")[:, None, None, None] + 1
        return tf.constant(results), tf.constant(score, tf.float32)

    active = np.array([True, True, True, False, True])
    results, scores = loop.run_rounds(attempt, 6, images(5), active, loop.ADVERSARIAL, capacity, compact=compact)
    np.testing.assert_array_equal(tf.squeeze(results), [1, 21, 41, 3, 11])
    np.testing.assert_array_equal(scores, [-np.inf, -np.inf, -np.inf, np.inf, 0])
    assert calls == len(seen) and not any(3 in rows for rows in seen)
    if compact and capacity == 1:
        assert sum(visits) == 4 + 3 + 3 + 2 + 2 + 1 and seen[-1] == [4]


def test_the_first_chunk_follows_the_pace_of_an_earlier_round():
    assert loop._first_length(None, 128) == 1
    assert loop._first_length(0.0005, 100) == 10  # 50 ms per step
    assert loop._first_length(1.0, 100) == 1 and loop._first_length(0.0, 1) >= 1000


def test_chunks_begin_with_one_step_and_are_adapted_to_the_time():
    assert loop._next_length(1, 0.01) == 4  # grows by a factor of four at most
    assert loop._next_length(4, 0.04) == 16
    assert loop._next_length(64, 0.64) == 50  # 10 ms per step
    assert loop._next_length(1, 3.0) == 1 and loop._next_length(3, 0.0) == 12


class Interrupted(Exception):
    pass


class MemoryLog:
    """A stand-in for `tfadv.store.resume.ResumeLog` that keeps every state and interrupts after some chunks."""

    def __init__(self, units=(), partial=None, stop_after=None):
        self.units, self.state, self.stop_after = list(units), partial, stop_after
        self.next, self.chunks, self.served = 0, 0, 0

    def load(self):
        unit, self.next = self.next, self.next + 1
        if unit < len(self.units):
            self.served += 1
            return "done", self.units[unit]
        state, self.state = self.state, None
        return ("partial", *state) if state else None

    def partial(self, step, arrays_fn):
        arrays = arrays_fn()
        assert all(isinstance(array, np.ndarray) for array in arrays)
        self.state, self.chunks = (step, arrays), self.chunks + 1
        if self.chunks == self.stop_after:
            raise Interrupted

    def done(self, arrays):
        assert all(isinstance(array, np.ndarray) for array in arrays)
        self.units.append(arrays)
        self.state = None


def continued(call, every):
    """(what `call(log)` returns when it is interrupted after so many chunks again and again, the log, how often)."""
    log, interruptions = MemoryLog(stop_after=every), 0
    while True:
        try:
            return call(log), log, interruptions
        except Interrupted:
            interruptions += 1
            log = MemoryLog(log.units, log.state, every)


@pytest.mark.parametrize(
    "name, every",
    [
        pytest.param(name, every, marks=[] if (name, every) in SHORT else pytest.mark.long)
        for name in (*STEPPING, "autoattack")
        for every in (1, 3, 7)
    ],
)
def test_resuming_gives_the_same_images_and_cost(small, name, every, monkeypatch):
    model, x, y = small
    monkeypatch.setattr(loop, "SECONDS_PER_CHUNK", 0 if every == 7 else 1e9)
    settings = {"steps": 3, "queries": 4} if name == "autoattack" else {"steps": 10}
    attack = attacks.ATTACKS[name](restarts=2, **settings)

    def call(log):
        cost, done = attacks.Cost(), []
        images = attack(model, x, y, [0.02, 0.01], batch_size=25, cost=cost, progress=done.append, resume=log)
        assert sum(done) == len(y)
        return images.numpy(), cost

    unbroken_log = MemoryLog()
    expected, expected_cost = call(unbroken_log)
    # Nor do the images depend on the length of the chunks.
    if every == 7:
        monkeypatch.setattr(loop, "SECONDS_PER_CHUNK", 1e9)
    without, cost = call(None)
    if every == 7:
        monkeypatch.setattr(loop, "SECONDS_PER_CHUNK", 0)
    np.testing.assert_array_equal(without, expected)
    assert cost == expected_cost

    (resumed, cost), log, interruptions = continued(call, every)
    np.testing.assert_array_equal(resumed, expected)
    assert cost == expected_cost
    assert interruptions == (unbroken_log.chunks - (log.chunks > 0)) // every or interruptions > 0
    assert log.served > 0 and len(log.units) == len(unbroken_log.units)


def test_an_interrupt_is_heard_between_chunks(small, monkeypatch):
    model, x, y = small
    advance, calls = loop._advance, []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return advance(*args, **options)

    monkeypatch.setattr(loop, "_advance", interrupted)
    monkeypatch.setattr(loop, "SECONDS_PER_CHUNK", 0)
    with pytest.raises(KeyboardInterrupt):
        attacks.Square(steps=5000)(model, x, y, 1e-6)
    assert len(calls) == 3  # and not one call with 5,000 steps


def test_five_models_give_no_retracing_warning(caplog):
    """TensorFlow warns of functions with the same Python code that are traced again and again."""
    x, y = np.full((2, 3, 3, 1), 0.5, "float32"), np.zeros(2, int)
    with caplog.at_level(logging.WARNING, logger="tensorflow"):
        tf.get_logger().addHandler(caplog.handler)
        try:
            for _ in range(8):
                model = keras.Sequential([keras.Input((3, 3, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
                attacks.PGD(steps=2)(model, x, y, 0.1)
                attacks.FGSM()(model, x, y, 0.1)
                compiled_logits(model, x)
        finally:
            tf.get_logger().removeHandler(caplog.handler)
    assert not [record for record in caplog.records if "retracing" in record.getMessage()]


def test_compiled_functions_belong_to_a_model_and_its_kind_of_compilation(small, xla):
    model, x, _ = small
    traces = []

    def function(model, x, *, factor):
        traces.append(factor)
        return factor * model(x)

    compiled = PerModel(function)
    for factor in (1, 2, 1):
        np.testing.assert_allclose(compiled(model, x, factor=factor), factor * model(x).numpy(), rtol=1e-4, atol=1e-5)
    assert traces == [1, 2]
