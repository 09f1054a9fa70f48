"""Changed code makes exactly those artifacts out of date that it computes; `tfadv` runs from a copy of the package."""

import shutil

import pytest

from tests.experiments.conftest import ROOT

FLAGS = ("--attacks=pgd", "--eval_size=32", "--stage=evaluate")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package with its flagfiles."""
    folder = tmp_path_factory.mktemp("package")
    for name in ("tfadv", "flags"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def attacked(smoke, package, tmp_path_factory):
    """A `Smoke` of the copied package whose models have been evaluated under PGD."""
    run = smoke.copy(tmp_path_factory.mktemp("attacked") / "run", package)
    run.succeed(*FLAGS)
    return run


def edit(package, module, old, new):
    path = package / "tfadv" / module
    source = path.read_text()
    assert source.count(old) == 1, f"{module} must contain {old!r} once"
    path.write_text(source.replace(old, new))


def kinds(names):
    return {name.split("/")[0] for name in names}


def test_a_copy_of_the_code_has_the_same_versions(smoke, attacked):
    assert kinds(attacked.rebuilt(smoke.dates())) >= {"attacks"}
    for name in ("split", "models/resnet_tiny/retrained", "evaluations/resnet_tiny/retrained"):
        assert attacked.manifest(name) == smoke.manifest(name)


def test_a_comment_and_a_docstring_change_nothing(attacked, package):
    before = attacked.dates()
    edit(package, "attacks/pgd.py", '"""Projected gradient descent', '# A comment.\n"""PGD: projected gradient descent')
    edit(package, "attacks/pgd.py", "return eps / 4", "return eps / 4  # another comment")
    assert "nothing to do" in attacked.succeed(*FLAGS) and not attacked.rebuilt(before)


def test_code_of_an_attack_concerns_its_evaluations_only(attacked, package):
    before = attacked.dates()
    edit(package, "attacks/pgd.py", "return eps / 4", "return eps / 2")
    attacked.succeed(*FLAGS)
    # PGD is also the attack of the transfer matrix and one of the diagnostics.
    rebuilt = attacked.rebuilt(before)
    assert kinds(rebuilt) == {"attacks", "transfers", "diagnostics"} and len(rebuilt) == 9


def test_code_of_training_concerns_the_models_and_what_follows(attacked, package):
    before = attacked.dates()
    edit(package, "training/schedule.py", "WARMUP_SHARE = 0.1", "WARMUP_SHARE = 0.2")
    attacked.succeed("--stage=attack")
    assert attacked.rebuilt(before) == {
        "models/resnet_tiny/baseline", "surrogate/digits_surrogate/1.0.0", "evaluations/resnet_tiny/baseline",
    }  # fmt: skip


def test_code_that_affects_no_result(attacked, package):
    before = attacked.dates()
    edit(package, "experiments/closing.py", "nothing to do.", "there is nothing to do.")
    edit(package, "runtime/console.py", "AFFECTS_RESULTS = False", "AFFECTS_RESULTS = False\n_UNUSED = 1")
    assert "there is nothing to do." in attacked.succeed("--stage=attack") and not attacked.rebuilt(before)
