"""What a run prints at its end: `closing_text`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from tfadv.experiments.report_artifact import Report
from tfadv.models import own
from tfadv.runtime.console import styled

if TYPE_CHECKING:
    from tfadv.experiments.session import Session

AFFECTS_RESULTS = False
REPORTED = ("explanations", "report")  # what a stage makes that ends with a report


def closing_text(session: Session) -> str:
    """Returns the results of a report in a few lines, where the page is, and a command that goes on from there."""
    config, graph = session.config, session.graph
    if config.shard:
        return (
            f"Shard {config.shard} of stage {config.stage} is done: {graph.parts_built} parts were built. "
            "When all shards are done, run the same command without --shard to join them."
        )
    lines = []
    if session.experiment.target(config.stage) in REPORTED:
        folder = session.workdir.open(Report.name_for(config.stage))
        lines = [
            (folder / "summary.txt").read_text(encoding="utf-8"),
            f"Report: {styled(str(folder / 'report.html'), 'bold')}",
        ]
    if not graph.built:
        lines.append(f"{config.workdir} is up to date for stage {config.stage}: nothing to do.")
    else:
        lines.append(f"Built {len(graph.built)} artifacts in {config.workdir}.")
    return "\n".join([*lines, _next_step(session)])


def _next_step(session: Session) -> str:
    config, root = session.config, session.workdir.root
    command = f"tfadv --flagfile={shlex.quote(str(root / 'flags.txt'))}"
    if session.experiment.target(config.stage) not in REPORTED:
        return f"Next, the results: {command} --stage=report"
    if not config.attack_specs:
        return f"Next, a stronger attack: {command} --stage=report --attacks='pgd(steps=20)' --eval_size=500"
    if not config.defenses and not any(map(own.is_saved_model, config.models)):
        return f"Next, a defense: {command} --stage=report --defenses=nfgsm"
    if not any(session.graph.current(session.explanation(trained)) for trained in session.variants):
        return f"Next, explanations: {command} --stage=explain"
    return f"Next, curves and images: tensorboard --logdir {shlex.quote(str(root))}"
