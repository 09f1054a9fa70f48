"""What `--stage=status` prints: which artifacts of an experiment are done, out of date or missing."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tfadv.errors import UserError
from tfadv.experiments.report_artifact import Report
from tfadv.runtime.console import duration, styled
from tfadv.store.files import megabytes
from tfadv.store.workdir import MANIFEST

if TYPE_CHECKING:
    from tfadv.experiments.graph import Artifact
    from tfadv.experiments.session import Session

AFFECTS_RESULTS = False
STYLES = {"done": "green", "stale": "yellow", "unfinished": "yellow", "missing": "red", "damaged": "red"}
LEGEND = {
    "stale": "settings or code have changed since",
    "unfinished": "begun; the next run continues it",
    "damaged": "the next run says how to repair it",
}


def status_text(session: Session) -> str:
    """Returns one line per artifact of the experiment: its state, size and computing time.  Builds nothing.

    Args:
      session: of a work folder that may be in use by another process.
    """
    workdir = session.workdir
    states = {artifact.name: _state(session, artifact) for artifact in _artifacts(session)}
    width = max(map(len, states))
    lines = []
    for name, state in states.items():
        manifest = None if state == "damaged" else workdir.manifest(name)
        facts = f"  {_bytes(manifest) / 1e3:10,.0f} kB  {duration(manifest['seconds']):>9}" if manifest else ""
        lines.append(f"{styled(f'{state:10}', STYLES[state])}  {name:{width}}{facts}".rstrip())
    counts = collections.Counter(states.values())
    lines += ["", ", ".join(f"{counts[state]} {state}" for state in STYLES if counts[state]) + f" in {workdir.root}"]
    lines += [f"{state}: {text}" for state, text in LEGEND.items() if counts[state]]
    others = [
        name for name in workdir.names() if name not in states and not name.startswith(("parts/", "checkpoints/"))
    ]
    if others:
        lines.append(
            f"{len(others)} more artifact{'s' if len(others) > 1 else ''} of other --models, --defenses or --attacks"
        )
    size = sum(path.stat().st_size for path in workdir.root.rglob("*") if path.is_file())
    lines.append(f"{megabytes(size)} on disk")
    if set(counts) != {"done"}:
        lines.append("To build what is not done, run the same command with --stage=report.")
    return "\n".join(lines)


def _artifacts(session: Session) -> Iterator[Artifact]:
    """The artifacts of `--stage=report`, each after its inputs, and the explanations that exist."""
    n = session.eval_size if session.graph.current(session.splits) else 1
    evaluations: list[Artifact] = []
    for trained in session.variants:
        evaluations.append(session.fgsm_evaluation(trained))
        evaluations += [session.attack_evaluation(trained, attack, n) for attack in session.attacks]
        if session.attacks:
            evaluations += [session.transfer_row(trained, n), session.diagnostics(trained, n)]
    explanations = map(session.explanation, session.variants)
    existing = (each for each in explanations if (session.workdir.root / each.name).exists())
    seen: set[str] = set()
    for artifact in (*existing, Report(session, evaluations)):
        yield from _with_inputs(artifact, seen)


def _with_inputs(artifact: Artifact, seen: set[str]) -> Iterator[Artifact]:
    if artifact.name in seen:
        return
    seen.add(artifact.name)
    for source in artifact.inputs().values():
        yield from _with_inputs(source, seen)
    yield artifact


def _state(session: Session, artifact: Artifact) -> str:
    """One of the keys of `STYLES`."""
    root = session.workdir.root
    if (root / artifact.name / MANIFEST).exists():
        try:
            session.workdir.manifest(artifact.name)
        except UserError:
            return "damaged"
        # Without splits, an artifact can't tell its own settings, and is out of date in any case.
        if artifact is not session.splits and not session.graph.current(session.splits):
            return "stale"
        try:
            return "done" if session.graph.current(artifact) else "stale"
        except UserError:  # one of its inputs is damaged
            return "stale"
    return "unfinished" if any(path.exists() for path in _traces(root, artifact.name)) else "missing"


def _traces(root: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
    """What work on an artifact leaves in a folder before it is done."""
    path = root / name
    yield root / "parts" / name
    yield path.parent / f".scratch-{path.name}"
    if name.startswith("models/"):
        yield root / "checkpoints" / name.removeprefix("models/")


def _bytes(manifest: dict) -> int:
    return sum(file["bytes"] for file in manifest["files"].values())
