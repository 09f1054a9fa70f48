import keras
import numpy as np
import pytest

from tfadv.experiments.model_pool import ModelPool


class CountedPool(ModelPool):
    """A pool of models with one weight each, which is 1 at first."""

    def __init__(self):
        super().__init__()
        self.built = []

    def borrow(self, name, content=None):
        def build():
            self.built.append(name)
            model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
            model.set_weights([np.ones((1, 1))])
            return model

        return super().borrow(name, build, content)


@pytest.fixture
def pool():
    return CountedPool()


def test_models_are_reused_one_user_at_a_time(pool):
    with pool.borrow("a") as first:
        with pool.borrow("a") as second:
            assert second is not first and second.model is not first.model
        with pool.borrow("a") as third:
            assert third is second
    with pool.borrow("a") as again:
        assert again in (first, second)
    with pool.borrow("b") as other:
        assert other not in (first, second)
    assert pool.built == ["a", "a", "b"]


def test_the_model_with_the_wanted_weights_is_preferred(pool):
    with pool.borrow("a") as first, pool.borrow("a") as second:
        first.content, second.content = "weights 1", "weights 2"
    for content, expected in (("weights 2", second), ("weights 1", first), ("weights 2", second)):
        with pool.borrow("a", content) as entry:
            assert entry is expected
    with pool.borrow("a", "weights 1"), pool.borrow("a", "weights 1") as entry:
        assert entry is second  # the other one is in use; the caller loads the weights, see `content`


def test_a_model_is_free_again_after_an_error(pool):
    with pytest.raises(RuntimeError), pool.borrow("a"):
        raise RuntimeError
    with pool.borrow("a"):
        pass
    assert pool.built == ["a"]


def test_initial_weights_stay_known(pool):
    with pool.borrow("a") as entry:
        entry.model.set_weights([np.full((1, 1), 5.0)])
    with pool.borrow("a") as entry:
        assert entry.initial_weights[0].item() == 1.0 and entry.model.get_weights()[0].item() == 5.0
