"""The graph of artifacts: what is built, what is kept, and what is out of date."""

import json
import logging
import types

import pytest

from tfadv.errors import UserError
from tfadv.experiments import graph
from tfadv.experiments.graph import Graph, PartedArtifact, WholeArtifact
from tfadv.store.workdir import Workdir


class Text(WholeArtifact):
    """A file with the texts of its inputs and its own."""

    def __init__(self, name, text, *sources, code="tfadv.objectives.cross_entropy"):
        self.name, self.text, self.sources, self._code = name, text, sources, code
        self.cleaned = 0

    def inputs(self):
        return {source.name: source for source in self.sources}

    def settings(self):
        return {"text": self.text}

    def code(self):
        return (self._code,)

    def cleanup(self):
        self.cleaned += 1

    def build(self, folder, manifest, resume):
        (folder / "text").write_text(self.text)


class Rows(PartedArtifact):
    """Numbers, written in parts; fails at one of the parts on request."""

    rebuild = "ask for the rows again"

    def __init__(self, sizes, fail_at=None, sources=()):
        self.name, self.sizes, self.fail_at, self.sources = "attacks/some", sizes, fail_at, sources
        self.done = []

    def inputs(self):
        return {source.name: source for source in self.sources}

    def settings(self):
        return {"seed": 0}

    def code(self):
        return ("tfadv.objectives.cross_entropy",)

    def pieces(self):
        ends = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes))]
        return [range(end - size, end) for end, size in zip(ends, self.sizes)]

    def build_part(self, folder, piece, progress, resume):
        if len(self.done) == self.fail_at:
            raise RuntimeError("killed")
        (folder / "rows").write_text(" ".join(map(str, piece)))
        self.done.append(piece)
        progress(len(piece))

    def join(self, folder, manifest, parts):
        (folder / "rows").write_text(" ".join((part / "rows").read_text() for part in parts))


@pytest.fixture
def workdir(tmp_path):
    with Workdir(tmp_path / "work", {"seed": 0}) as workdir:
        yield workdir


def built(workdir, artifact, shard=None):
    """Asks for an artifact in a new process, so to speak, and returns the names of what was built."""
    graph = Graph(workdir, shard)
    graph.ensure(artifact)
    return graph.built


# ---- whole artifacts ------------------------------------------------------------------------------------


def test_inputs_are_built_first_and_nothing_twice(workdir):
    a = Text("a", "1")
    b, c = Text("b", "2", a), Text("c", "3", a)
    d = Text("d", "4", b, c)
    assert built(workdir, d) == ["a", "b", "c", "d"]
    assert built(workdir, d) == []
    assert workdir.manifest("d")["inputs"]["b"] == workdir.manifest("b")["content"]


def test_a_changed_setting_rebuilds_what_depends_on_it(workdir):
    def chain(text):
        a = Text("a", text)
        return Text("c", "3", Text("b", "2", a), Text("other", "4"))

    assert built(workdir, chain("1")) == ["a", "b", "other", "c"]
    # b is built again, but what it holds is the same: c, which depends on the contents, stays.
    assert built(workdir, chain("changed")) == ["a", "b"]


def test_changed_code_rebuilds_the_artifacts_that_use_it(workdir):
    def pair(code):
        a = Text("a", "1")
        return Text("b", "2", a, code=code)

    built(workdir, pair("tfadv.attacks.pgd"))
    assert built(workdir, pair("tfadv.attacks.pgd")) == []
    assert built(workdir, pair("tfadv.attacks.apgd")) == ["b"]


def test_an_input_that_is_only_asked_about_is_not_built(workdir):
    a = Text("a", "1")
    b = Text("b", "2", a)
    graph = Graph(workdir)
    assert graph.current(b) is None and graph.built == [] and workdir.names() == []
    content = graph.ensure(b)
    assert graph.current(b) == content
    assert graph.current(Text("b", "2", Text("a", "changed"))) is None
    assert graph.built == ["a", "b"]


def test_open_checks_the_files(workdir):
    a = Text("a", "1")
    graph = Graph(workdir)
    assert (graph.open(a) / "text").read_text() == "1"
    (workdir.root / "a" / "text").write_text("2")
    with pytest.raises(UserError, match="a/text is damaged"):
        graph.open(a)


def test_cleanup_is_called_whenever_an_artifact_is_up_to_date(workdir):
    for _ in range(2):
        a = Text("a", "1")
        Graph(workdir).ensure(a)
        assert a.cleaned == 1


def test_resumable_state_is_handed_to_the_artifact_and_removed_at_the_end(workdir):
    folders = []

    class Resumed(Text):
        def build(self, folder, manifest, resume):
            resume.load()
            resume._interval = 0
            resume.done([])
            (state,) = workdir.root.glob(".scratch-*")
            folders.append(sorted(path.suffix for path in state.iterdir()))
            super().build(folder, manifest, resume)

    assert built(workdir, Resumed("a", "1")) == ["a"]
    assert folders == [[".json", ".npz"]] and not list(workdir.root.glob(".scratch-*"))


# ---- artifacts in parts ---------------------------------------------------------------------------------


def rows(workdir):
    return (workdir.open("attacks/some") / "rows").read_text()


def test_continues_with_the_part_that_failed(workdir):
    first, second = Rows([2, 2, 2], fail_at=2), Rows([2, 2, 2])
    with pytest.raises(RuntimeError):
        Graph(workdir).ensure(first)
    assert first.done == [range(0, 2), range(2, 4)]
    graph = Graph(workdir)
    graph.ensure(second)
    assert second.done == [range(4, 6)] and rows(workdir) == "0 1 2 3 4 5"
    assert graph.built == ["attacks/some"] and graph.parts_built == 1
    assert not (workdir.root / "parts/attacks/some").exists()


def test_parts_of_another_division_are_not_used(workdir):
    with pytest.raises(RuntimeError):
        Graph(workdir).ensure(Rows([2, 2, 2], fail_at=2))
    second = Rows([3, 3])
    Graph(workdir).ensure(second)
    assert second.done == [range(0, 3), range(3, 6)] and rows(workdir) == "0 1 2 3 4 5"


def test_parts_built_from_other_inputs_are_not_used(workdir):
    with pytest.raises(RuntimeError):
        Graph(workdir).ensure(Rows([2, 2], fail_at=1, sources=[Text("a", "1")]))
    second = Rows([2, 2], sources=[Text("a", "changed")])
    Graph(workdir).ensure(second)
    assert second.done == [range(0, 2), range(2, 4)]


def test_shards_build_their_parts_and_a_last_call_joins_them(workdir):
    for number in range(2):
        artifact = Rows([2, 2, 2])
        assert built(workdir, artifact, shard=(number, 2)) == []
        assert artifact.done == [[range(0, 2), range(4, 6)], [range(2, 4)]][number]
    last = Rows([2, 2, 2])
    assert built(workdir, last) == ["attacks/some"] and last.done == [] and rows(workdir) == "0 1 2 3 4 5"


def test_a_shard_does_not_build_inputs(workdir):
    source = Text("a", "1")
    with pytest.raises(UserError, match="--shard needs .*/a: build it first, in a call without --shard"):
        built(workdir, Rows([2], sources=[source]), shard=(0, 2))
    with pytest.raises(UserError, match="--shard needs .*/a"):
        built(workdir, source, shard=(0, 2))
    built(workdir, source)
    assert built(workdir, Rows([2, 2], sources=[source]), shard=(0, 2)) == []


def test_a_damaged_part_is_built_again(workdir):
    with pytest.raises(RuntimeError):
        Graph(workdir).ensure(Rows([2, 2], fail_at=1))
    (part,) = workdir.root.glob("parts/attacks/some/*/rows")
    part.write_text("9 9")
    second = Rows([2, 2])
    Graph(workdir).ensure(second)
    assert second.done == [range(0, 2), range(2, 4)] and rows(workdir) == "0 1 2 3"


def test_the_manifest_tells_how_to_rebuild_and_the_time_of_all_parts(workdir):
    Graph(workdir).ensure(Rows([1, 1]))
    manifest = json.loads((workdir.root / "attacks/some/manifest.json").read_text())
    assert manifest["rebuild"] == "ask for the rows again" and manifest["seconds"] >= 0
    (workdir.root / "attacks/some/rows").write_text("9")
    with pytest.raises(UserError, match="then ask for the rows again"):
        workdir.open("attacks/some")


@pytest.mark.parametrize("seconds_each, said", [(10, 1), (1, 0)])
def test_long_work_says_once_how_long_the_rest_will_take(caplog, monkeypatch, seconds_each, said):
    now = [0.0]
    monkeypatch.setattr(graph, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    rest = graph._Rest("attacks/some", 60)
    rest.skip(30)  # done by an earlier command
    with caplog.at_level(logging.INFO):
        for _ in range(30):
            now[0] += seconds_each
            rest.did(1)
    # After two images, when 15 seconds are over: 28 of 30 are left.
    assert [record.getMessage() for record in caplog.records] == ["attacks/some: about 5 min left"] * said


@pytest.mark.parametrize("silence, lines", [(0.0, 2), (60.0, 0)])
def test_a_log_without_a_progress_bar_reports_progress(workdir, caplog, monkeypatch, silence, lines):
    monkeypatch.setattr(graph, "_SILENCE", silence)
    with caplog.at_level(logging.INFO):
        Graph(workdir).ensure(Rows([2, 2, 2]))
    reported = [record.getMessage() for record in caplog.records if " part " in record.getMessage()]
    assert [line.split(", about")[0] for line in reported] == [
        f"attacks/some: part {i} of 3 done" for i in range(1, lines + 1)
    ]


def test_each_of_many_artifacts_is_checked_once(workdir):
    """As many rounds of training: each model needs the one before, and samples that need it as well."""
    model = Text("model", "")
    for number in range(300):
        model = Text(f"model_{number}", "", model, Text(f"samples_{number}", "", model))
    graph = Graph(workdir)
    checked = []
    graph._fingerprint = lambda artifact, inputs: checked.append(artifact.name) or {"inputs": dict(inputs)}
    graph.ensure(model)
    assert len(graph.built) == len(set(graph.built)) == len(checked) == 601
    assert graph.current(model) and len(checked) == 2 * 601
