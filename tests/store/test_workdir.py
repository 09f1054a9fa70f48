import json
import subprocess
import sys

import pytest

from tfadv.config import Config
from tfadv.errors import UserError
from tfadv.store.files import digest
from tfadv.store.workdir import MANIFEST, Workdir


@pytest.fixture
def workdir(tmp_path):
    with Workdir(tmp_path / "run", Config().resolved()) as opened:
        yield opened


def make(workdir, inputs, text="content"):
    with workdir.creating("thing", inputs) as (folder, manifest):
        (folder / "file.txt").write_text(text)
        manifest["extra"] = 1


def test_artifact_is_current_until_its_inputs_change(workdir):
    assert not workdir.is_current("thing", {"a": 1})
    make(workdir, {"a": 1})
    assert workdir.is_current("thing", {"a": 1}) and not workdir.is_current("thing", {"a": 2})
    assert (workdir.open("thing", "prepare") / "file.txt").read_text() == "content"
    make(workdir, {"a": 2}, "new")
    assert workdir.is_current("thing", {"a": 2})
    assert (workdir.open("thing", "prepare") / "file.txt").read_text() == "new"


def test_content_follows_the_files(workdir):
    make(workdir, {"a": 1})
    first = workdir.manifest("thing")["content"]
    make(workdir, {"a": 2})
    assert workdir.manifest("thing")["content"] == first
    make(workdir, {"a": 2}, "other")
    assert workdir.manifest("thing")["content"] != first


def test_failure_leaves_the_old_artifact_and_no_rubbish(workdir):
    make(workdir, {"a": 1})
    with pytest.raises(OSError), workdir.creating("thing", {"a": 2}) as (folder, _):
        (folder / "file.txt").write_text("half")
        raise OSError("disk full")
    assert workdir.is_current("thing", {"a": 1})
    assert (workdir.open("thing", "prepare") / "file.txt").read_text() == "content"
    assert not list(workdir.root.glob(".tmp-*"))


def test_rubbish_of_a_killed_process_is_swept(workdir):
    (workdir.root / ".tmp-thing-dead").mkdir()
    make(workdir, {})
    assert not list(workdir.root.glob(".tmp-*"))


@pytest.mark.parametrize("harm, word", [("flip", "damaged"), ("remove", "missing"), ("truncate", "damaged")])
def test_damage_is_named_with_the_way_out(workdir, harm, word):
    make(workdir, {})
    path = workdir.root / "thing" / "file.txt"
    {"flip": lambda: path.write_text("kontent"), "remove": path.unlink, "truncate": lambda: path.write_text("con")}[
        harm
    ]()
    with pytest.raises(UserError, match=f"file.txt is {word}.*rm -r .*--stage=generate"):
        workdir.open("thing", "generate")


@pytest.mark.parametrize(
    "old, new", [("{", "["), ('"a": 1', '"a": 2'), ('"seal": "', '"seal": "0'), ("extra", "extrb")]
)
def test_damaged_manifest_is_named(workdir, old, new):
    make(workdir, {"a": 1})
    path = workdir.root / "thing" / MANIFEST
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=f"{MANIFEST} is damaged.*rm -r"):
        workdir.is_current("thing", {"a": 1})


def test_a_manifest_can_not_point_outside(workdir):
    make(workdir, {})
    (workdir.root / "secret").write_text("content")
    path = workdir.root / "thing" / MANIFEST
    manifest = json.loads(path.read_text())
    manifest.pop("seal")
    manifest["files"]["../secret"] = manifest["files"].pop("file.txt")
    path.write_text(json.dumps(manifest | {"seal": digest(manifest)}))
    with pytest.raises(UserError, match="secret is outside"):
        workdir.open("thing", "prepare")


def test_another_configuration_is_refused_with_the_fields(workdir):
    root = workdir.root
    with workdir.creating("split", {}):
        pass
    (root / "evaluations").mkdir()
    (root / "results.json").write_text("[]")
    workdir.__exit__()
    with pytest.raises(UserError, match="epochs: 10 → 11.*--workdir.*--overwrite"):
        Workdir(root, Config(epochs=11).resolved())
    with Workdir(root, Config(epochs=11).resolved(), overwrite=True):
        pass
    assert json.loads((root / "config.json").read_text())["epochs"] == 11
    assert not (root / "evaluations").exists() and not (root / "results.json").exists()


def test_an_empty_folder_belongs_to_nobody(workdir):
    workdir.__exit__()
    with Workdir(workdir.root, Config(epochs=11).resolved()):
        pass


def test_a_second_process_is_kept_out_and_a_dead_one_is_not_waited_for(workdir):
    code = (
        "import sys; from tfadv.config import Config; from tfadv.store.workdir import Workdir\n"
        "Workdir(sys.argv[1], Config().resolved()); sys.exit(7)"
    )
    run = [sys.executable, "-c", code, str(workdir.root)]
    busy = subprocess.run(run, capture_output=True, text=True)
    assert busy.returncode == 1 and "another tfadv process" in busy.stderr
    workdir.__exit__()
    assert subprocess.run(run).returncode == 7
    with Workdir(workdir.root, Config().resolved()):
        pass


def test_a_damaged_part_is_made_again_and_a_whole_one_is_not(workdir):
    make(workdir, {"a": 1})
    assert workdir.part("thing", {"a": 1}) == workdir.root / "thing"
    assert workdir.part("thing", {"a": 2}) is None and (workdir.root / "thing").exists()
    (workdir.root / "thing" / "file.txt").write_text("kontent")
    assert workdir.part("thing", {"a": 1}) is None and not (workdir.root / "thing").exists()


def test_shares_work_beside_each_other_and_beside_nobody_else(workdir):
    config = Config().resolved()
    with pytest.raises(UserError, match="another tfadv process"):
        Workdir(workdir.root, config, shard=(0, 2))
    workdir.__exit__()
    with Workdir(workdir.root, config, shard=(0, 2)), Workdir(workdir.root, config, shard=(1, 2)):
        with pytest.raises(UserError, match="the same shard"):
            Workdir(workdir.root, config, shard=(1, 2))
        with pytest.raises(UserError, match="another tfadv process"):
            Workdir(workdir.root, config)
    with Workdir(workdir.root, config):
        pass


def test_no_room_is_said_before_anything_is_written(workdir):
    with pytest.raises(UserError, match="disk is full: thing needs 1000000000000.0 MB.* has .* MB left"):
        with workdir.creating("thing", {}, need=10**18):
            raise AssertionError("not reached")


def test_a_follower_leaves_no_trace_and_waits(workdir, tmp_path):
    make(workdir, {"a": 1})
    waits = []
    follower = Workdir(workdir.root, Config().resolved(), follower=True)
    follower.barrier = lambda: waits.append(1)
    with follower.creating("other", {}) as (folder, manifest):
        (folder / "file.txt").write_text("x")
        manifest["extra"] = 1
    assert not (workdir.root / "other").exists() and not folder.exists() and waits
    follower.remove("thing")
    assert follower.is_current("thing", {"a": 1})
