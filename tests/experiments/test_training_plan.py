"""How a recipe trains, computed from the settings: eps of stored samples, budgets, and what only some recipes take."""

import pytest

from tfadv.command_line import CommandLine
from tfadv.errors import UserError
from tfadv.experiments import RECIPES
from tfadv.experiments.paper import RETRAINED
from tfadv.experiments.training_plan import TrainingPlan


def plan(recipe, *flags, **settings):
    config = CommandLine(["--dataset=digits", "--epsilons=0.1,0.2", *flags]).config()
    known = RETRAINED if recipe == "retrained" else RECIPES[recipe]
    return TrainingPlan(config, known.with_settings(settings))


@pytest.mark.parametrize("round, share", [(1, 0.25), (3, 0.75), (4, 1.0), (9, 1.0)])
def test_eps_of_the_rounds_grows_to_its_full_size(round, share):
    assert plan("rounds", "--round_ramp=4", round=round).levels == pytest.approx((0.0, 0.1 * share, 0.2 * share))
    assert plan("rounds", round=round).levels == (0.0, 0.1, 0.2)
    assert plan("retrained", "--round_ramp=4").levels == (0.0, 0.1, 0.2)


@pytest.mark.parametrize("recipe, cost", [("nfgsm", 2), ("pgd", 3), ("surrogate", 1)])
def test_a_budget_pays_for_whole_steps(recipe, cost):
    settings = {"steps": 2} if recipe == "pgd" else {}
    planned = plan(recipe, "--budget=10000", "--batch_size=100", **settings)
    assert planned.training_settings(500, 1000, 0).steps == (10_000 - 1000) // (100 * cost)
    assert planned.training_settings(40, 0, 0).steps == 10_000 // (40 * cost)  # all images are one batch
    with pytest.raises(UserError, match="--budget=10000 is too small"):
        planned.training_settings(500, 10_000 - 99, 0)


@pytest.mark.parametrize("budget", [9_000, 20_000, 50_000, 51_999])
@pytest.mark.parametrize("images, validation", [(500, 80), (520, 1500), (90, 5)])
def test_attacks_on_validation_images_are_paid_from_the_budget(budget, images, validation):
    """10 gradients for each of the first 1,000, before training and after each epoch; one more step is too much."""
    planned = plan("nfgsm", f"--budget={budget}", "--batch_size=100")

    def spent(steps):
        batch = min(100, images)
        epochs = -(-steps // (images // batch))
        return 2 * batch * steps + 10 * min(validation, -(-1000 // batch) * batch) * (epochs + 1)

    if spent(1) > budget:
        with pytest.raises(UserError, match="is too small for nfgsm"):
            planned.training_settings(images, 0, validation)
    else:
        steps = planned.training_settings(images, 0, validation).steps
        assert spent(steps) <= budget < spent(steps + 1)
    assert plan("control", f"--budget={budget}").training_settings(images, 0, validation).steps > 0


def test_all_rounds_together_take_one_budget():
    planned = plan("rounds", "--budget=9000", "--rounds=3", "--batch_size=100", round=2)
    assert planned.training_settings(500, 0, 100).steps == 30


def test_the_optimizer_and_its_learning_rate():
    for recipe, own, expected in [
        ("nfgsm", False, ("adam", 0.001)),
        ("nfgsm", True, ("adam", 0.2)),
        ("surrogate", False, ("sgd", 0.2)),
        ("surrogate", True, ("adam", 0.2)),
        ("retrained", False, ("sgd", 0.2)),
    ]:
        config = plan(recipe, "--learning_rate=0.2")._config
        planned = TrainingPlan(config, plan(recipe)._recipe, own_model=own)
        settings = planned.training_settings(500, 0, 50)
        assert (planned.optimizer, settings.learning_rate) == expected and settings.keep_start == own
    given = plan("nfgsm", "--learning_rate=0.2", "--defense_optimizer=sgd")
    assert (given.optimizer, given.training_settings(500, 0, 50).learning_rate) == ("sgd", 0.2)


def test_settings_of_defenses_do_not_change_other_recipes():
    flags = ("--budget=9000", "--defense_learning_rate=0.5", "--defense_average=0.9", "--defense_eps=0.3")
    taken, kept = plan("nfgsm", *flags), plan("retrained", *flags)
    assert kept.settings() == plan("retrained").settings() and kept.training_settings(500, 0, 50).steps == 0
    settings = taken.training_settings(500, 0, 50)
    assert (settings.learning_rate, settings.average, settings.eps) == (0.5, 0.9, 0.3) and settings.steps > 0
    recorded = taken.settings()
    assert (recorded["learning_rate"], recorded["average"], recorded["eps"]) == (0.5, 0.9, 0.3)
    assert "eps" not in kept.settings()
