"""What `--require` says of the models of a run, and the attacks that this needs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence

from tfadv import gate, specs
from tfadv.attacks.base import Attack
from tfadv.defenses import DEFENSES
from tfadv.defenses.stored import Rounds
from tfadv.evaluation.records import WORST_CASE, Record
from tfadv.pipeline import extras, steps
from tfadv.pipeline.reporting import attacked_on_disk, input_of, records
from tfadv.pipeline.run import Run
from tfadv.pipeline.steps import Evaluation
from tfadv.pipeline.training import Trained

LOG = logging.getLogger(__name__)
_PORTIONS = (8, 4, 2)  # the divisors of the number of images after which a requirement may be decided
_LEAST = 32  # images; fewer decide little, and each number of images is compiled anew


def judge(run: Run, baseline: Sequence[Record] = ()) -> list[gate.Decision]:
    """Whether the models meet `--require`: those trained by `--defenses` or, where it names none, as they are.

    Writes gate.xml in the work folder, and a table into the summary of a GitHub workflow.

    Args:
      run: settings, work folder and devices.
      baseline: the results to compare with, see `tfadv.pipeline.baseline`.
    """
    decisions = [decision for each in judged(run) for decision in _decisions(run, each, baseline)]
    if not run.workdir.follower:
        (run.workdir.root / "gate.xml").write_text(gate.junit(decisions), encoding="utf-8")
        if os.environ.get("GITHUB_STEP_SUMMARY"):
            with open(os.environ["GITHUB_STEP_SUMMARY"], "a", encoding="utf-8") as summary:
                summary.write(gate.markdown(decisions))
    return decisions


def _decisions(run: Run, trained: Trained, baseline: Sequence[Record]) -> list[gate.Decision]:
    """One for each requirement, from the results of a model that are there."""
    wanted = gate.requirements(run.config.require)
    classes = None
    if any(requirement.of_worst_class for requirement in wanted):
        classes = run.dataset.class_names, run.dataset.images["test"].labels
    with run.cache.looking():
        found = extras.check(run, trained, input_of(run, f"diagnostics/{trained.folder}"))
        suspicious = sum(bool(one.result.upper_bound()) for one in attacked_on_disk(run, trained))
    checks = extras.read_checks(run, found) if found.content is not None else []
    suspicious += sum(one.passed is False for one in checks)
    of_model = records(run, trained)
    return [
        gate.decide(requirement, trained.name, of_model, suspicious, classes=classes, baseline=baseline)
        for requirement in wanted
    ]


def has_failed(run: Run, trained: Trained, baseline: Sequence[Record]) -> bool:
    """Whether every requirement about attacks has failed for a model, so that no further attack changes a verdict.

    A further attack can only lower the worst case, if it is on as many images and in the same norm.  What is compared
    with the worst case of a baseline needs the same attacks as that.
    """
    if trained.name not in {each.name for each in judged(run)}:
        return False
    found = [decision for decision in _decisions(run, trained, baseline) if decision.requirement.attack]
    worst = [decision.requirement for decision in found if decision.requirement.attack == WORST_CASE]
    n, sized = run.dataset.sizes["test"], [attack for attack in run.attacks if attack.has_eps]
    kinds = {(run.config.attacked_images(each.name, n), getattr(each, "norm", "linf")) for each in sized}
    if worst and (len(kinds) > 1 or any(requirement.relative for requirement in worst)):
        return False
    return bool(found) and all(decision.verdict == gate.FAILED for decision in found)


def evaluate_until_decided(run: Run, trained: Trained, attack: Attack) -> Evaluation:
    """An attack on the first images, more and more of them, until `--require` is decided as far as it is about them.

    The intervals of these are wider, so that a verdict is wrong with a probability of at most 5% although there are
    several looks at the images: 2.5% by the confidence sequence of the first ones, and 2.5% by the one side of Wilson's
    interval of all.  Other attacks are on all images at once.
    """
    for n, of in _portions(run, trained, attack):
        evaluation = steps.evaluate_attack(run, trained, attack, n, of=of)
        if _is_decided(run, trained, attack):
            LOG.info(
                "%s: ended after %s of %s images, which decide what --require says of %s; a run without it goes on",
                *(attack.label, f"{n:,}", f"{of:,}", trained.name),
            )
            return evaluation
    return steps.evaluate_attack(run, trained, attack)


def _portions(run: Run, trained: Trained, attack: Attack) -> Iterator[tuple[int, int]]:
    """(how many images, of how many); what the work folder has comes first, if it is of the first images only."""
    if not _wanted(run, attack) or trained.name not in {each.name for each in judged(run)}:
        return
    sizes = run.sizes.get(attack.label, ())
    of = run.config.attacked_images(attack.name, run.dataset.sizes["test"])
    done = steps.on_disk(run, trained, attack, sizes)
    if done and done.of and done.result.n < of:
        yield done.result.n, done.of
    name = steps.folder_of_attack(trained, attack, sizes)
    least = max(_LEAST, done.result.n + 1 if done else 0, run.cache.unfinished(name).get("images", 0))
    if least < of and run.dataset.in_random_order:
        yield from ((of // divisor, of) for divisor in _PORTIONS if of // divisor >= least)


def _wanted(run: Run, attack: Attack) -> list[gate.Requirement]:
    """The requirements that the first images may decide: all are about this attack, on its own, and have a number."""
    found = [each for each in gate.requirements(run.config.require) if each.attack]
    wanted = [each for each in found if gate.is_under(each, attack.label)]
    several = any(each.attack == WORST_CASE for each in found)  # compares attacks image by image
    of_all_images = several or any(each.relative or each.of_worst_class for each in wanted)
    return wanted if wanted and not of_all_images and not attack.joint else []


def _is_decided(run: Run, trained: Trained, attack: Attack) -> bool:
    found = records(run, trained)
    return all(gate.is_decided(requirement, found) for requirement in _wanted(run, attack))


def judged(run: Run) -> list[Trained]:
    """Of each model, those trained by `--defenses` (of rounds the last one), or as it is where no defense is for it."""
    given = (specs.build_with(name, settings, DEFENSES) for name, settings in run.config.defense_specs)
    named = {(each.of_round(each.round or each.number) if isinstance(each, Rounds) else each).label for each in given}
    trained = steps.all_trained(run)
    judged = []
    for model in run.config.models:
        of_model = [each for each in trained if each.model == model]
        judged += [each for each in of_model if each.defense.label in named] or of_model
    return judged
