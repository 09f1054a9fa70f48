"""What `--stage=status` prints: which results of a run are done, out of date or missing."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Iterator

from tfadv.pipeline import extras, steps
from tfadv.pipeline.cached import Entry
from tfadv.pipeline.reporting import folder_of_report, report
from tfadv.pipeline.run import Run
from tfadv.runtime.console import duration, styled
from tfadv.store.files import megabytes

STYLES = {"done": "green", "stale": "yellow", "unfinished": "yellow", "missing": "red", "damaged": "red"}
LEGEND = {
    "stale": "settings, images or versions have changed since",
    "unfinished": "begun; the next run continues it",
    "damaged": "the next run says how to repair it",
}


def status_text(run: Run) -> str:
    """Returns one line per folder of results: its state, size and computing time.  Builds nothing.

    Args:
      run: of a work folder that may be in use by another process.
    """
    workdir = run.workdir
    states = _states(run)
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
        lines.append(f"{len(others)} more, of other --models, --defenses or --attacks")
    size = sum(path.stat().st_size for path in workdir.root.rglob("*") if path.is_file())
    lines.append(f"{megabytes(size)} on disk")
    if set(counts) != {"done"}:
        lines.append("To build what is not done, run the same command with --stage=report.")
    return "\n".join(lines)


def _states(run: Run) -> dict[str, str]:
    """Name → one of the keys of `STYLES`, of everything that `--stage=report` needs, and of explanations that exist."""
    cache, root = run.cache, run.workdir.root
    with cache.looking():
        n = run.dataset.sizes["test"] if run.dataset.entry.content else 1
        evaluations, further = [], list[Entry]()
        trained = steps.all_trained(run)
        for each in trained:
            evaluations.append(steps.evaluate_fgsm(run, each))
            for attack in run.attacks:
                images = None if run.dataset.entry.content else run.config.attacked_images(attack.name, n)
                evaluations.append(steps.evaluate_attack(run, each, attack, images))
            if run.attacks:
                images = min(run.config.eval_size or n, n)
                further += [extras.transfer(run, each, trained, images), extras.check(run, each, images)]
            if (root / "explanations" / each.folder).exists():
                extras.explain(run, each)
            if (root / "certificates" / each.folder).exists():
                extras.certify(run, each, run.config.certified_images(n), run.config.copies)
            if (root / "exports" / each.folder).exists():
                extras.export(run, each)
        asked = dict(cache.seen)  # the report takes results of fewer images as well
        needed = {*asked, *(f"gallery/{each.folder}" for each in trained)}
        report(run, evaluations, further)
    name = folder_of_report(run)
    # The report also asks for what it can do without.
    states = {each: state for each, state in (cache.seen | asked).items() if each in needed or state != "missing"}
    states[name] = states.pop(name, "missing")
    return {name: "unfinished" if _is_begun(run, name, state) else state for name, state in states.items()}


def _is_begun(run: Run, name: str, state: str) -> bool:
    """Whether a folder is missing, with traces of work, or has the results of the first images only."""
    if state == "stale":
        return "of" in (run.workdir.manifest(name) or {"inputs": {}})["inputs"]
    return state == "missing" and any(path.exists() for path in _traces(run.workdir.root, name))


def _traces(root: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
    """What work leaves in a folder before it is done."""
    path = root / name
    yield root / "parts" / name
    yield path.parent / f".scratch-{path.name}"
    if name.startswith("models/"):
        yield root / "checkpoints" / name.removeprefix("models/")


def _bytes(manifest: dict) -> int:
    return sum(file["bytes"] for file in manifest["files"].values())
