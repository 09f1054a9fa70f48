"""Damaged, missing and unwritable files: always noticed, one clear line, nothing wrong and nothing lost."""

import os
import random
import shutil
import subprocess

import pytest

from tests.faults.harness import kill, one_line, wait_for
from tfadv.errors import UserError
from tfadv.store.workdir import Workdir

KINDS = {
    "split": "split",
    "model": "models/resnet_tiny/retrained",
    "samples": "surrogate/digits_surrogate/1.0.0",
    "evaluation": "evaluations/resnet_tiny/baseline",
    "gallery": "gallery/resnet_tiny/retrained",
    "report": "report",
    "checkpoint": "checkpoints/resnet_tiny/baseline",
    "part": "parts/evaluations/resnet_tiny/baseline",
}


@pytest.fixture(scope="module")
def interrupted(complete, tmp_path_factory):
    """A complete run's folder with a checkpoint and a part in it, as a killed run leaves them."""
    root = tmp_path_factory.mktemp("interrupted") / "run"
    shutil.copytree(complete.workdir, root)
    run = type(complete)(root, complete.data_dir)
    shutil.rmtree(root / "evaluations")
    assert run("--stage=evaluate", "--shard=0/2").returncode == 0
    shutil.copytree(complete.workdir / "evaluations", root / "evaluations")
    shutil.rmtree(root / "models")
    process = run.start("--stage=train", "--plugins=tests.faults.often")
    wait_for(process, "epoch 1/")
    kill(process)
    shutil.rmtree(root / "models")
    shutil.copytree(complete.workdir / "models", root / "models")
    return root


def entry_names(root, kind):
    with Workdir(root) as workdir:
        return [n for n in workdir.names() if n == KINDS[kind] or n.startswith(KINDS[kind] + "/")]


def is_noticed(root, name):
    try:
        with Workdir(root) as workdir:
            workdir.open(name)
    except UserError as error:
        assert str(root) in str(error)
        return True
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_random_bytes_are_flipped(kind, interrupted, long, tally):
    rng = random.Random(kind)
    entries = entry_names(interrupted, kind)
    assert entries
    for _ in range(200 if long else 20):
        name = rng.choice(entries)
        path = rng.choice([p for p in (interrupted / name).rglob("*") if p.is_file() and p.stat().st_size])
        content = path.read_bytes()
        place = rng.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ rng.randrange(1, 256)]) + content[place + 1 :])
        try:
            assert is_noticed(interrupted, name), (path, place)
        finally:
            path.write_bytes(content)
        tally[f"{kind}: bytes flipped, all noticed"] += 1
    assert not any(is_noticed(interrupted, name) for name in entries)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_truncated_and_removed_files(kind, damage, interrupted, tally):
    assert entry_names(interrupted, kind)
    for name in entry_names(interrupted, kind):
        for path in [p for p in (interrupted / name).rglob("*") if p.is_file()]:
            content = path.read_bytes()
            if damage == "truncate":
                path.write_bytes(content[: len(content) // 2])
            else:
                path.unlink()
            assert is_noticed(interrupted, name), path
            path.write_bytes(content)
            tally[f"{kind}: files {damage}d, all noticed"] += 1


@pytest.mark.parametrize(
    "kind, stage",
    [
        pytest.param("split", "evaluate", marks=pytest.mark.long),
        pytest.param("model", "evaluate", marks=pytest.mark.long),
        pytest.param("samples", "evaluate", marks=pytest.mark.long),
        ("evaluation", "report"),
    ],
)
def test_a_damaged_entry_gives_a_line_that_says_how_to_rebuild_it(kind, stage, copy, complete, tally):
    rng = random.Random(kind)
    for name in ("report",) if kind == "evaluation" else ("evaluations", "report"):
        shutil.rmtree(copy.workdir / name)
    folder = copy.workdir / KINDS[kind]
    largest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[rng.randrange(len(content))] ^= 1
    largest.write_bytes(content)
    line = one_line(copy(f"--stage={stage}"))
    assert str(largest) in line and "damaged" in line and f"rm -r {folder}" in line
    with Workdir(copy.workdir) as workdir:
        names = workdir.names()
    assert [name for name in names if is_noticed(copy.workdir, name)] == [KINDS[kind]]
    shutil.rmtree(folder)
    assert copy("--stage=report").returncode == 0
    assert (copy.workdir / "results.json").read_bytes() == (complete.workdir / "results.json").read_bytes()
    tally["damaged entries rebuilt as the message says"] += 1


def test_a_flipped_result_never_reaches_the_report(copy, complete):
    results = copy.workdir / "results.json"
    results.write_text(results.read_text().replace('"accuracy": 0', '"accuracy": 1', 1))
    shutil.rmtree(copy.workdir / "report")
    assert copy("--stage=report").returncode == 0
    for name in ("results.json", "report/report.md", "report/table1.csv"):
        assert (copy.workdir / name).read_bytes() == (complete.workdir / name).read_bytes()


def test_two_processes_in_one_folder(copy, tally):
    with Workdir(copy.workdir):
        assert "another tfadv process" in one_line(copy("--stage=train"))
        assert "another tfadv process" in one_line(copy("--stage=generate", "--shard=0/2"))
    tally["second processes kept out"] += 2


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few megabytes; a function that changes its options."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tfadv-test", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")

    def remount(options):
        subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)

    yield place, remount
    subprocess.run(["umount", "-l", place], check=True)


def test_a_disk_that_fills_up(small_disk, complete, tally, long):
    place, remount = small_disk
    run = type(complete)(place / "run", complete.data_dir)
    sizes = range(200, 6000, 200)
    if not long:  # only the report is built
        remount("size=20m")
        shutil.copytree(complete.workdir, run.workdir)
        shutil.rmtree(run.workdir / "report")
        sizes = [shutil.disk_usage(place).used // 1000 + 100]
    lines = []
    # In steps, so that it fills up at another file each time; all earlier entries must still be intact.
    for size in sizes:
        remount(f"size={size}k")
        finished = run("--stage=report")
        if finished.returncode == 0:
            break
        lines.append(one_line(finished))
        assert "disk is full" in lines[-1] and " MB" in lines[-1], lines[-1]
        with Workdir(run.workdir) as workdir:
            assert all(workdir.open(name) for name in workdir.names())
        tally["full disks"] += 1
    else:
        remount("size=20m")
        assert run("--stage=report").returncode == 0
    assert lines
    assert (run.workdir / "results.json").read_bytes() == (complete.workdir / "results.json").read_bytes()


def test_a_read_only_disk(small_disk, complete, tally):
    place, remount = small_disk
    remount("size=20m")
    shutil.copytree(complete.workdir, place / "run")
    remount("ro")
    run = type(complete)(place / "run", complete.data_dir)
    assert "can't write to the work folder" in one_line(run("--stage=train"))
    tally["read-only disks"] += 1


def test_a_folder_without_write_permission(copy):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    copy.workdir.chmod(0o555)
    try:
        assert "can't write to the work folder" in one_line(copy("--stage=train"))
    finally:
        copy.workdir.chmod(0o755)
