"""The artifact `report`: tables, plots and a page about the results."""

from __future__ import annotations

import datetime
import importlib.metadata
import pathlib
import platform
from typing import TYPE_CHECKING, Any

from tfadv import __version__
from tfadv.choices import COMPARE
from tfadv.evaluation.checks import Check
from tfadv.evaluation.guessing import largest_share
from tfadv.experiments.attack_evaluation import AttackEvaluation
from tfadv.experiments.fgsm_evaluation import FgsmEvaluation
from tfadv.experiments.gallery_images import GalleryImages, shown_images
from tfadv.experiments.graph import Artifact, WholeArtifact
from tfadv.report import FORMATS, write_report
from tfadv.report.data import ReportData, Training
from tfadv.report.gallery import Gallery
from tfadv.report.page import templates_hash
from tfadv.store.files import digest

if TYPE_CHECKING:
    from tfadv.experiments.session import Session

BYTES = 2_000_000


class Report(WholeArtifact):
    """The report on the models of `--models`, in all registered formats."""

    rebuild = "the same command with --stage=report"

    @staticmethod
    def name_for(stage: str) -> str:
        """Where the report of a stage is, a path in the work folder."""
        return "comparison" if stage == COMPARE else "report"

    def __init__(self, session: Session, evaluations: list[Artifact]) -> None:
        """`evaluations`: the artifacts that it reports on."""
        self._session, self._evaluations = session, evaluations
        self.name = self.name_for(session.config.stage)

    def inputs(self) -> dict[str, Artifact]:
        """The evaluations and the galleries."""
        artifacts = [*self._evaluations, *map(self._session.gallery, self._session.variants)]
        return {artifact.name: artifact for artifact in artifacts}

    def settings(self) -> dict:
        """What is reported: results of earlier commands as well, where they are up to date."""
        session = self._session
        records = [r.to_dict() for trained in session.variants for r in session.records(trained)]
        checks = {name: [repr(check) for check in own] for name, own in self._checks().items()}
        return {
            "models": list(dict.fromkeys(trained.model for trained in session.variants)),
            "reference": session.experiment.reference,
            "recipes": [repr(recipe) for recipe in session.experiment.recipes],
            "formats": list(FORMATS),
            "templates": templates_hash(),
            "results": digest([records, self._transfer_matrix(), checks]),
            "explanations": [session.graph.current(session.explanation(trained)) for trained in session.variants],
        }

    def code(self) -> tuple:
        """This module, the formats, and the experiment's own tables."""
        experiment = self._session.experiment
        own = [part for part in (experiment.tables, experiment.headline, experiment.published) if part is not None]
        return (type(self).__module__, *FORMATS.values(), *own)

    def bytes_needed(self) -> int:
        """About the size of a report."""
        return BYTES

    def build(self, folder: pathlib.Path, manifest: dict, resume: Any) -> None:
        """Writes all formats."""
        session = self._session
        data = ReportData(
            dataset=session.config.dataset,
            class_names=tuple(session.splits.class_names),
            records=tuple(r for trained in session.variants for r in session.records(trained)),
            experiment=session.experiment,
            transfer_matrix=self._transfer_matrix() or None,
            checks=self._checks(),
            gallery=self._gallery(),
            explanations={
                trained.variant: session.explanation(trained).read()
                for trained in session.variants
                if session.graph.current(session.explanation(trained)) is not None
            },
            training=self._training(),
            provenance=self._provenance(),
            largest_share=largest_share(session.splits.counts["test"]),
            upper_bounds=self._upper_bounds(),
        )
        write_report(folder, data)

    def _upper_bounds(self) -> tuple[str, ...]:
        """See `ReportData.upper_bounds`."""
        attacked = (each for each in self._evaluations if isinstance(each, (FgsmEvaluation, AttackEvaluation)))
        return tuple(each.attacked for each in attacked if each.result().upper_bound())

    def _training(self) -> dict[str, Training]:
        """How each model was trained."""
        return {trained.variant: trained.training() for trained in self._session.variants}

    def _gallery(self) -> Gallery:
        """The attacked images of all models."""
        session = self._session
        images, labels = shown_images(session.splits)
        models = {t.variant: session.gallery(t).read() for t in session.variants}
        return Gallery(GalleryImages.attack.name, tuple(sorted(session.config.epsilons)), images, labels, models)

    def _provenance(self) -> dict[str, str]:
        """What the results were computed with."""
        session = self._session
        workdir = session.workdir
        seconds = sum((workdir.manifest(name) or {}).get("seconds", 0) for name in workdir.names())
        versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")}
        return {
            "command": f"tfadv --flagfile={workdir.root / 'flags.txt'}",
            "flags.txt": session.config.flagfile(),
            "seed": str(session.config.seed),
            "versions": ", ".join(f"{name} {version}" for name, version in {"tfadv": __version__, **versions}.items()),
            "machine": f"{platform.system()} {platform.machine()}, devices: {session.devices.replicas}",
            "date": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC",
            "computing time": str(datetime.timedelta(seconds=round(seconds))),
        }

    def _transfer_matrix(self) -> dict:
        """The rows of the transfer matrix that are up to date."""
        session = self._session
        rows = {t: session.transfer_row(t, self._images(session.transfer_row(t))) for t in session.variants}
        return {
            trained.variant: row.read() for trained, row in rows.items() if self._session.graph.current(row) is not None
        }

    def _images(self, artifact: Artifact) -> int | None:
        """The number of images that an artifact on the disk was built from; None where there is none."""
        manifest = self._session.workdir.manifest(artifact.name)
        return manifest["inputs"]["images"] if manifest else None

    def _checks(self) -> dict[str, list[Check]]:
        """The checks for gradient masking that are up to date."""
        session = self._session
        diagnostics = {t: session.diagnostics(t, self._images(session.diagnostics(t))) for t in session.variants}
        return {
            trained.variant: artifact.checks()
            for trained, artifact in diagnostics.items()
            if self._session.graph.current(artifact) is not None
        }
