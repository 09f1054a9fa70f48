"""The comparison with an older version runs, in one process for each; no time is asserted."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import against_old
from benchmarks.processes import Timing

ROOT = pathlib.Path(__file__).parents[2]
OLD_COMMIT = "9779921"  # the last of 0.1


def compare(old, *flags):
    command = [sys.executable, "-m", "benchmarks.against_old", "--quick", f"--old={old}", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)


def rows(text):
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A checkout of 0.1, from the history of this repository."""
    folder = tmp_path_factory.mktemp("old")
    archive = subprocess.run(["git", "archive", OLD_COMMIT, "tfadv"], cwd=ROOT, capture_output=True)
    if archive.returncode:
        pytest.skip("needs the history of the repository")
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    return folder


@pytest.mark.long
def test_every_task_runs_with_both_versions(old):
    done = compare(old)
    assert done.returncode == 0, done.stderr[-2000:]
    table = rows(done.stdout)
    assert [row[0] for row in table] == list(against_old.TASKS.values())
    assert "old (0.1.0)" in done.stdout and "new (0.2" in done.stdout
    results = {row[0]: row[-1] for row in table}
    for task in ("fgsm", "pgd", "pgd_early_stop"):
        assert results[against_old.TASKS[task]] == "identical"
    loss_old, loss_new = map(float, results["training step"].split(" / "))
    assert loss_old == pytest.approx(loss_new, rel=1e-5)


def test_a_version_beside_itself():
    done = compare(ROOT, "--tasks=fgsm,png")
    assert done.returncode == 0, done.stderr[-2000:]
    fgsm, png = rows(done.stdout)
    assert fgsm[-1] == "identical" and fgsm[-2] == png[-2] == "1"
    assert len(set(png[-1].split(" / "))) == 1  # the same number of bytes


def test_a_folder_without_tfadv_is_named(tmp_path):
    done = compare(tmp_path)
    assert done.returncode != 0 and f"--old={tmp_path}" in done.stderr


def test_a_version_that_does_not_start_is_reported(tmp_path):
    (tmp_path / "tfadv").mkdir()
    (tmp_path / "tfadv" / "__init__.py").write_text("raise ImportError('no such version')\n")
    done = compare(tmp_path)
    assert done.returncode != 0 and "no such version" in done.stderr and "Traceback" not in done.stderr


def test_the_table_gives_medians_and_ratios():
    comparison = against_old.Comparison("work", Timing((0.2, 0.3, 0.1)), Timing((0.1, 0.1, 0.2)), "identical")
    assert comparison.ratio == pytest.approx(2)
    (row,) = rows(against_old.table("0.1.0", "0.2.0", [comparison]))
    assert row == ["work", "200.00", "100.00", "2.000", "0.500 / 2.000 / 3.000", "3", "identical"]


def test_results_are_compared():
    x = np.zeros((2, 2), np.float32)
    assert against_old.compare_results(x, x) == "identical"
    assert against_old.compare_results(x, x + 1e-8) == "equal but for rounding"
    assert against_old.compare_results(x, np.eye(2)) == "50.00% of the values differ"
    assert against_old.compare_results(x, x[0]) == "shapes (2, 2) / (2,)"
    assert against_old.compare_results(np.array(2986.5), np.array(2900.0)) == "2,986.5 / 2,900"
