"""Runs a stage of the command line in a work folder: `run`."""

from __future__ import annotations

import dataclasses
import functools
import logging
import shlex
import time
from collections.abc import Callable, Sequence

from tfadv import gate
from tfadv.attacks import ATTACKS
from tfadv.attacks.base import Attack
from tfadv.attacks.gradient import check_sizes
from tfadv.config import REPORTED, STATUS, Config
from tfadv.datasets.storage import limit_memory_pools
from tfadv.errors import UserError
from tfadv.evaluation.records import Record
from tfadv.models import own
from tfadv.pipeline import extras, steps
from tfadv.pipeline.baseline import read_baseline
from tfadv.pipeline.cached import Entry
from tfadv.pipeline.judging import evaluate_until_decided, has_failed, judge
from tfadv.pipeline.reporting import publish, read_summary, report
from tfadv.pipeline.run import Run
from tfadv.pipeline.status import status_text
from tfadv.pipeline.steps import Evaluation
from tfadv.pipeline.training import Trained
from tfadv.runtime import signals
from tfadv.runtime.cluster import cluster
from tfadv.runtime.console import duration, styled
from tfadv.runtime.peers import peers_may_die
from tfadv.store.workdir import Workdir

LOG = logging.getLogger(__name__)
LONG = 60  # seconds of work that a user wants to know about beforehand


def run(config: Config) -> tuple[str, int]:
    """Runs `--stage` and everything it needs that is missing.

    Args:
      config: resolved settings.

    Returns:
      (what to print at the end, "" on a host that is not the chief; the exit code, see `tfadv.gate`).

    Raises:
      UserError: something is wrong that the user can fix.
    """
    if config.stage == STATUS:
        # A follower reads only, so that another process may work in the folder; and it need not wait for other hosts.
        workdir = Workdir(config.workdir, follower=True)
        return status_text(Run(dataclasses.replace(config, distribute="none"), workdir)), 0
    limit_memory_pools()
    workers, number = cluster() if config.distribute in ("auto", "multiworker") else (1, 0)
    follower = workers > 1 and number > 0
    with peers_may_die(), Workdir(config.workdir, shard=config.shard_of(), follower=follower) as workdir:
        this = Run(config, workdir)
        if not follower and not config.shard:
            (workdir.root / "flags.txt").write_text(config.flagfile(), encoding="utf-8")
        if config.require and not follower:
            (workdir.root / "gate.xml").unlink(missing_ok=True)  # of an earlier run
        if this.devices.replicas > 1:
            LOG.info("%s", this.devices)
        signals.install()  # where there are several hosts, TensorFlow has replaced the handler of SIGTERM
        baseline = read_baseline(this)  # what is wrong with it shows before hours of attacks
        _run_stage(this, baseline)
        publish(this)
        decisions = judge(this, baseline) if config.require else []
        lines = [_closing_text(this), *(str(decision) for decision in decisions)]
        return "" if follower else "\n".join(lines), gate.exit_code(decisions)


def _run_stage(run: Run, baseline: Sequence[Record]) -> None:
    stage = run.config.stage
    steps.prepare(run)
    if stage == "prepare":
        return
    _check_training_images(run)
    _check_sizes(run)
    _check_export(run)
    if stage == "generate":
        steps.generate(run)
    elif stage in ("train", "augment", "retrain"):
        for model in run.config.models:
            for defense in run.defenses_of(model):
                if defense.stage == stage:
                    steps.train(run, model, defense)
                    publish(run)  # results of the weights before must not stay
    elif stage == "attack":
        for model in run.config.models:
            steps.evaluate_fgsm(run, steps.train(run, model, run.first(model)))
            publish(run)
    else:
        evaluations, further = _evaluate(run, baseline)
        if stage == "explain":
            for trained in steps.all_trained(run):
                extras.explain(run, trained)
        if stage == "certify":
            n = run.config.certified_images(run.dataset.sizes["test"])
            for trained in steps.all_trained(run):
                extras.certify(run, trained, n, run.config.copies)
        if stage in REPORTED:
            report(run, evaluations, further)
        if run.config.export:
            for trained in steps.all_trained(run):
                extras.export(run, trained)


def _evaluate(run: Run, baseline: Sequence[Record] = ()) -> tuple[list[Evaluation], list[Entry]]:
    """Evaluates every model and defense as the settings ask for; returns also the entries that are no evaluation.

    With `--require`, attacks run from cheap to dear, and those that can no longer change a verdict do not run, or end.
    """
    trained = steps.all_trained(run)  # what is wrong with a defense shows before hours of attacks
    publish(run)  # results of the weights before must not stay
    _log_sizes(run)
    # A first answer about every model comes before the long work, which begins with the attack named first.
    by_model = [[first] for first in _in_turn(run, trained, functools.partial(steps.evaluate_fgsm, run))]
    attacks, order = run.attacks, list(ATTACKS)
    if run.config.require:
        attacks = sorted(attacks, key=lambda each: order.index(each.name))
    for number, attack in enumerate(attacks):
        own = [i for i, each in enumerate(trained) if not (number and _is_needless(run, each, attack, baseline))]
        evaluate = functools.partial(evaluate_until_decided, run, attack=attack)
        for i, evaluation in zip(own, _in_turn(run, [trained[i] for i in own], evaluate)):
            by_model[i].append(evaluation)
    evaluations = [evaluation for of_model in by_model for evaluation in of_model]
    further: list[Entry] = []
    if run.attacks and not run.config.shard:
        n = run.dataset.sizes["test"]
        n = min(run.config.eval_size or n, n)
        for each in trained:
            if not run.compares:  # a transfer matrix of many defenses says nothing about them
                further.append(extras.transfer(run, each, trained, n))
            further.append(extras.check(run, each, n))
    return evaluations, further


def _is_needless(run: Run, trained: Trained, attack: Attack, baseline: Sequence[Record]) -> bool:
    """Whether an attack, which is not on the disk, can't change what `--require` says of a model; says so."""
    if not run.config.require or not has_failed(run, trained, baseline):
        return False
    with run.cache.looking():
        if steps.evaluate_attack(run, trained, attack).entry.content:
            return False
    LOG.info(
        "%s is skipped: %s has failed every requirement about attacks; a run without --require includes it",
        *(attack.label, trained.name),
    )
    return True


def _check_training_images(run: Run) -> None:
    """Raises UserError where something needs training or validation images, and the data set has none."""
    if run.dataset.sizes["train"]:
        return
    measures = all(map(own.is_own, run.config.models)) and run.config.stage != "generate"
    if run.defenses or run.config.export or not measures:
        raise UserError(
            f"--split=official: {run.config.dataset} has test images only, so nothing can be trained: give trained "
            "models, and neither --defenses nor --export."
        )
    if not run.config.input_range_given:
        raise UserError(
            f"--split=official: {run.config.dataset} has no validation images that show which pixels the models take: "
            "give --input_range, such as 0,255."
        )


def _check_export(run: Run) -> None:
    """Raises UserError where a model is to be exported that is none of Keras, such as a function of images."""
    for network in map(run.network, run.config.models if run.config.export else ()):
        if network.access:
            raise UserError(f"--export is for Keras models, and {network.label} is none: give the .keras file.")


def _check_sizes(run: Run) -> None:
    """Raises UserError where an attack can't have a size: it is larger than the distance of any two images, say."""
    for attack in run.attacks:
        given = run.sizes.get(attack.label, ())
        try:
            check_sizes(given or (0.0,), (0.0, 1.0), getattr(attack, "norm", "linf"), run.dataset.shape)
            attack.check_eps((given or run.config.epsilons) if attack.has_eps else None)
        except ValueError as error:
            hint = "" if given else " Give sizes of its own after an @."
            raise UserError(f"--attacks: {attack.label}: {error}{hint}")


def _log_sizes(run: Run) -> None:
    """Says where an attack sees fewer than all test images though the settings don't ask for it."""
    n = run.dataset.sizes["test"]
    sizes = {attack.label: run.config.attacked_images(attack.name, n) for attack in run.attacks}
    if not run.config.eval_size and min(sizes.values(), default=n) < n:
        listing = ", ".join(f"{label} on {size:,}" for label, size in sizes.items())
        LOG.info("of %d test images, the first ones are attacked: %s; --eval_size=%d attacks all", n, listing, n)


def _in_turn(run: Run, trained: Sequence[Trained], evaluate: Callable[[Trained], Evaluation]) -> list[Evaluation]:
    """Evaluates models in the same way, and after the first that takes long says how long the others will take."""
    said, found = False, []
    for left, each in zip(range(len(trained) - 1, -1, -1), trained):
        started = time.monotonic()
        found.append(evaluate(each))
        publish(run)
        seconds = left * (time.monotonic() - started)
        if seconds > LONG and not said:
            said = True
            LOG.info("%d more models to evaluate like this: at most about %s", left, duration(seconds))
    return found


def _closing_text(run: Run) -> str:
    """The results of a report in a few lines, where the page is, and a command that goes on from there."""
    config, cache = run.config, run.cache
    if config.shard:
        return (
            f"Shard {config.shard} of stage {config.stage} is done: {cache.parts_built} parts were built. "
            "When all shards are done, run the same command without --shard to join them."
        )
    lines = []
    if config.stage in REPORTED:
        summary, page = read_summary(run)
        lines = [summary, f"Report: {styled(str(page), 'bold')}"]
    if not cache.built:
        lines.append(f"{config.workdir} is up to date for stage {config.stage}: nothing to do.")
    else:
        lines.append(f"{len(cache.built)} new results in {config.workdir}.")
    return "\n".join([*lines, _next_step(run)])


def _next_step(run: Run) -> str:
    config, root = run.config, run.workdir.root
    command = f"tfadv --flagfile={shlex.quote(str(root / 'flags.txt'))}"
    if config.stage not in REPORTED:
        return f"Next, the results: {command} --stage=report"
    if not config.attack_specs:
        return f"Next, a stronger attack: {command} --stage=report --attacks='pgd(steps=20)' --eval_size=500"
    trainable = run.dataset.sizes["train"] and not any(
        own.is_fixed(name) or run.network(name).access for name in config.models
    )
    if trainable and not any(each.attacks for each in run.defenses):
        given = config.defenses + "," if config.defenses else ""
        return f"Next, a defense: {command} --stage=report --defenses={shlex.quote(given + 'nfgsm')}"
    if not (root / "explanations").exists():
        return f"Next, explanations: {command} --stage=explain"
    return f"Next, curves and images: tensorboard --logdir {shlex.quote(str(root))}"
