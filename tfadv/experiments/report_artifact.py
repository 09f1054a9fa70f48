"""The artifact `report`: tables, plots and a page about the results."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from tfadv.choices import COMPARE
from tfadv.evaluation.checks import Check
from tfadv.experiments.graph import Artifact, WholeArtifact
from tfadv.report import FORMATS, write_report
from tfadv.report.data import ReportData, TrainingCost
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
        """The evaluations and the examples."""
        artifacts = [*self._evaluations, self._session.examples]
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
            "results": digest([records, self._transfer_matrix(), checks]),
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
            examples=session.examples.read(),
            training=self._training(),
        )
        write_report(folder, data)

    def _training(self) -> dict[str, TrainingCost]:
        """What the training of each model took."""
        return {f"{trained.model}/{trained.recipe.name}": trained.cost() for trained in self._session.variants}

    def _transfer_matrix(self) -> dict:
        """The rows of the transfer matrix that are up to date."""
        session = self._session
        rows = {t: session.transfer_row(t, self._images(session.transfer_row(t))) for t in session.variants}
        return {
            f"{trained.model}/{trained.recipe.name}": row.read()
            for trained, row in rows.items()
            if self._session.graph.current(row) is not None
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
            f"{trained.model}/{trained.recipe.name}": artifact.checks()
            for trained, artifact in diagnostics.items()
            if self._session.graph.current(artifact) is not None
        }
