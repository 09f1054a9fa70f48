"""Killed at any moment and started again, a run ends as the unbroken one did, and makes nothing twice."""

import random
import shutil
import signal
import time

import pytest

from tests.faults.harness import kill, wait_for

# stage → (artifact that it makes, what else goes with it)
STAGES = {
    "train": ("models/resnet_tiny/baseline", ("models", "surrogate", "evaluations", "report", "checkpoints")),
    "generate": ("surrogate/digits_surrogate/1.0.0", ("surrogate", "evaluations", "report")),
    "evaluate": ("evaluations/resnet_tiny/baseline", ("evaluations", "report")),
}


def seconds_of(run, stage, artifact):
    """How long the stage takes from the line that announces its artifact to the end."""
    process = run.start(f"--stage={stage}")
    wait_for(process, artifact)
    started = time.monotonic()
    process.communicate()
    return time.monotonic() - started


# In training, tests/training/test_checkpoints.py kills as well.
@pytest.mark.parametrize(
    "stage",
    [pytest.param("train", marks=pytest.mark.long), "generate", pytest.param("evaluate", marks=pytest.mark.long)],
)
def test_killed_at_random_moments(stage, copy, whole, tmp_path, long, tally):
    artifact, gone = STAGES[stage]
    for name in gone:
        shutil.rmtree(copy.workdir / name, ignore_errors=True)
    start = tmp_path / "start"
    shutil.copytree(copy.workdir, start)
    span = seconds_of(copy, stage, artifact) if long else 0.5
    moments = random.Random(stage)
    for _ in range(20 if long else 1):
        shutil.rmtree(copy.workdir)
        shutil.copytree(start, copy.workdir)
        process = copy.start(f"--stage={stage}")
        wait_for(process, artifact)
        time.sleep(moments.uniform(0, span))
        kill(process)
        finished = {p: t for p, t in copy.dates().items() if "checkpoints" not in p.parts and "parts" not in p.parts}
        saved = list((copy.workdir / "checkpoints").glob("*/*/step-*/manifest.json"))
        resumed = copy(f"--stage={stage}")
        assert resumed.returncode == 0, resumed.stderr[-2000:]
        if saved:
            assert "going on after epoch" in resumed.stderr
        made = copy.contents()
        assert artifact in made and made.items() <= whole.contents().items()
        if stage == "evaluate":
            assert (copy.workdir / "results.json").read_bytes() == (whole.workdir / "results.json").read_bytes()
        assert finished.items() <= copy.dates().items()  # nothing that was finished is made again
        assert not list(copy.workdir.rglob(".tmp-*"))
        tally[f"{stage}: moments killed, all resumed to the same bits"] += 1


def test_parts_that_were_finished_are_kept(copy, whole):
    shutil.rmtree(copy.workdir / "evaluations")
    assert copy("--stage=evaluate", "--shard=0/2").returncode == 0
    first = copy.workdir / "parts/evaluations/resnet_tiny/baseline/00000"
    shutil.move(first, copy.workdir / "kept")
    assert copy("--stage=evaluate", "--shard=0/2").returncode == 0  # makes it again
    assert (first / "hits.npy").read_bytes() == (copy.workdir / "kept/hits.npy").read_bytes()
    joined = copy("--stage=evaluate")
    assert joined.returncode == 0
    assert copy.contents().items() >= {k: v for k, v in whole.contents().items() if k != "report"}.items()


@pytest.mark.parametrize(
    "number, code", [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.long)]
)
def test_a_signal_ends_after_the_step_with_a_checkpoint_of_it(number, code, copy, whole):
    for name in STAGES["train"][1]:
        shutil.rmtree(copy.workdir / name, ignore_errors=True)
    process = copy.start("--stage=train", "--checkpoint_steps=0")
    wait_for(process, "epoch 1/")
    time.sleep(0.05)
    process.send_signal(number)
    errors = process.communicate()[1]
    assert process.returncode == code and "Traceback" not in errors, errors
    if "stopping after this step" in errors:  # else the signal came between two runs
        assert list((copy.workdir / "checkpoints/resnet_tiny/baseline").glob("step-*/manifest.json"))
    assert errors.rstrip().endswith("the same command goes on from there.")
    resumed = copy("--stage=train")
    assert resumed.returncode == 0 and "going on after epoch" in resumed.stderr
    assert copy.contents().items() <= whole.contents().items()
