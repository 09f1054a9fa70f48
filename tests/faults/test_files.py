"""Damaged, missing and unwritable files: always noticed, one clear line, nothing wrong and nothing lost."""

import contextlib
import json
import os
import random
import shutil
import subprocess

import pytest

from tests.faults.harness import kill, one_line, wait_for
from tfadv.config import Config
from tfadv.errors import UserError
from tfadv.store.workdir import Workdir

KINDS = {
    "split": "split",
    "model": "models/resnet_tiny/retrained",
    "samples": "surrogate/digits_surrogate/1.0.0",
    "evaluation": "evaluations/resnet_tiny/baseline",
    "report": "report",
    "checkpoint": "checkpoints/resnet_tiny/baseline",
    "part": "parts/evaluations/resnet_tiny/baseline",
}


@pytest.fixture(scope="module")
def broken_off(whole, tmp_path_factory):
    """The unbroken run's folder with a checkpoint and a part in it, as a killed run leaves them."""
    root = tmp_path_factory.mktemp("broken") / "run"
    shutil.copytree(whole.workdir, root)
    run = type(whole)(root, whole.data_dir)
    shutil.rmtree(root / "evaluations")
    assert run("--stage=evaluate", "--shard=0/2").returncode == 0
    shutil.copytree(whole.workdir / "evaluations", root / "evaluations")
    shutil.rmtree(root / "models")
    process = run.start("--stage=train")
    wait_for(process, "epoch 1/")
    kill(process)
    shutil.rmtree(root / "models")
    shutil.copytree(whole.workdir / "models", root / "models")
    return root


@contextlib.contextmanager
def opened(root):
    with Workdir(root, _config(root)) as workdir:
        yield workdir


def _config(root):
    fields = json.loads((root / "config.json").read_text())
    return Config(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


def names(root, kind):
    with opened(root) as workdir:
        return [n for n in workdir.names() if n == KINDS[kind] or n.startswith(KINDS[kind] + "/")]


def is_noticed(root, name):
    try:
        with opened(root) as workdir:
            workdir.open(name, "all")
    except UserError as error:
        assert str(root) in str(error)
        return True
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_random_bytes_flipped(kind, broken_off, long, tally):
    rng = random.Random(kind)
    artifacts = names(broken_off, kind)
    assert artifacts
    for _ in range(200 if long else 20):
        name = rng.choice(artifacts)
        path = rng.choice([p for p in (broken_off / name).rglob("*") if p.is_file() and p.stat().st_size])
        content = path.read_bytes()
        place = rng.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ rng.randrange(1, 256)]) + content[place + 1 :])
        try:
            assert is_noticed(broken_off, name), (path, place)
        finally:
            path.write_bytes(content)
        tally[f"{kind}: bytes flipped, all noticed"] += 1
    assert not any(is_noticed(broken_off, name) for name in artifacts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("harm", ["truncate", "remove"])
def test_truncated_and_removed(kind, harm, broken_off, tally):
    assert names(broken_off, kind)
    for name in names(broken_off, kind):
        for path in [p for p in (broken_off / name).rglob("*") if p.is_file()]:
            content = path.read_bytes()
            if harm == "truncate":
                path.write_bytes(content[: len(content) // 2])
            else:
                path.unlink()
            assert is_noticed(broken_off, name), path
            path.write_bytes(content)
            tally[f"{kind}: files {harm}d, all noticed"] += 1


def test_a_damaged_configuration_is_refused(broken_off, long, tally):
    rng, path, config = random.Random(0), broken_off / "config.json", _config(broken_off)
    content = path.read_bytes()
    for _ in range(200 if long else 20):
        place = rng.randrange(len(content))
        flipped = content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]
        path.write_bytes(flipped)
        try:
            with pytest.raises(UserError), Workdir(broken_off, config):
                pass
        finally:
            path.write_bytes(content)
        tally["configuration: bytes flipped, all noticed"] += 1


@pytest.mark.parametrize(
    "kind, stage",
    [
        pytest.param("split", "evaluate", marks=pytest.mark.long),
        pytest.param("model", "evaluate", marks=pytest.mark.long),
        pytest.param("samples", "evaluate", marks=pytest.mark.long),
        ("evaluation", "report"),
    ],
)
def test_a_damaged_artifact_gives_a_line_and_its_way_out_works(kind, stage, copy, whole, tally):
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
    assert "damaged" in one_line(copy("--verify", f"--stage={stage}"))
    shutil.rmtree(folder)
    assert copy("--stage=report").returncode == 0
    assert (copy.workdir / "results.json").read_bytes() == (whole.workdir / "results.json").read_bytes()
    tally["damaged artifacts mended by the way out they name"] += 1


def test_a_flipped_result_never_reaches_the_report(copy, whole):
    results = copy.workdir / "results.json"
    results.write_text(results.read_text().replace('"accuracy": 0', '"accuracy": 1', 1))
    shutil.rmtree(copy.workdir / "report")
    assert copy("--stage=report").returncode == 0
    for name in ("results.json", "report/report.md", "report/table1.csv"):
        assert (copy.workdir / name).read_bytes() == (whole.workdir / name).read_bytes()


def test_two_at_once(copy, tally):
    for name in ("models", "surrogate", "evaluations", "report"):
        shutil.rmtree(copy.workdir / name)
    first = copy.start("--stage=train")
    wait_for(first, "models/resnet_tiny/baseline")
    assert "another tfadv process" in one_line(copy("--stage=train"))
    assert "another tfadv process" in one_line(copy("--stage=generate", "--shard=0/2"))
    kill(first)
    tally["second processes kept out"] += 2


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few megabytes; a function that changes its options."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tfadv-test", place], capture_output=True)
    if made.returncode:
        pytest.skip("needs the right to mount a tmpfs")

    def remount(options):
        subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)

    yield place, remount
    subprocess.run(["umount", "-l", place], check=True)


def test_a_disk_that_fills_up(small_disk, whole, tally, long):
    place, remount = small_disk
    run = type(whole)(place / "run", whole.data_dir)
    lines = []
    # In steps, so that it fills up in another place each time; all that was made before must still be whole.
    for size in range(200, 6000, 200) if long else (2000,):
        remount(f"size={size}k")
        answer = run("--verify", "--stage=report")
        if answer.returncode == 0:
            break
        lines.append(one_line(answer))
        assert "disk is full" in lines[-1] and " MB" in lines[-1], lines[-1]
        tally["full disks"] += 1
    else:
        remount("size=20m")
        assert run("--verify", "--stage=report").returncode == 0
    assert lines
    assert (run.workdir / "results.json").read_bytes() == (whole.workdir / "results.json").read_bytes()


def test_a_read_only_disk(small_disk, whole, tally):
    place, remount = small_disk
    remount("size=20m")
    shutil.copytree(whole.workdir, place / "run")
    remount("ro")
    assert "can't write to the work folder" in one_line(type(whole)(place / "run", whole.data_dir)("--stage=train"))
    tally["read-only disks"] += 1


def test_a_folder_without_the_right_to_write(copy):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    copy.workdir.chmod(0o555)
    try:
        assert "can't write to the work folder" in one_line(copy("--stage=train"))
    finally:
        copy.workdir.chmod(0o755)
