"""Killed at any moment and started again, a run ends as an uninterrupted one and builds nothing twice."""

import random
import shutil
import signal
import time

import pytest

from tests.faults.harness import kill, wait_for

OFTEN = "--plugins=tests.faults.often"  # saves checkpoints
# stage → (an entry that it builds, the folders to remove before)
STAGES = {
    "train": ("models/resnet_tiny/baseline", ("models", "surrogate", "evaluations", "report", "checkpoints")),
    "generate": ("surrogate/digits_surrogate/1.0.0", ("surrogate", "evaluations", "report")),
    "evaluate": ("evaluations/resnet_tiny/baseline", ("evaluations", "report")),
}


def seconds_of(run, stage, entry):
    """How long the stage takes from the line that announces its entry to the end."""
    process = run.start(f"--stage={stage}", OFTEN)
    wait_for(process, entry)
    started = time.monotonic()
    process.communicate()
    return time.monotonic() - started


# In training, tests/training/test_checkpoints.py kills as well.
@pytest.mark.parametrize(
    "stage",
    [pytest.param("train", marks=pytest.mark.long), "generate", pytest.param("evaluate", marks=pytest.mark.long)],
)
def test_killed_at_random_moments(stage, copy, complete, tmp_path, long, tally):
    entry, removed = STAGES[stage]
    for name in removed:
        shutil.rmtree(copy.workdir / name, ignore_errors=True)
    start = tmp_path / "start"
    shutil.copytree(copy.workdir, start)
    span = seconds_of(copy, stage, entry) if long else 0.5
    moments = random.Random(stage)
    for _ in range(20 if long else 1):
        shutil.rmtree(copy.workdir)
        shutil.copytree(start, copy.workdir)
        process = copy.start(f"--stage={stage}", OFTEN)
        wait_for(process, entry)
        time.sleep(moments.uniform(0, span))
        kill(process)
        finished = {p: t for p, t in copy.dates().items() if "checkpoints" not in p.parts and "parts" not in p.parts}
        saved = list((copy.workdir / "checkpoints").glob("*/*/step-*/manifest.json"))
        resumed = copy(f"--stage={stage}")
        assert resumed.returncode == 0, resumed.stderr[-2000:]
        if saved:
            assert "resuming after epoch" in resumed.stderr
        contents = copy.contents()
        assert entry in contents and contents.items() <= complete.contents().items()
        if stage == "evaluate":
            assert (copy.workdir / "results.json").read_bytes() == (complete.workdir / "results.json").read_bytes()
        assert finished.items() <= copy.dates().items()  # nothing that was finished is built again
        assert not list(copy.workdir.rglob(".tmp-*"))
        tally[f"{stage}: moments killed, all resumed to the same files"] += 1


@pytest.mark.long
def test_a_shard_built_again_gives_the_same_files(copy, complete):
    shutil.rmtree(copy.workdir / "evaluations")
    assert copy("--stage=evaluate", "--shard=0/2").returncode == 0
    first = copy.workdir / "parts/evaluations/resnet_tiny/baseline/00000"
    shutil.move(first, copy.workdir / "kept")
    assert copy("--stage=evaluate", "--shard=0/2").returncode == 0  # builds it again
    for name in ("whitebox_correct.npz", "transfer_correct.npz"):
        assert (first / name).read_bytes() == (copy.workdir / "kept" / name).read_bytes()
    joined = copy("--stage=evaluate")
    assert joined.returncode == 0
    assert copy.contents().items() >= {k: v for k, v in complete.contents().items() if k != "report"}.items()


@pytest.mark.long
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_training_saves_a_checkpoint_of_the_present_step(number, code, copy, complete):
    for name in STAGES["train"][1]:
        shutil.rmtree(copy.workdir / name, ignore_errors=True)
    process = copy.start("--stage=train")
    wait_for(process, "epoch 1/")
    time.sleep(0.05)
    process.send_signal(number)
    errors = process.communicate()[1]
    assert process.returncode == code and "Traceback" not in errors, errors
    if "stopping after this step" in errors:  # otherwise the signal came between two runs
        assert list((copy.workdir / "checkpoints/resnet_tiny/baseline").glob("step-*/manifest.json"))
    assert errors.rstrip().endswith("the same command continues from there.")
    resumed = copy("--stage=train")
    assert resumed.returncode == 0 and "resuming after epoch" in resumed.stderr
    assert copy.contents().items() <= complete.contents().items()
