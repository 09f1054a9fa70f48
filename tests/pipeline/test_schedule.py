"""How a defense trains, computed from its settings and those of the run: eps of stored images, budgets, optimizers."""

import types

import pytest

from tfadv import specs
from tfadv.command_line import CommandLine
from tfadv.defenses import DEFENSES
from tfadv.errors import UserError
from tfadv.paper import Baseline
from tfadv.pipeline.run import _defenses
from tfadv.pipeline.training import _Job, schedule


def scheduled(text, *flags, own=False):
    """(defense, its `Schedule`)."""
    config = CommandLine(["--dataset=digits", "--epsilons=0.1,0.2", *flags]).config()
    ((name, settings),) = specs.split_specs(text, DEFENSES)
    defense = specs.build_with(name, settings, DEFENSES)
    run = types.SimpleNamespace(config=config)
    return defense, schedule(run, defense, types.SimpleNamespace(is_own=own))


def steps(text, images, *flags, stored=0, validation=0):
    """The number of steps that the budget pays for."""
    defense, how = scheduled(text, *flags)
    run = types.SimpleNamespace(config=CommandLine(["--dataset=digits", "--epsilons=0.1,0.2", *flags]).config())
    samples = types.SimpleNamespace(sizes={"train": stored, "validation": 0})
    return _Job(run, "resnet18", defense, None, how, None, samples)._steps(images, validation)


@pytest.mark.parametrize("round, share", [(1, 0.25), (3, 0.75), (4, 1.0), (9, 1.0)])
def test_eps_of_the_rounds_grows_to_its_full_size(round, share):
    levels = scheduled(f"rounds(ramp=4, round={round})")[1].levels
    assert levels == pytest.approx((0.0, 0.1 * share, 0.2 * share))
    assert scheduled(f"rounds(round={round})")[1].levels == scheduled("retrained")[1].levels == (0.0, 0.1, 0.2)
    assert scheduled("control")[1].levels == (0.0,)


@pytest.mark.parametrize("defense, cost", [("pgd(steps=2)", 3), ("nfgsm", 2), ("surrogate", 1)])
def test_a_budget_pays_for_whole_steps(defense, cost):
    flags = ("--budget=10000", "--batch_size=100")
    assert steps(defense, 500, *flags, stored=1000) == (10_000 - 1000) // (100 * cost)
    assert steps(defense, 40, *flags) == 10_000 // (40 * cost)  # all images are one batch
    with pytest.raises(UserError, match="--budget=10000 is too small"):
        steps(defense, 500, *flags, stored=10_000 - 99)


@pytest.mark.parametrize("budget", [9_000, 20_000, 50_000, 51_999])
@pytest.mark.parametrize("images, validation", [(500, 80), (520, 1500), (90, 5)])
def test_attacks_on_validation_images_are_paid_from_the_budget(budget, images, validation):
    """10 gradients for each of the first 1,000, before training and after each epoch; one more step is too much."""
    flags = (f"--budget={budget}", "--batch_size=100")

    def spent(steps):
        batch = min(100, images)
        epochs = -(-steps // (images // batch))
        return 2 * batch * steps + 10 * min(validation, -(-1000 // batch) * batch) * (epochs + 1)

    if spent(1) > budget:
        with pytest.raises(UserError, match="is too small for nfgsm"):
            steps("nfgsm", images, *flags, validation=validation)
    else:
        found = steps("nfgsm", images, *flags, validation=validation)
        assert spent(found) <= budget < spent(found + 1)
    assert steps("control", images, f"--budget={budget}", validation=validation) > 0


def test_all_rounds_together_take_one_budget():
    assert steps("rounds(number=3, round=2)", 500, "--budget=9000", "--batch_size=100") == 30


def test_defenses_of_the_paper_take_no_budget():
    for name in ("baseline", "augmented", "retrained"):
        assert steps(name, 500, "--budget=9000") == 0


@pytest.mark.parametrize(
    "defense, own, expected",
    [
        ("nfgsm", False, ("adam", 0.001)),
        ("nfgsm", True, ("adam", 0.2)),
        ("surrogate", False, ("sgd", 0.2)),
        ("surrogate", True, ("adam", 0.2)),
        ("retrained", False, ("sgd", 0.2)),
        ("nfgsm(optimizer=sgd)", False, ("sgd", 0.2)),
        ("nfgsm(learning_rate=0.3)", True, ("adam", 0.3)),
        ("control(optimizer=adam)", False, ("adam", 0.001)),
    ],
)
def test_the_optimizer_and_its_learning_rate(defense, own, expected):
    how = scheduled(defense, "--learning_rate=0.2", own=own)[1]
    assert (how.optimizer, how.learning_rate) == expected


@pytest.mark.parametrize("flags, rate", [([], 0.1), (["--weights=imagenet"], 0.01), (["--learning_rate=0.3"], 0.3)])
def test_the_learning_rate_of_built_in_models(flags, rate):
    assert scheduled("retrained", *flags)[1].learning_rate == rate


def test_lengths_and_weight_decay():
    flags = ("--epochs=7", "--retrain_epochs=2", "--weight_decay=0.01")
    found = {name: scheduled(name, *flags)[1] for name in ("baseline", "augmented", "control", "rounds", "nfgsm")}
    assert [how.epochs for how in found.values()] == [7, 2, 10, 2, 10]
    assert [how.weight_decay for how in found.values()] == [0.01] * 4 + [5e-3]
    assert scheduled("nfgsm(epochs=30, weight_decay=0)")[1].epochs == 30
    assert scheduled("nfgsm(epochs=30, weight_decay=0)")[1].weight_decay == 0


def test_the_defenses_of_a_run():
    def labels(*flags):
        return [defense.label for defense in _defenses(CommandLine(["--dataset=digits", *flags]).config())]

    assert labels() == ["augmented", "retrained"] and Baseline().start is None
    assert labels("--defenses=baseline,nfgsm") == ["nfgsm"]
    assert labels("--stage=compare", "--defenses=nfgsm") == ["control", "nfgsm"]
    assert labels("--stage=compare", "--defenses=nfgsm,control(epochs=3)") == ["nfgsm", "control(epochs=3)"]
    with pytest.raises(UserError, match="baseline has no settings of its own: use --epochs"):
        labels("--defenses=baseline(epochs=3)")


def test_several_norms_have_sizes_of_their_own():
    _, how = scheduled("pgd(norm=linf+l1, eps=0.05+4)")
    assert (how.eps, how.validation_eps) == ((0.05, 4.0), 0.05)  # and not the largest of --epsilons
    assert scheduled("pgd(norm=l1, eps=4)")[1].validation_eps == scheduled("pgd(norm=l1, eps=4)")[1].eps == 4.0
    with pytest.raises(UserError, match="needs a size of its own in each norm, such as pgd.norm=linf.l1, eps=8/255.12"):
        _defenses(CommandLine(["--dataset=digits", "--defenses=pgd(norm=linf+l2)"]).config())
