"""The graph of artifacts: asking for one builds what it needs and is missing, and keeps what is up to date.

    DatasetSplits ─▶ TrainedModel ─▶ StoredSamples ─▶ TrainedModel ─▶ evaluations ─▶ Report

The graph knows no artifact by name.  Each artifact names its inputs and its
settings; its code version follows from the modules it uses.
"""

from __future__ import annotations

import abc
import logging
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any

from tqdm import tqdm

from tfadv.datasets.storage import give_back_memory
from tfadv.errors import UserError
from tfadv.runtime import signals
from tfadv.runtime.compilation import use_xla
from tfadv.runtime.console import duration, progress_disabled, started
from tfadv.store.code_version import code_version
from tfadv.store.resume import ResumeLog
from tfadv.store.workdir import Workdir

AFFECTS_RESULTS = False
LOG = logging.getLogger(__name__)
_WIDTH = 44  # of an artifact's name on the terminal
_SILENCE = 60  # seconds after which a log without a progress bar reports progress
_ESTIMATED_AFTER = 15  # seconds of work from which the time of the rest is estimated
_LONG = 60  # seconds of work left that are worth a line


class Artifact(abc.ABC):
    """A folder of results that is built from other artifacts and from settings.

    Attributes:
      name: its path in the work folder.
      rebuild: what a user does to rebuild it, for error messages.
    """

    name: str
    rebuild: str = "give the same command again"

    @abc.abstractmethod
    def inputs(self) -> Mapping[str, Artifact]:
        """The artifacts that it is built from, by role."""

    @abc.abstractmethod
    def settings(self) -> dict:
        """JSON values: everything else that decides what it holds."""

    def code(self) -> Sequence[Any]:
        """Modules, or objects of modules, whose code decides what it holds; imports are followed."""
        return (type(self).__module__,)

    def cleanup(self) -> None:  # noqa: B027  most artifacts have nothing to remove
        """Removes what only served to build it; called whenever it is up to date."""

    def bytes_needed(self) -> int:
        """The bytes it takes on the disk (a part of it, where it is built in parts), as far as known."""
        return 0


class WholeArtifact(Artifact):
    """An artifact that is built in one go."""

    @abc.abstractmethod
    def build(self, folder: pathlib.Path, manifest: dict, resume: ResumeLog | None) -> str | None:
        """Writes the files into a folder.

        Args:
          folder: where to write.
          manifest: its "content" may be set where a hash of the files is not the best name of what they hold.
          resume: for the state of long work; None on a host that is not the chief.

        Returns:
          The results in a few words, for the terminal, if there are any.
        """


class PartedArtifact(Artifact):
    """An artifact that is built part by part, each of which survives an interruption."""

    @abc.abstractmethod
    def pieces(self) -> Sequence[Sized]:
        """What to do, part by part; each piece has a length, in images."""

    @abc.abstractmethod
    def build_part(
        self, folder: pathlib.Path, piece: Any, progress: Callable[[int], Any], resume: ResumeLog | None
    ) -> None:
        """Writes one part into a folder; calls `progress` with numbers of images done."""

    @abc.abstractmethod
    def join(self, folder: pathlib.Path, manifest: dict, parts: Sequence[pathlib.Path]) -> str | None:
        """Writes the artifact from the folders of its parts; returns the same as `WholeArtifact.build`."""


class _Rest:
    """How long the images of an artifact that are not done yet will take; a line says so once."""

    def __init__(self, name: str, images: int) -> None:
        """`images`: how many there are to do."""
        self._name, self._left, self._done, self._said = name, images, 0, False
        self._started = time.monotonic()

    def skip(self, images: int) -> None:
        """Counts images that this process need not do."""
        self._left -= images

    def did(self, images: int) -> None:
        """Counts images that are done."""
        self._left, self._done = self._left - images, self._done + images
        if not self._said and time.monotonic() > self._started + _ESTIMATED_AFTER and self.seconds() > _LONG:
            self._said = True
            LOG.info("%s: %s", self._name, str(self))

    def seconds(self) -> float:
        """The estimate."""
        return (time.monotonic() - self._started) / max(1, self._done) * self._left

    def __str__(self) -> str:
        return f"about {duration(self.seconds())} left"


def _in_order(artifact: Artifact) -> list[tuple[Artifact, dict[str, str]]]:
    """An artifact and all that it needs, each once and after its own inputs, which are given as role → name.

    Without recursion: hundreds of rounds of training start from each other.
    """
    ordered: dict[str, tuple[Artifact, dict[str, str]]] = {}
    stack: list[tuple[Artifact, dict[str, str] | None]] = [(artifact, None)]
    while stack:
        needed, input_names = stack.pop()
        if needed.name in ordered:
            continue
        if input_names is not None:
            ordered[needed.name] = needed, input_names
            continue
        sources = needed.inputs()
        stack.append((needed, {role: source.name for role, source in sources.items()}))
        stack += [(source, None) for source in reversed(list(sources.values()))]
    return list(ordered.values())


class Graph:
    """Builds artifacts in one work folder.

    Attributes:
      built: names of the artifacts built so far by this process, parts not counted.
      parts_built: number of the parts built so far.
    """

    def __init__(self, workdir: Workdir, shard: tuple[int, int] | None = None) -> None:
        """`shard`: (i, n) to build every n-th part, starting with part i, and nothing else; None builds everything."""
        self.workdir, self._shard = workdir, shard
        self.built: list[str] = []
        self.parts_built = 0
        self._codes: dict[tuple, str] = {}

    def ensure(self, artifact: Artifact) -> str | None:
        """Builds an artifact, and first its inputs, unless it is up to date.

        Returns:
          Its content hash; None where this process built its shard of the parts.

        Raises:
          UserError: it is missing, and this process builds a shard of something else only.
        """
        contents: dict[str, str | None] = {}
        for needed, input_names in _in_order(artifact):
            fingerprint = self._fingerprint(needed, {role: contents[name] for role, name in input_names.items()})
            if not self.workdir.is_current(needed.name, fingerprint):
                if self._shard and (needed is not artifact or not isinstance(artifact, PartedArtifact)):
                    raise self._missing_for_shard(needed)
                if isinstance(needed, PartedArtifact):
                    if not self._ensure_parts(needed, fingerprint):
                        return None
                else:
                    started(needed.name)
                    self._create_whole(needed, fingerprint)
            needed.cleanup()
            manifest = self.workdir.manifest(needed.name)
            assert manifest is not None
            contents[needed.name] = manifest["content"]
        return contents[artifact.name]

    def _missing_for_shard(self, artifact: Artifact) -> UserError:
        return UserError(
            f"--shard needs {self.workdir.root / artifact.name}: build it first, in a call without --shard "
            f"({artifact.rebuild})."
        )

    def open(self, artifact: Artifact) -> pathlib.Path:
        """The folder of an artifact, built where necessary, after a check of all its files."""
        if self.ensure(artifact) is None:
            raise self._missing_for_shard(artifact)
        return self.workdir.open(artifact.name)

    def current(self, artifact: Artifact) -> str | None:
        """The content hash of an artifact that is up to date; else None, and nothing is built."""
        if self.workdir.manifest(artifact.name) is None:
            return None
        contents: dict[str, str | None] = {}
        for needed, input_names in _in_order(artifact):
            fingerprint = self._fingerprint(needed, {role: contents[name] for role, name in input_names.items()})
            manifest = self.workdir.manifest(needed.name)
            is_current = manifest is not None and self.workdir.is_current(needed.name, fingerprint)
            contents[needed.name] = manifest["content"] if manifest and is_current else None
        return contents[artifact.name]

    def _fingerprint(self, artifact: Artifact, inputs: Mapping[str, str | None]) -> dict:
        roots = tuple(artifact.code())
        if roots not in self._codes:
            self._codes[roots] = code_version(*roots)
        return {**artifact.settings(), **inputs, "code": self._codes[roots]}

    def _resume_log(self, name: str, fingerprint: dict) -> ResumeLog | None:
        if self.workdir.follower:
            return None
        # The state of an attack differs with XLA, though its result does not.
        return ResumeLog(self.workdir.scratch(name, fingerprint | {"xla": use_xla()}))

    def _create_whole(self, artifact: Artifact, fingerprint: dict) -> None:
        assert isinstance(artifact, WholeArtifact)
        resume = self._resume_log(artifact.name, fingerprint)
        self._create(artifact, fingerprint, lambda folder, manifest: artifact.build(folder, manifest, resume))

    def _create(self, artifact: Artifact, fingerprint: dict, build: Callable[[pathlib.Path, dict], str | None]) -> None:
        with self.workdir.creating(
            artifact.name, fingerprint, rebuild=artifact.rebuild, need=artifact.bytes_needed()
        ) as (folder, manifest):
            results = build(folder, manifest)
        self.built.append(artifact.name)
        give_back_memory()
        seconds = (self.workdir.manifest(artifact.name) or {}).get("seconds", 0)
        LOG.info("%s", f"{artifact.name:{_WIDTH}}  {duration(seconds):>8}  {results or ''}".rstrip())
        signals.stop()

    def _ensure_parts(self, artifact: PartedArtifact, fingerprint: dict) -> bool:
        """Builds the missing parts and joins them; False where this process built its shard of them only."""
        pieces = artifact.pieces()
        started(artifact.name)
        of_parts = fingerprint | {"parts": len(pieces)}
        folders, seconds, reported, rest = [], 0.0, time.monotonic(), _Rest(artifact.name, sum(map(len, pieces)))
        with tqdm(
            total=sum(map(len, pieces)), unit="image", desc=artifact.name, leave=False, disable=progress_disabled()
        ) as bar:

            def progress(images: int) -> None:
                bar.update(images)
                rest.did(images)

            for number, piece in enumerate(pieces):
                if self._shard and number % self._shard[1] != self._shard[0]:
                    bar.update(len(piece))
                    rest.skip(len(piece))
                    continue
                name = f"parts/{artifact.name}/{number:05d}"
                folder = self.workdir.part(name, of_parts)
                if folder is None:
                    folder = self._build_part(artifact, name, of_parts, piece, progress)
                    if bar.disable and number + 1 < len(pieces) and time.monotonic() > reported + _SILENCE:
                        reported = time.monotonic()
                        LOG.info("%s: part %d of %d done, %s", artifact.name, number + 1, len(pieces), str(rest))
                else:
                    bar.update(len(piece))
                    rest.skip(len(piece))
                folders.append(folder)
                seconds += (self.workdir.manifest(name) or {}).get("seconds", 0)
        if self._shard:
            return False

        def join(folder: pathlib.Path, manifest: dict) -> str | None:
            manifest["seconds"] = round(seconds, 1)
            return None if self.workdir.follower else artifact.join(folder, manifest, folders)

        self._create(artifact, fingerprint, join)
        self.workdir.remove(f"parts/{artifact.name}")
        return True

    def _build_part(
        self, artifact: PartedArtifact, name: str, fingerprint: dict, piece: Any, progress: Callable[[int], Any]
    ) -> pathlib.Path:
        resume = self._resume_log(name, fingerprint)
        with self.workdir.creating(name, fingerprint, rebuild=artifact.rebuild, need=artifact.bytes_needed()) as (
            aside,
            _,
        ):
            artifact.build_part(aside, piece, progress, resume)
        self.parts_built += 1
        return self.workdir.root / name
