"""Artifacts made part by part."""

import logging

import pytest

from tfadv import artifacts
from tfadv.experiments.graph import Artifacts
from tfadv.config import Config
from tfadv.store.workdir import Workdir

NAME = "attacks/some"


@pytest.fixture
def make(tmp_path):
    """Function of (sizes of the parts, the part at which to fail or None) → (parts made, what the artifact holds)."""

    def run(sizes, fail_at=None):
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        pieces, made = [range(end - size, end) for end, size in zip(ends, sizes)], []

        def fill(folder, piece, progress):
            if len(made) == fail_at:
                raise RuntimeError("killed")
            (folder / "rows").write_text(" ".join(map(str, piece)))
            made.append(piece)
            progress(len(piece))

        def join(folder, manifest, parts):
            (folder / "rows").write_text(" ".join((part / "rows").read_text() for part in parts))

        with Workdir(tmp_path / "w", Config(), overwrite=False) as workdir:
            try:
                Artifacts(workdir).make_in_parts(NAME, {"seed": 0}, pieces, fill, join)
            except RuntimeError:
                return made, None
            return made, (workdir.open(NAME, "") / "rows").read_text()

    return run


def test_goes_on_at_the_part_it_was_in(make):
    assert make([2, 2, 2], fail_at=2)[0] == [range(0, 2), range(2, 4)]
    assert make([2, 2, 2]) == ([range(4, 6)], "0 1 2 3 4 5")


def test_parts_of_another_division_are_not_taken(make):
    make([2, 2, 2], fail_at=2)
    assert make([3, 3]) == ([range(0, 3), range(3, 6)], "0 1 2 3 4 5")


@pytest.mark.parametrize("silence, said", [(0.0, 2), (60.0, 0)])
def test_a_log_without_a_bar_says_how_far_it_is(make, caplog, monkeypatch, silence, said):
    monkeypatch.setattr(artifacts, "_SILENCE", silence)
    with caplog.at_level(logging.INFO):
        make([2, 2, 2])
    lines = [record.getMessage() for record in caplog.records if "part" in record.getMessage()]
    assert lines[1:] == [f"{NAME}: part {i} of 3 done" for i in range(1, said + 1)]
