"""results.json and the report: what a run has found so far."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import math
import pathlib
import platform
from collections.abc import Iterator, Sequence
from typing import Any

from tfadv import __version__, attacks, paper, specs
from tfadv.attacks.base import Attack
from tfadv.datasets.splits import SPLITS
from tfadv.defenses import DEFENSES
from tfadv.defenses.base import Defense
from tfadv.errors import UserError
from tfadv.evaluation.guessing import largest_share
from tfadv.evaluation.records import (
    Record,
    attack_records,
    fgsm_records,
    of_first_images,
    set_records,
    worst_case_records,
)
from tfadv.evaluation.result import worst_case
from tfadv.models import MODELS
from tfadv.pipeline import extras, steps
from tfadv.pipeline.cached import Entry
from tfadv.pipeline.run import Run
from tfadv.pipeline.steps import Evaluation
from tfadv.pipeline.training import Trained, training_of
from tfadv.report import FORMATS, write_report
from tfadv.report.comparison import fgsm_tables
from tfadv.report.data import Origin, ReportData
from tfadv.report.gallery import Gallery
from tfadv.report.page import templates_hash
from tfadv.store.files import digest, write_json
from tfadv.store.workdir import versions

_REPORT_BYTES = 2_000_000


def publish(run: Run) -> None:
    """Writes results.json with the results that are up to date of this run's models and of tfadv's own networks."""
    if run.workdir.follower or run.config.shard:  # one process writes
        return
    with run.cache.looking():
        entries = [record for trained in _on_disk(run) for record in records(run, trained)]
    path = run.workdir.root / "results.json"
    if entries or path.exists():
        write_json(path, [record.to_dict() for record in entries])


def _on_disk(run: Run) -> Iterator[Trained]:
    """The models of the work folder, those of this run first; each by its defenses in the order of the table."""
    names = dict.fromkeys((*run.config.models, run.config.surrogate, *MODELS))
    for model in names:
        label = run.network(model).label
        if not (run.workdir.root / "models" / specs.folder_name(label)).is_dir():
            continue
        for defense in _defenses_on_disk(run, label):
            with contextlib.suppress(UserError):  # damaged
                trained = steps.train(run, model, defense)
                if trained.entry.content is not None:
                    yield trained


def _defenses_on_disk(run: Run, label: str) -> list[Defense]:
    """The defenses that a model of the work folder was trained by, in the order of the table."""
    found = []
    for path in sorted((run.workdir.root / "models" / specs.folder_name(label)).glob("[!.]*")):
        with contextlib.suppress(KeyError, ValueError, UserError):  # damaged, or of a plugin that is not loaded
            manifest = run.workdir.manifest(path.relative_to(run.workdir.root).as_posix()) or {}
            ((name, settings),) = specs.split_specs(manifest["defense"], DEFENSES)
            found.append(specs.build_with(name, settings, DEFENSES))
    order = list(DEFENSES)
    return sorted(found, key=lambda each: (order.index(each.name), getattr(each, "round", 0), each.label))


def records(run: Run, trained: Trained) -> list[Record]:
    """The results of one model that are up to date; empty where it was not evaluated."""
    with run.cache.looking():
        fgsm = steps.evaluate_fgsm(run, trained)
        if fgsm.entry.content is None:
            return []
        others = list(attacked_on_disk(run, trained))
    model, epsilons = steps.model_id(run, trained), run.config.epsilons
    result, stored, source = fgsm.result, None, None
    if run.stores_images:
        stored, source = fgsm.transfer.robust, steps.surrogate(run).name
    found = fgsm_records(model, epsilons, result.clean_correct, result.robust, stored, source)
    measured: set[tuple[str, float | None]] = set()  # an attack and a size have one accuracy, the first
    for each in others:
        own, cost = each.result, each.result.cost.to_dict()
        sizes = each.sizes or epsilons if each.attack.has_eps else (None,)
        if own.sets:
            found += set_records(model, own.sets, own.robust, own.attack or "", own.settings["constants"])
        else:
            names = own.attack or "", own.settings, cost, each.attack.label
            new = [i for i, size in enumerate(sizes) if (each.attack.label, size) not in measured]
            measured |= {(each.attack.label, size) for size in sizes}
            attacked = attack_records(model, [sizes[i] for i in new], own.robust[new], *names, own.distances)
            found += [of_first_images(record, each.of) for record in attacked]
    joined = _joined(run, others)
    if not joined:
        return found
    n = min(each.result.n for each in joined)
    worst = worst_case([each.first(n) for each in (result, *(each.result for each in joined))])
    labels = dict.fromkeys(["fgsm", *(each.attack.label for each in joined)])
    worst_cases = worst_case_records(model, epsilons, worst.robust, list(labels))
    return found + [of_first_images(record, joined[0].of) for record in worst_cases]


def _joined(run: Run, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """The attacks that the worst case is over, beside FGSM: in L∞, at the sizes of `--epsilons`.

    It is over the first images, which all attacks that the run asks for have in common; attacks of earlier runs join
    them where they are on as many.  Where the run asks for none, it is over the attacks on the most images.  There is
    no worst case of attacks that ended early after different numbers of images.
    """
    sized = [each for each in evaluations if each.attack.has_eps and not each.sizes]
    sized = [each for each in sized if each.result.settings.get("norm", "linf") == "linf"]
    asked = {attack.label for attack in run.attacks}
    own = [each for each in sized if each.attack.label in asked] or sorted(sized, key=lambda each: -each.result.n)[:1]
    if len({(each.result.n, each.of) if each.of else None for each in own}) != 1:
        return []
    n, of = min(each.result.n for each in own), own[0].of
    return [each for each in sized if each.result.n >= n and each.of == of]


def attacked_on_disk(run: Run, trained: Trained) -> Iterator[Evaluation]:
    """The evaluations on the disk that are up to date, in the order of the table of attacks.

    Where an attack was evaluated at other sizes as well, what this run asks for comes first, then that on most images.
    """
    order, found = list(attacks.ATTACKS), []
    for path in (run.workdir.root / "attacks" / trained.folder).glob("[!.]*"):
        with contextlib.suppress(KeyError, UserError):  # damaged, or of a plugin that is not loaded
            inputs = (run.workdir.manifest(path.relative_to(run.workdir.root).as_posix()) or {})["inputs"]
            attack = attacks.parse(inputs["attack"])
            sizes = tuple(inputs["epsilons"]) if inputs.get("own_sizes") else ()
            others = sizes != run.sizes.get(attack.label, ())
            found.append((order.index(attack.name), attack.label, others, -inputs["images"], sizes, attack))
    for _, _, _, _, sizes, attack in sorted(found, key=lambda each: each[:5]):
        evaluation = steps.on_disk(run, trained, attack, sizes)
        if evaluation:
            yield evaluation


def folder_of_report(run: Run) -> str:
    """Where the report of a stage is, a path in the work folder."""
    return "comparison" if run.compares else "report"


def report(run: Run, evaluations: Sequence[Evaluation], further: Sequence[Entry] = ()) -> Entry:
    """Tables, plots and a page about the models of `--models`, in all registered formats.

    Args:
      run: settings, work folder and devices.
      evaluations: what it reports on.
      further: entries that it reports on as well.
    """
    trained = steps.all_trained(run)
    pictures = [extras.picture(run, each) for each in trained]

    @functools.cache
    def data() -> ReportData:
        return _data(run, trained, evaluations)

    def inputs() -> dict:
        found = data()
        return {
            **{each.entry.name: each.entry for each in evaluations},
            **{entry.name: entry for entry in (*further, *pictures)},
            "models": {each.name: _hashes(run, each) for each in trained},
            "first": found.first,
            "defenses": [repr(defense) for defense in found.known_defenses],
            "formats": list(FORMATS),
            "templates": templates_hash(),
            "tfadv": __version__,
            "results": digest([[record.to_dict() for record in found.records], found.transfer_matrix or {}]),
            "checks": {name: [repr(each) for each in checks] for name, checks in found.checks.items()},
            "explanations": sorted(found.explanations),
            "certificates": {name: each.summary() for name, each in found.certificates.items()},
        }

    def build(folder: pathlib.Path, manifest: dict, resume: object) -> None:
        images, labels = extras.pictured(run)
        shown = {each.name: extras.read_picture(run, entry) for each, entry in zip(trained, pictures)}
        gallery = Gallery("fgsm", tuple(sorted(run.config.epsilons)), images, labels, shown)
        write_report(folder, dataclasses.replace(data(), gallery=gallery, origin=_origin(run, trained, evaluations)))

    return run.cache.cached(
        folder_of_report(run),
        inputs,
        build,
        stage="report",
        need=_REPORT_BYTES,
    )


def _data(run: Run, trained: Sequence[Trained], evaluations: Sequence[Evaluation]) -> ReportData:
    """What is reported, without pictures: results of earlier commands as well, where they are up to date."""
    transfers, checks, explanations, certificates = {}, {}, {}, {}
    with run.cache.looking():
        for each in trained:
            name = f"transfers/{each.folder}"
            row = extras.transfer(run, each, trained, input_of(run, name), _others(run, name))
            if row.content is not None:
                transfers[each.name] = extras.read_transfer(run, row)
            found = extras.check(run, each, input_of(run, f"diagnostics/{each.folder}"))
            if found.content is not None:
                checks[each.name] = extras.read_checks(run, found)
            explanation = extras.explain(run, each)
            if explanation.content is not None:
                explanations[each.name] = extras.read_explanation(run, explanation)
            name = f"certificates/{each.folder}"
            certificate = extras.certify(run, each, *(input_of(run, name, key) for key in ("images", "copies")))
            if certificate.content is not None:
                certificates[each.name] = extras.read_certificate(run, certificate)
    first = run.first(run.config.models[0])
    tables = fgsm_tables if run.compares else paper.paper_tables if first.name == "baseline" else None
    return ReportData(
        dataset=run.config.dataset,
        class_names=tuple(run.dataset.class_names),
        records=tuple(record for each in trained for record in records(run, each)),
        known_defenses=tuple({each.defense.label: each.defense for each in trained}.values()),
        first=first.label,
        published=paper if first.name == "baseline" and not run.compares else None,
        tables=tables,
        headline=paper.paper_headline if tables is paper.paper_tables else None,
        transfer_matrix=transfers or None,
        checks=checks,
        explanations=explanations,
        certificates=certificates,
        training={each.name: training_of(run, each) for each in trained},
        provenance=_provenance(run),
        largest_share=largest_share(run.dataset.counts[SPLITS[-1]]),
        upper_bounds=tuple(each.name for each in evaluations if each.result.upper_bound()),
    )


def _origin(run: Run, trained: Sequence[Trained], evaluations: Sequence[Evaluation]) -> Origin:
    """The images and the models that the results are of."""
    config, dataset = run.config, run.dataset
    how = "its own test split" if config.split == "official" else f"20% of each class, drawn with seed {config.seed}"
    n, of = dataset.sizes["test"], dataset.record["images"]
    shares = {each.name: each.result.fooled_after_rounding for each in evaluations}
    return Origin(
        labels=dataset.images["test"].labels,
        chosen=f"{n:,} of {of:,} images of {dataset.record['dataset']}, {how}. Attacks take the first n of them.",
        hashes={"images": dataset.record["images_sha256"], "split": str(dataset.entry.content)},
        models={each.name: _hashes(run, each) for each in trained},
        access={each.name: each.network.access for each in trained if each.network.access},
        rounding={
            name: [None if math.isnan(share) else round(share, 4) for share in found]
            for name, found in shares.items()
            if found is not None
        },
        versions=versions(),
    )


def _hashes(run: Run, trained: Trained) -> dict[str, Any]:
    """What the network is, as the user gave it, and the SHA-256 of the trained model."""
    files = (run.workdir.manifest(trained.entry.name) or {}).get("files", {})
    network = trained.network.inputs()["network"]
    given = dict(network) if isinstance(network, dict) else {"network": network}
    of_twin = {f"twin, {key}": value for key, value in given.pop("twin", {}).items()}
    own = {key: entry["sha256"] for key, entry in files.items() if key == "model.keras"}
    return {**given, **of_twin, "network and weights": trained.entry.content, **own}


def input_of(run: Run, name: str, key: str = "images") -> int:
    """A number that an entry on the disk was made from, such as that of its images; 0 where there is none."""
    manifest = run.workdir.manifest(name)
    return manifest["inputs"][key] if manifest else 0


def _others(run: Run, name: str) -> list[Attack]:
    """The attacks beside PGD of a row of the transfer matrix on the disk."""
    manifest = run.workdir.manifest(name) or {"inputs": {}}
    with contextlib.suppress(UserError):  # of a version with other settings
        return [attacks.parse(label) for label in manifest["inputs"].get("others", ())]
    return []


def _provenance(run: Run) -> dict[str, str]:
    """What the results were computed with."""
    workdir = run.workdir
    seconds = sum((workdir.manifest(name) or {}).get("seconds", 0) for name in workdir.names())
    return {
        "command": f"tfadv --flagfile={workdir.root / 'flags.txt'}",
        "flags.txt": run.config.flagfile(),
        "seed": str(run.config.seed),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items() if version),
        "machine": f"{platform.system()} {platform.machine()}, devices: {run.devices.replicas}",
        "date": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC",
        "computing time": str(datetime.timedelta(seconds=round(seconds))),
    }


def read_summary(run: Run) -> tuple[str, pathlib.Path]:
    """(the results in a few lines, where the page is) of the report on the disk."""
    folder = run.workdir.open(folder_of_report(run))
    return (folder / "summary.txt").read_text(encoding="utf-8"), folder / "report.html"
