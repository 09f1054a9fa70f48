"""Runs a stage of an experiment in a work folder: `run`."""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
from collections.abc import Sequence

from tfadv.choices import COMPARE, STATUS
from tfadv.config import Config
from tfadv.datasets.storage import limit_memory_pools
from tfadv.errors import UserError
from tfadv.experiments.closing import REPORTED, closing_text
from tfadv.experiments.graph import Artifact
from tfadv.experiments.report_artifact import Report
from tfadv.experiments.session import Session
from tfadv.experiments.status import status_text
from tfadv.runtime import signals
from tfadv.runtime.cluster import cluster
from tfadv.runtime.console import duration
from tfadv.runtime.peers import peers_may_die
from tfadv.store.workdir import Workdir

AFFECTS_RESULTS = False
LOG = logging.getLogger(__name__)
LONG = 60  # seconds of work that a user wants to know about beforehand


def run(config: Config) -> str | None:
    """Runs `--stage` and everything it needs that is missing.

    Args:
      config: resolved settings.

    Returns:
      What to print at the end; None on a host that is not the chief.

    Raises:
      UserError: something is wrong that the user can fix.
    """
    if config.stage == STATUS:
        # A follower reads only, so that another process may work in the folder.
        workdir = Workdir(config.workdir, config.fingerprint(), follower=True)
        if config.verify:
            _verify(workdir)
        # It computes nothing, so it need not wait for other hosts.
        return status_text(Session(dataclasses.replace(config, distribute="none"), workdir))
    limit_memory_pools()
    workers, number = cluster() if config.distribute in ("auto", "multiworker") else (1, 0)
    follower = workers > 1 and number > 0
    with (
        peers_may_die(),
        Workdir(
            config.workdir,
            config.fingerprint(),
            defaults=Config().fingerprint(),
            overwrite=config.overwrite,
            shard=config.shard_of(),
            follower=follower,
        ) as workdir,
    ):
        if config.verify:
            _verify(workdir)
        if not follower and not config.shard:
            (workdir.root / "flags.txt").write_text(config.flagfile(), encoding="utf-8")
        session = Session(config, workdir)
        if session.devices.replicas > 1:
            LOG.info("%s", session.devices)
        signals.install()  # where there are several hosts, TensorFlow has replaced the handler of SIGTERM
        session.publish()  # results of other settings, or of older code, must not stay
        _run_stage(session, config.stage)
        session.publish()
        return None if follower else closing_text(session)


def _run_stage(session: Session, stage: str) -> None:
    target = session.experiment.target(stage)
    if target is None:
        for trained in session.variants:
            if trained.recipe.stage == stage:
                session.graph.ensure(trained)
    elif target == "splits":
        session.graph.ensure(session.splits)
    elif target == "samples":
        session.graph.ensure(session.samples)
    elif target == "reference_evaluation":
        for model in session.config.models:
            _evaluate(session, session.fgsm_evaluation(session.trained(model, session.experiment.reference)))
    else:
        evaluations = _evaluate_all(session)
        if target == "explanations":
            for trained in session.variants:
                session.graph.ensure(session.explanation(trained))
        if target in REPORTED:
            session.graph.ensure(Report(session, evaluations))


def _evaluate_all(session: Session) -> list[Artifact]:
    """Evaluates every model and recipe as the settings ask for."""
    for trained in session.variants:  # what is wrong with a recipe shows before hours of attacks
        session.graph.ensure(trained)
    # A first answer about every model comes before the long work, which begins with the attack named first.
    by_kind: list[list[Artifact]] = [[session.fgsm_evaluation(trained) for trained in session.variants]]
    by_kind += [
        [session.attack_evaluation(trained, attack) for trained in session.variants] for attack in session.attacks
    ]
    _log_sizes(session)
    for kind in by_kind:
        _evaluate_each(session, kind)
    evaluations: list[Artifact] = [evaluation for of_model in zip(*by_kind) for evaluation in of_model]
    if session.attacks and not session.config.shard:
        compares = session.config.stage == COMPARE  # a transfer matrix of many defenses says nothing about them
        for trained in session.variants:
            for artifact in ([] if compares else [session.transfer_row(trained)]) + [session.diagnostics(trained)]:
                session.graph.ensure(artifact)
                evaluations.append(artifact)
    return evaluations


def _log_sizes(session: Session) -> None:
    """Says where an attack sees fewer than all test images though the settings don't ask for it."""
    n = session.splits.sizes["test"]
    sizes = {attack.label: session.config.attacked_images(attack.name, n) for attack in session.attacks}
    if not session.config.eval_size and min(sizes.values(), default=n) < n:
        listing = ", ".join(f"{label} on {size:,}" for label, size in sizes.items())
        LOG.info("of %d test images, the first ones are attacked: %s; --eval_size=%d attacks all", n, listing, n)


def _evaluate_each(session: Session, evaluations: Sequence[Artifact]) -> None:
    """Evaluates models in the same way, and after the first that takes long says how long the others will take."""
    said = False
    for left, evaluation in zip(range(len(evaluations) - 1, -1, -1), evaluations):
        started = time.monotonic()
        _evaluate(session, evaluation)
        seconds = left * (time.monotonic() - started)
        if seconds > LONG and not said:
            said = True
            LOG.info("%d more models to evaluate like this: at most about %s", left, duration(seconds))


def _evaluate(session: Session, artifact: Artifact) -> None:
    session.graph.ensure(artifact)
    session.publish()


def _verify(workdir: Workdir) -> None:
    """Checks every file of every artifact; prints a line for each that is damaged.

    Raises:
      UserError: there are any.
    """
    names = workdir.names()
    damaged = 0
    for name in names:
        try:
            workdir.open(name)
        except UserError as error:
            damaged += 1
            print(error, file=sys.stderr)
    if damaged:
        raise UserError(f"{damaged} of {len(names)} artifacts in {workdir.root} are damaged.")
    LOG.info("%s: %d artifacts, none of them damaged", workdir.root, len(names))
