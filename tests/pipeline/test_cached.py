"""`Cache.cached`: what is built, what is kept, and what is out of date."""

import importlib
import json
import logging
import types

import pytest

from tfadv.errors import UserError
from tfadv.pipeline import cached
from tfadv.pipeline.cached import Cache
from tfadv.store.files import source_of
from tfadv.store.workdir import Workdir


@pytest.fixture
def workdir(tmp_path):
    with Workdir(tmp_path / "work") as workdir:
        yield workdir


def text(cache, name, content, *sources, keep=False, renew=False, **more):
    """An entry with one file."""

    def build(folder, manifest, resume):
        (folder / "text").write_text(content)

    inputs = {"text": content, **{source.name: source for source in sources}, **more}
    return cache.cached(name, lambda: inputs, build, keep=keep, renew=renew)


class Rows:
    """Numbers, written in parts; fails at one of the parts on request."""

    def __init__(self, sizes, fail_at=None):
        self.sizes, self.fail_at, self.done = sizes, fail_at, []

    def __call__(self, cache, *sources, goal=True):
        return cache.cached_in_parts(
            "attacks/some",
            lambda: {"seed": 0, **{source.name: source for source in sources}},
            self.pieces,
            self.build,
            lambda folder, manifest, parts: (
                (folder / "rows").write_text(" ".join((part / "rows").read_text() for part in parts)) and None
            ),
            stage="evaluate",
            is_goal=goal,
        )

    def pieces(self):
        ends = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes))]
        return [range(end - size, end) for end, size in zip(ends, self.sizes)]

    def build(self, folder, piece, progress, resume):
        if len(self.done) == self.fail_at:
            raise RuntimeError("killed")
        (folder / "rows").write_text(" ".join(map(str, piece)))
        self.done.append(piece)
        progress(len(piece))


# ---- whole entries --------------------------------------------------------------------------------------------------


def test_nothing_is_built_twice(workdir):
    def chain(cache):
        a = text(cache, "a", "1")
        b, c = text(cache, "b", "2", a), text(cache, "c", "3", a)
        text(cache, "d", "4", b, c)
        return cache.built

    assert chain(Cache(workdir)) == ["a", "b", "c", "d"]
    assert chain(Cache(workdir)) == []
    assert workdir.manifest("d")["inputs"]["b"] == workdir.manifest("b")["content"]


def test_a_changed_input_rebuilds_what_depends_on_its_content(workdir):
    def chain(first):
        cache = Cache(workdir)
        a = text(cache, "a", first)
        text(cache, "c", "3", text(cache, "b", "2", a), text(cache, "other", "4"))
        return cache.built

    assert chain("1") == ["a", "b", "other", "c"]
    # b is built again, but what it holds is the same: c, which depends on the contents, stays.
    assert chain("changed") == ["a", "b"]


@pytest.mark.parametrize("name", ["results", "tensorflow"])
def test_another_version_is_computed_again(workdir, name):
    text(Cache(workdir), "a", "1")
    cache = Cache(workdir)
    cache._versions = cache._versions | {name: "another"}
    text(cache, "a", "1")
    assert cache.built == ["a"]


def test_what_took_long_is_kept_unless_overwriting_was_asked_for(workdir):
    text(Cache(workdir), "models/a", "1", keep=True, epochs=3)
    with pytest.raises(
        UserError, match=r"models/a was made with other settings or files \(epochs: 3 → 4\): give another"
    ):
        text(Cache(workdir), "models/a", "1", keep=True, epochs=4)
    cache = Cache(workdir, overwrite=True)
    text(cache, "models/a", "1", keep=True, epochs=4)
    assert cache.built == ["models/a"]


def test_what_is_renewed_is_built_once_and_all_that_depends_on_it_again(workdir):
    def chain(cache, **how):
        return text(cache, "b", "2", text(cache, "a", "1", **how)).content

    before, renewed = chain(Cache(workdir)), Cache(workdir)
    with renewed.looking():
        assert chain(renewed, renew=True) is None and renewed.seen == {"a": "stale", "b": "stale"}
    chain(renewed, renew=True)
    assert chain(renewed, renew=True) == before and renewed.built == ["a", "b"]  # what b holds is the same
    later = Cache(workdir)
    chain(later)
    assert later.built == []


def test_an_entry_that_is_only_looked_for_is_not_built(workdir):
    def look(cache, first="1"):
        with cache.looking():
            return text(cache, "b", "2", text(cache, "a", first)).content

    cache = Cache(workdir)
    assert look(cache) is None and cache.built == [] and workdir.names() == []
    assert cache.seen == {"a": "missing", "b": "missing"}
    content = text(cache, "b", "2", text(cache, "a", "1")).content
    assert look(cache) == look(Cache(workdir)) == content
    other = Cache(workdir)
    assert look(other, "changed") is None and other.built == [] and other.seen == {"a": "stale", "b": "stale"}


def test_inputs_of_what_is_missing_are_not_asked_for_while_looking(workdir):
    cache = Cache(workdir)
    with pytest.raises(ZeroDivisionError):
        cache.cached("a", lambda: 1 / 0, None)
    with cache.looking():
        assert cache.cached("a", lambda: 1 / 0, None).content is None


def test_damage_is_seen_while_looking_and_is_an_error_otherwise(workdir):
    text(Cache(workdir), "a", "1")
    path = workdir.root / "a/manifest.json"
    path.write_text(path.read_text().replace('"1"', '"2"'))
    cache = Cache(workdir)
    with cache.looking():
        assert text(cache, "a", "1").content is None and cache.seen == {"a": "damaged"}
    with pytest.raises(UserError, match="manifest.json is damaged"):
        text(cache, "a", "1")


def test_open_checks_the_files(workdir):
    cache = Cache(workdir)
    a = text(cache, "a", "1")
    assert (cache.open(a) / "text").read_text() == "1"
    (workdir.root / "a" / "text").write_text("2")
    with pytest.raises(UserError, match="a/text is damaged"):
        cache.open(a)


def test_state_of_long_work_is_handed_to_the_function_and_removed_at_the_end(workdir):
    folders = []

    def build(folder, manifest, resume):
        resume.load()
        resume._interval = 0
        resume.done([])
        (state,) = workdir.root.glob(".scratch-*")
        folders.append(sorted(path.suffix for path in state.iterdir()))

    Cache(workdir).cached("a", dict, build)
    assert folders == [[".json", ".npz"]] and not list(workdir.root.glob(".scratch-*"))


def test_manifests_of_many_entries_are_read_few_times(workdir, monkeypatch):
    """As many rounds of training: each model needs the one before, and images that need it as well."""

    def rounds(cache):
        model = text(cache, "model", "")
        for number in range(200):
            model = text(cache, f"model_{number}", "", model, text(cache, f"images_{number}", "", model))
        return cache

    assert len(rounds(Cache(workdir)).built) == 401
    reads = []
    read = workdir.manifest
    monkeypatch.setattr(workdir, "manifest", lambda name: reads.append(name) or read(name))
    again = rounds(Cache(workdir))
    assert again.built == [] and len(reads) <= 2 * 401


def test_the_source_of_a_plugin_counts_and_that_of_tfadv_does_not(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "some_plugin.py").write_text("class Mine: pass")
    mine = importlib.import_module("some_plugin").Mine
    before = source_of(mine)
    (tmp_path / "some_plugin.py").write_text("class Mine: pass  # changed")
    assert len(before) == 64 and source_of(mine) not in (before, None)
    assert source_of(Cache) is None


# ---- entries in parts -----------------------------------------------------------------------------------------------


def rows(workdir):
    return (workdir.open("attacks/some") / "rows").read_text()


def test_continues_with_the_part_that_failed(workdir):
    first, second = Rows([2, 2, 2], fail_at=2), Rows([2, 2, 2])
    with pytest.raises(RuntimeError):
        first(Cache(workdir))
    assert first.done == [range(0, 2), range(2, 4)]
    cache = Cache(workdir)
    second(cache)
    assert second.done == [range(4, 6)] and rows(workdir) == "0 1 2 3 4 5"
    assert cache.built == ["attacks/some"] and cache.parts_built == 1
    assert not (workdir.root / "parts/attacks/some").exists()


def test_parts_that_a_killed_process_left_beside_the_whole_are_removed(workdir, monkeypatch):
    parts = Rows([3, 2])
    with monkeypatch.context() as patch:
        patch.setattr(type(workdir), "remove", lambda *_: None)  # killed before it
        parts(Cache(workdir))
    assert (workdir.root / "parts/attacks/some").exists()
    with (later := Cache(workdir)).looking():
        parts(later)
    assert (workdir.root / "parts/attacks/some").exists()
    parts(Cache(workdir))
    assert not (workdir.root / "parts/attacks/some").exists() and len(parts.done) == 2


def test_parts_of_another_division_or_of_other_inputs_are_not_used(workdir):
    with pytest.raises(RuntimeError):
        Rows([2, 2, 2], fail_at=2)(Cache(workdir))
    second = Rows([3, 3], fail_at=1)
    with pytest.raises(RuntimeError):
        second(Cache(workdir))
    assert second.done == [range(0, 3)]
    third, cache = Rows([3, 3]), Cache(workdir)
    third(cache, text(cache, "a", "1"))
    assert third.done == [range(0, 3), range(3, 6)] and rows(workdir) == "0 1 2 3 4 5"


def test_shards_build_their_parts_and_a_last_call_joins_them(workdir):
    for number in range(2):
        some, cache = Rows([2, 2, 2]), Cache(workdir, (number, 2))
        assert some(cache).content is None and cache.built == []
        assert some.done == [[range(0, 2), range(4, 6)], [range(2, 4)]][number]
    last, cache = Rows([2, 2, 2]), Cache(workdir)
    last(cache)
    assert cache.built == ["attacks/some"] and last.done == [] and rows(workdir) == "0 1 2 3 4 5"


def test_a_shard_builds_nothing_but_its_goal(workdir):
    with pytest.raises(UserError, match="--shard needs .*/a: build it first, in a call without --shard"):
        text(Cache(workdir, (0, 2)), "a", "1")
    with pytest.raises(UserError, match=r"--shard needs .*some: .*\(the same command with --stage=evaluate\)"):
        Rows([2])(Cache(workdir, (0, 2)), goal=False)
    text(Cache(workdir), "a", "1")
    cache = Cache(workdir, (0, 2))
    assert Rows([2, 2])(cache, text(cache, "a", "1")).content is None and cache.parts_built == 1


def test_a_damaged_part_is_built_again(workdir):
    with pytest.raises(RuntimeError):
        Rows([2, 2], fail_at=1)(Cache(workdir))
    (part,) = workdir.root.glob("parts/attacks/some/*/rows")
    part.write_text("9 9")
    second = Rows([2, 2])
    second(Cache(workdir))
    assert second.done == [range(0, 2), range(2, 4)] and rows(workdir) == "0 1 2 3"


def test_the_manifest_tells_how_to_rebuild_and_the_time_of_all_parts(workdir):
    Rows([1, 1])(Cache(workdir))
    manifest = json.loads((workdir.root / "attacks/some/manifest.json").read_text())
    assert manifest["rebuild"] == "the same command with --stage=evaluate" and manifest["seconds"] >= 0
    (workdir.root / "attacks/some/rows").write_text("9")
    with pytest.raises(UserError, match="then the same command with --stage=evaluate"):
        workdir.open("attacks/some")


@pytest.mark.parametrize("seconds_each, said", [(10, 1), (1, 0)])
def test_long_work_says_once_how_long_the_rest_will_take(caplog, monkeypatch, seconds_each, said):
    now = [0.0]
    monkeypatch.setattr(cached, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    rest = cached._Rest("attacks/some", 60)
    rest.skip(30)  # done by an earlier command
    with caplog.at_level(logging.INFO):
        for _ in range(30):
            now[0] += seconds_each
            rest.did(1)
    # After two images, when 15 seconds are over: 28 of 30 are left.
    assert [record.getMessage() for record in caplog.records] == ["attacks/some: about 5 min left"] * said


@pytest.mark.parametrize("silence, lines", [(0.0, 2), (60.0, 0)])
def test_a_log_without_a_progress_bar_reports_progress(workdir, caplog, monkeypatch, silence, lines):
    monkeypatch.setattr(cached, "_SILENCE", silence)
    with caplog.at_level(logging.INFO):
        Rows([2, 2, 2])(Cache(workdir))
    reported = [record.getMessage() for record in caplog.records if " part " in record.getMessage()]
    assert [line.split(", about")[0] for line in reported] == [
        f"attacks/some: part {i} of 3 done" for i in range(1, lines + 1)
    ]
