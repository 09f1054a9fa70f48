"""A session in this process: the weights that its models have, and what it lists."""

import numpy as np
import pytest

from tfadv.command_line import CommandLine
from tfadv.datasets.batches import to_float
from tfadv.experiments.session import Session
from tfadv.models import files
from tfadv.models.compiled import compiled_logits
from tfadv.runtime import compilation
from tfadv.store.workdir import Workdir


@pytest.fixture
def session(smoke):
    """A session on the folder of the smoke run; it builds nothing."""
    flags = ["--flagfile=smoke", f"--workdir={smoke.workdir}", f"--data_dir={smoke.data_dir}"]
    config = CommandLine(flags).config()
    with Workdir(config.workdir, config.fingerprint()) as workdir:
        session = Session(config, workdir)
        yield session
        assert not session.graph.built


def test_loaded_models_have_the_weights_of_their_artifact(session, smoke):
    def check(recipe, model):
        assert files.weights_hash(model) == smoke.manifest(f"models/resnet_tiny/{recipe}")["content"]

    baseline, retrained = (session.trained("resnet_tiny", recipe) for recipe in ("baseline", "retrained"))
    with baseline.loaded() as first:
        check("baseline", first)
    with retrained.loaded() as second:
        assert second is first  # the only instance, with other weights
        check("retrained", second)
    with baseline.loaded() as first, retrained.loaded() as second, baseline.loaded() as third:
        assert len({id(first), id(second), id(third)}) == 3
        for recipe, model in (("baseline", first), ("retrained", second), ("baseline", third)):
            check(recipe, model)
    with retrained.loaded() as again:
        assert again is second  # has these weights already


def test_weights_that_training_changed_are_loaded_again(session, smoke):
    baseline = session.trained("resnet_tiny", "baseline")
    with baseline.loaded() as model:
        pass
    with session.trained("resnet_tiny", "augmented")._borrow_start() as entry:  # as training does
        assert entry.model is model and entry.content is None
        entry.model.set_weights([np.zeros_like(w) for w in entry.model.get_weights()])
    with baseline.loaded() as model:
        assert files.weights_hash(model) == smoke.manifest("models/resnet_tiny/baseline")["content"]


def test_training_starts_from_the_same_initial_weights_however_often_a_model_was_used(session):
    scratch = session.trained("resnet_tiny", "baseline")
    with scratch._borrow_start() as entry:
        first = entry.model.get_weights()
        entry.model.set_weights([w + 1 for w in first])
    with scratch._borrow_start() as entry:
        for a, b in zip(entry.model.get_weights(), first, strict=True):
            np.testing.assert_array_equal(a, b)


def test_logits_with_and_without_optimized_clones(session):
    images = session.splits.images["test"].images
    for recipe in ("baseline", "retrained"):
        with session.trained("resnet_tiny", recipe).loaded() as model:
            fast = compiled_logits(model, to_float(images))
            compilation.configure(accelerate="off")
            try:
                plain = compiled_logits(model, to_float(images))
            finally:
                compilation.configure()
        np.testing.assert_allclose(plain, fast, atol=1e-4)


def test_records_are_those_of_results_json(session, smoke):
    records = [record.to_dict() for trained in session.variants for record in session.records(trained)]
    assert records == smoke.records()
