"""The work folder: to what entries belong, damage, locks, and what is left behind."""

import errno
import json
import logging
import pathlib
import shutil
import subprocess
import sys

import filelock
import pytest

from tfadv.errors import UserError
from tfadv.store import files
from tfadv.store.files import digest
from tfadv.store.workdir import MANIFEST, Workdir

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def workdir(tmp_path):
    with Workdir(tmp_path / "run") as opened:
        yield opened


def make(workdir, inputs, text="content", name="thing", **settings):
    with workdir.creating(name, inputs, **settings) as (folder, manifest):
        (folder / "file.txt").write_text(text)
        manifest["extra"] = 1


# ---- entries ------------------------------------------------------------------------------------------


def test_an_entry_is_current_until_its_inputs_change(workdir):
    assert not workdir.is_current("thing", {"a": 1})
    make(workdir, {"a": 1})
    assert workdir.is_current("thing", {"a": 1}) and not workdir.is_current("thing", {"a": 2})
    assert (workdir.open("thing") / "file.txt").read_text() == "content"
    make(workdir, {"a": 2}, "new")
    assert workdir.is_current("thing", {"a": 2})
    assert (workdir.open("thing") / "file.txt").read_text() == "new"


def test_a_tuple_among_the_inputs_is_the_list_that_json_makes_of_it(workdir):
    make(workdir, {"eps": (0.01, 0.02)})
    assert workdir.is_current("thing", {"eps": (0.01, 0.02)}) and workdir.is_current("thing", {"eps": [0.01, 0.02]})
    assert not workdir.is_current("thing", {"eps": (0.02, 0.01)})


def test_content_follows_the_files(workdir):
    make(workdir, {"a": 1})
    first = workdir.manifest("thing")["content"]
    make(workdir, {"a": 2})
    assert workdir.manifest("thing")["content"] == first
    make(workdir, {"a": 2}, "other")
    assert workdir.manifest("thing")["content"] != first


def test_a_rebuild_logs_the_inputs_that_changed(workdir, caplog):
    make(workdir, {"a": 1, "b": 1})
    with caplog.at_level(logging.INFO):
        assert not workdir.is_current("thing", {"a": 2, "b": 1})
        assert not caplog.messages  # a look changes nothing
        make(workdir, {"a": 2, "b": 1})
    assert caplog.messages == ["thing is rebuilt, its inputs changed: a"]


def test_names_of_entries_in_folders(workdir):
    for name in ("b/c", "a", "b/a"):
        make(workdir, {}, name=name)
    workdir.scratch("b/d", {})
    assert workdir.names() == ["a", "b/a", "b/c"]


def test_failure_leaves_the_old_entry_and_no_temporary_files(workdir):
    make(workdir, {"a": 1})
    with pytest.raises(OSError), workdir.creating("thing", {"a": 2}) as (folder, _):
        (folder / "file.txt").write_text("half")
        raise OSError("the network is down")
    assert workdir.is_current("thing", {"a": 1})
    assert (workdir.open("thing") / "file.txt").read_text() == "content"
    assert not list(workdir.root.glob(".tmp-*"))


def test_temporary_files_of_a_killed_process_are_removed(workdir):
    (workdir.root / ".tmp-thing-dead").mkdir()
    make(workdir, {})
    assert not list(workdir.root.glob(".tmp-*"))


# ---- damage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm, word", [("flip", "damaged"), ("remove", "missing"), ("truncate", "damaged")])
@pytest.mark.parametrize(
    "rebuild, way_out",
    [("run tfadv --stage=generate", "run tfadv --stage=generate"), ("", "give the same command again")],
)
def test_damage_is_named_with_the_way_out(workdir, harm, word, rebuild, way_out):
    make(workdir, {}, rebuild=rebuild)
    path = workdir.root / "thing" / "file.txt"
    if harm == "remove":
        path.unlink()
    else:
        path.write_text("kontent" if harm == "flip" else "con")
    with pytest.raises(UserError, match=f"file.txt is {word}.*rm -r {workdir.root / 'thing'}, then {way_out}"):
        workdir.open("thing")
    shutil.rmtree(workdir.root / "thing")
    with pytest.raises(UserError, match=f"{MANIFEST} is missing"):
        workdir.open("thing")


def test_the_way_out_can_be_pasted_into_a_shell(tmp_path):
    with Workdir(tmp_path / "my runs") as workdir:
        make(workdir, {})
        (workdir.root / "thing" / "file.txt").unlink()
        with pytest.raises(UserError, match=f"rm -r '{workdir.root / 'thing'}',"):
            workdir.open("thing")


@pytest.mark.parametrize(
    "old, new", [("{", "["), ('"a": 1', '"a": 2'), ('"seal": "', '"seal": "0'), ("extra", "extrb")]
)
def test_damaged_manifest_is_named(workdir, old, new):
    make(workdir, {"a": 1})
    path = workdir.root / "thing" / MANIFEST
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=f"{MANIFEST} is damaged.*rm -r"):
        workdir.is_current("thing", {"a": 1})
    make(workdir, {"a": 1})  # it can be replaced
    assert workdir.is_current("thing", {"a": 1})


def test_a_manifest_can_not_point_outside(workdir):
    make(workdir, {})
    (workdir.root / "secret").write_text("content")
    path = workdir.root / "thing" / MANIFEST
    manifest = json.loads(path.read_text())
    manifest.pop("seal")
    manifest["files"]["../secret"] = manifest["files"].pop("file.txt")
    path.write_text(json.dumps(manifest | {"seal": digest(manifest)}))
    with pytest.raises(UserError, match="secret is outside"):
        workdir.open("thing")


def test_a_damaged_part_is_computed_again_and_a_whole_one_is_not(workdir):
    make(workdir, {"a": 1})
    assert workdir.part("thing", {"a": 1}) == workdir.root / "thing"
    assert workdir.part("thing", {"a": 2}) is None and (workdir.root / "thing").exists()
    (workdir.root / "thing" / "file.txt").write_text("kontent")
    assert workdir.part("thing", {"a": 1}) is None and not (workdir.root / "thing").exists()


# ---- locks ----------------------------------------------------------------------------------------------

OPEN = """
import sys, time
from tfadv.store.workdir import Workdir
workdir = Workdir(sys.argv[1], shard=eval(sys.argv[2]))
print("open", flush=True)
time.sleep(float(sys.argv[3]))
sys.exit(7)
"""


def process(root, shard=None, seconds=0):
    """Another process that opens the folder and keeps it open for some seconds."""
    command = [sys.executable, "-c", OPEN, str(root), repr(shard), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("shard", [None, (0, 2)])
def test_a_second_process_is_kept_out_and_a_killed_one_is_not_waited_for(tmp_path, shard):
    first = process(tmp_path, shard, 60)
    assert first.stdout.readline() == "open\n"
    with pytest.raises(UserError, match="another tfadv process"):
        Workdir(tmp_path)
    if shard is None:
        second = process(tmp_path)
        assert "another tfadv process" in second.communicate()[1] and second.returncode == 1
    first.kill()
    first.communicate()
    with Workdir(tmp_path):
        pass


def test_shards_work_beside_each_other_and_beside_nobody_else(workdir):
    with pytest.raises(UserError, match="another tfadv process"):
        Workdir(workdir.root, shard=(0, 2))
    workdir.__exit__()
    with Workdir(workdir.root, shard=(0, 2)), Workdir(workdir.root, shard=(1, 2)):
        with pytest.raises(UserError, match="the same shard"):
            Workdir(workdir.root, shard=(1, 2))
        with pytest.raises(UserError, match="another tfadv process"):
            Workdir(workdir.root)
        with Workdir(workdir.root, shard=(2, 3)):  # a refused one left nothing locked
            pass
    with Workdir(workdir.root):
        pass


def test_many_shards_may_start_at_the_same_moment(tmp_path):
    shards = [process(tmp_path, (i, 6), 3) for i in range(6)]
    assert [shard.communicate()[0] for shard in shards] == ["open\n"] * 6


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock")])
def test_a_drive_without_locks_only_warns(tmp_path, monkeypatch, caplog, error):
    def acquire(self, **settings):
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    monkeypatch.setattr(files, "_warned", set())
    with caplog.at_level(logging.WARNING), Workdir(tmp_path) as workdir:
        make(workdir, {})
    assert len(caplog.messages) == 1 and "can't be locked" in caplog.messages[0]


def test_a_drive_without_fsync_only_warns(tmp_path, monkeypatch, caplog):
    def fsync(number):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(files, "_warned", set())
    with caplog.at_level(logging.WARNING), Workdir(tmp_path) as workdir:
        make(workdir, {})
        make(workdir, {"a": 1})
        assert workdir.open("thing")
    assert len(caplog.messages) == 1 and "no fsync" in caplog.messages[0]


def test_a_disk_that_fails_is_not_taken_for_one_without_fsync(tmp_path, monkeypatch):
    def fsync(number):
        raise OSError(errno.EIO, "Input/output error")

    with Workdir(tmp_path) as workdir:
        monkeypatch.setattr(files.os, "fsync", fsync)
        with pytest.raises(OSError, match="Input/output"):
            make(workdir, {})
        assert not workdir.names()


def test_a_folder_that_can_not_be_written_is_named(tmp_path, monkeypatch):
    def denied(self, **settings):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(filelock.FileLock, "acquire", denied)
    with pytest.raises(UserError, match="can't write to the work folder .*Read-only.*--workdir"):
        Workdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't write to the work folder"):
        Workdir(tmp_path / "file" / "run")


# ---- room and other workers -----------------------------------------------------------------------------


def test_too_little_room_is_reported_before_anything_is_written(workdir):
    with pytest.raises(UserError, match="disk is full: thing needs 1000000000000.0 MB.* has .* MB left"):
        with workdir.creating("thing", {}, need=10**18):
            raise AssertionError("not reached")


def test_a_disk_that_fills_up_is_named(workdir):
    for error in (OSError(errno.ENOSPC, "No space left on device"), RuntimeError("RESOURCE: No space left on device")):
        with pytest.raises(UserError, match="disk is full: thing needs 0.0 MB or more"):
            with workdir.creating("thing", {}):
                raise error
        assert not list(workdir.root.glob(".tmp-*"))


def test_a_follower_leaves_no_trace_and_waits(workdir):
    make(workdir, {"a": 1})
    waits = []
    with Workdir(workdir.root, follower=True) as follower:
        follower.barrier = lambda: waits.append(1)
        with follower.creating("other", {}) as (folder, manifest):
            (folder / "file.txt").write_text("x")
            manifest["extra"] = 1
        assert not (workdir.root / "other").exists() and not folder.exists() and waits
        scratch = follower.scratch("other", {})
        assert scratch.is_dir() and not scratch.is_relative_to(workdir.root)
        follower.remove("thing")
        assert follower.is_current("thing", {"a": 1})
    assert not scratch.exists()


# ---- scratch folders ------------------------------------------------------------------------------------


def test_scratch_stays_until_its_entry_is_complete(workdir):
    folder = workdir.scratch("a/thing", {"eps": (1, 2)})
    (folder / "state").write_text("x")
    assert workdir.scratch("a/thing", {"eps": [1, 2]}) == folder and (folder / "state").exists()
    with pytest.raises(KeyboardInterrupt), workdir.creating("a/thing", {}):
        raise KeyboardInterrupt
    assert (folder / "state").exists()
    make(workdir, {}, name="a/thing")
    assert not folder.exists()


@pytest.mark.parametrize("harm", ["inputs", "damage", "removed"])
def test_scratch_of_other_inputs_is_emptied(workdir, harm):
    folder = workdir.scratch("thing", {"a": 1})
    (folder / "state").write_text("x")
    if harm == "damage":
        (folder / "inputs.json").write_text("{")
    if harm == "removed":
        (folder / "inputs.json").unlink()
    assert workdir.scratch("thing", {"a": 2 if harm == "inputs" else 1}) == folder
    assert [path.name for path in folder.iterdir()] == ["inputs.json"]


def test_scratch_goes_with_its_entry_and_its_folder(workdir):
    first, second = workdir.scratch("parts/x/0", {}), workdir.scratch("y", {})
    workdir.remove("parts/x")
    workdir.remove("y")
    assert not first.exists() and not second.exists()
