"""`Cache.cached` builds a folder of results unless the one on the disk was made from the same inputs."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import pathlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any

from tqdm import tqdm

import tfadv
from tfadv.datasets.storage import give_back_memory
from tfadv.errors import UserError
from tfadv.runtime import signals
from tfadv.runtime.compilation import use_xla
from tfadv.runtime.console import duration, progress_disabled, started
from tfadv.store.files import differences, digest, in_brief
from tfadv.store.resume import ResumeLog
from tfadv.store.workdir import MANIFEST, SCRATCH_INPUTS, Workdir

LOG = logging.getLogger(__name__)
_WIDTH = 44  # of a name on the terminal
_SILENCE = 60  # seconds after which a log without a progress bar reports progress
_ESTIMATED_AFTER = 15  # seconds of work from which the time of the rest is estimated
_LONG = 60  # seconds of work left that are worth a line

Build = Callable[[pathlib.Path, dict, ResumeLog | None], str | None]
BuildPart = Callable[[pathlib.Path, Any, Callable[[int], Any], ResumeLog | None], None]
Join = Callable[[pathlib.Path, dict, Sequence[pathlib.Path]], str | None]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A folder of results.

    Attributes:
      name: its path in the work folder.
      content: a hash of what it holds; None where it is missing or out of date, which is seen only while `looking`.
      rebuild: what a user does to build it, for messages.
    """

    name: str
    content: str | None
    rebuild: str = "give the same command again"


class Cache:
    """Builds folders of results in one work folder.

    What a folder was made from is in its manifest: the inputs given here, and the versions of tfadv's results and of
    TensorFlow.  That a change of tfadv's code changes results is told by a test of small runs, not found out here.

    Attributes:
      workdir: the work folder.
      built: names of the folders built so far by this process, parts not counted.
      parts_built: number of the parts built so far.
      seen: name of a folder that was asked for → "done", "missing", "stale" (made from other inputs) or "damaged".
    """

    def __init__(self, workdir: Workdir, shard: tuple[int, int] | None = None, overwrite: bool = False) -> None:
        """Builds nothing.

        Args:
          workdir: the work folder.
          shard: (i, n) to build every n-th part, starting with part i, and nothing else; None builds everything.
          overwrite: whether to replace what is kept otherwise, see `cached`.
        """
        self.workdir, self._shard, self._overwrite = workdir, shard, overwrite
        self.built: list[str] = []
        self.parts_built = 0
        self.seen: dict[str, str] = {}
        self._looks = False
        self._current: dict[str, tuple[str, Entry]] = {}  # name → hash of the inputs, entry
        self._versions = {"results": tfadv.RESULTS, "tensorflow": importlib.metadata.version("tensorflow")}

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Nothing is built for the time of a block: entries that are missing or out of date have no content."""
        before, self._looks = self._looks, True
        try:
            yield
        finally:
            self._looks = before

    def cached(
        self,
        name: str,
        inputs: Callable[[], Mapping[str, Any]],
        build: Build,
        *,
        stage: str = "",
        need: int = 0,
        keep: bool = False,
        renew: bool = False,
    ) -> Entry:
        """The folder of that name, built unless it was made from the same inputs.

        Args:
          name: its path in the work folder.
          inputs: returns what it is made from: JSON values, and entries, whose contents count.
          build: writes the files into a folder; see `Build`: (folder, manifest, log for the state of long work, None on
            a host that is not the chief).  It may set manifest["content"] where a hash of the files is not the best
            name of what they hold, and returns results in a few words for the terminal, or None.
          stage: the stage that a user gives to build it, for messages.
          need: the bytes it takes on the disk, as far as known.
          keep: whether one that was made from other inputs is kept, with an error, unless overwriting was asked for:
            what took long to compute is not lost by a mistyped setting.
          renew: whether to build it, once in this process, even from the same inputs, which do not tell whether what it
            is made from has changed; it gets a content of its own, so that what depends on it is built again.

        Raises:
          UserError: it was made from other inputs and is kept; or it is missing, and this process builds a shard of
            something else.
        """
        entry, made_from = self._find(name, inputs, stage, keep, renew)
        if made_from is None:
            return entry
        if self._shard:
            raise self._missing_for_shard(entry)
        started(name)
        resume = self._resume_log(name, made_from)

        def whole(folder: pathlib.Path, manifest: dict) -> str | None:
            results = build(folder, manifest, resume)
            if renew:
                manifest["content"] = secrets.token_hex(32)
            return results

        return self._create(entry, made_from, whole, need)

    def cached_in_parts(
        self,
        name: str,
        inputs: Callable[[], Mapping[str, Any]],
        pieces: Callable[[], Sequence[Sized]],
        build_part: BuildPart,
        join: Join,
        *,
        stage: str = "",
        need: Callable[[Any], int] = lambda piece: 0,
        is_goal: bool = True,
    ) -> Entry:
        """As `cached`, for what is built part by part, each of which survives an interruption.

        Args:
          name, inputs, stage: as for `cached`.
          pieces: returns what to do, part by part; each piece has a length, in images.
          build_part: writes one part into a folder: (folder, piece, function that is called with numbers of images
            done, log for the state of long work).
          join: writes the whole from the folders of its parts: (folder, manifest, folders of the parts).
          need: returns the bytes of a piece on the disk, as far as known.
          is_goal: whether this is what a process with a shard is there for.

        Returns:
          The entry; without content where this process built its shard of the parts only.
        """
        entry, made_from = self._find(name, inputs, stage)
        if made_from is None:
            if entry.content is not None and not self._looks:
                self.workdir.discard(f"parts/{name}")  # a process that was killed here left them
            return entry
        if self._shard and not is_goal:
            raise self._missing_for_shard(entry)
        todo = pieces()
        started(name)
        of_parts = made_from | {"parts": [len(piece) for piece in todo]}
        folders, seconds, reported, rest = [], 0.0, time.monotonic(), _Rest(name, sum(map(len, todo)))
        with tqdm(total=sum(map(len, todo)), unit="image", desc=name, leave=False, disable=progress_disabled()) as bar:

            def progress(images: int) -> None:
                bar.update(images)
                rest.did(images)

            for number, piece in enumerate(todo):
                if self._shard and number % self._shard[1] != self._shard[0]:
                    bar.update(len(piece))
                    rest.skip(len(piece))
                    continue
                part = f"parts/{name}/{number:05d}"
                folder = self.workdir.part(part, of_parts)
                if folder is None:
                    folder = self._build_part(entry, part, of_parts, piece, build_part, progress, need(piece))
                    if bar.disable and number + 1 < len(todo) and time.monotonic() > reported + _SILENCE:
                        reported = time.monotonic()
                        LOG.info("%s: part %d of %d done, %s", name, number + 1, len(todo), str(rest))
                else:
                    bar.update(len(piece))
                    rest.skip(len(piece))
                folders.append(folder)
                seconds += (self.workdir.manifest(part) or {}).get("seconds", 0)
        if self._shard:
            return entry

        def whole(folder: pathlib.Path, manifest: dict) -> str | None:
            manifest["seconds"] = round(seconds, 1)
            return None if self.workdir.follower else join(folder, manifest, folders)

        entry = self._create(entry, made_from, whole)
        self.workdir.remove(f"parts/{name}")
        return entry

    def unfinished(self, name: str) -> dict[str, Any]:
        """What the parts of an unfinished folder are made from; {} where there are none."""
        for path in sorted((self.workdir.root / "parts" / name).glob("*")):
            with contextlib.suppress(OSError, ValueError, KeyError):  # damaged
                scratch = path / SCRATCH_INPUTS
                if scratch.exists():
                    return json.loads(scratch.read_text(encoding="utf-8"))
                return json.loads((path / MANIFEST).read_text(encoding="utf-8"))["inputs"]
        return {}

    def open(self, entry: Entry) -> pathlib.Path:
        """The folder of an entry, after a check of all its files."""
        if entry.content is None:
            raise self._missing_for_shard(entry)
        return self.workdir.open(entry.name)

    def _find(
        self,
        name: str,
        inputs: Callable[[], Mapping[str, Any]],
        stage: str,
        keep: bool = False,
        renew: bool = False,
    ) -> tuple[Entry, dict[str, Any] | None]:
        """An entry, and what it has to be made from; None where there is nothing to do."""
        rebuild = f"the same command with --stage={stage}" if stage else "give the same command again"
        missing, self.seen[name] = Entry(name, None, rebuild), "damaged"
        try:
            manifest = self.workdir.manifest(name)
            self.seen[name] = "missing" if manifest is None else "stale"
            if self._looks and manifest is None:
                return missing, None
            given = {key: value.content if isinstance(value, Entry) else value for key, value in inputs().items()}
        except UserError:
            if self._looks:  # damaged, or what it is made from is missing
                return missing, None
            raise
        made_from = json.loads(json.dumps({**given, "versions": self._versions}))  # as a manifest has it
        key = digest(made_from)
        if name in self._current and self._current[name][0] == key:
            self.seen[name] = "done"
            return self._current[name][1], None
        if manifest is not None and not renew and self.workdir.is_current(name, made_from):
            entry = dataclasses.replace(missing, content=manifest["content"])
            self._current[name], self.seen[name] = (key, entry), "done"
            return entry, None
        if self._looks:
            return missing, None
        if manifest is not None and keep and not self._overwrite:
            changed = in_brief(differences(manifest["inputs"], made_from))
            raise UserError(
                f"{self.workdir.root / name} was made with other settings or files ({changed}): "
                "give another --workdir, or --overwrite to make it again with these."
            )
        return missing, made_from

    def _missing_for_shard(self, entry: Entry) -> UserError:
        return UserError(
            f"--shard needs {self.workdir.root / entry.name}: build it first, in a call without --shard "
            f"({entry.rebuild})."
        )

    def _resume_log(self, name: str, made_from: Mapping[str, Any]) -> ResumeLog | None:
        if self.workdir.follower:
            return None
        # The state of an attack differs with XLA, though its result does not.
        return ResumeLog(self.workdir.scratch(name, {**made_from, "xla": use_xla()}))

    def _create(
        self, entry: Entry, made_from: dict[str, Any], build: Callable[[pathlib.Path, dict], str | None], need: int = 0
    ) -> Entry:
        with self.workdir.creating(entry.name, made_from, rebuild=entry.rebuild, need=need) as (folder, manifest):
            results = build(folder, manifest)
        self.built.append(entry.name)
        give_back_memory()
        written = self.workdir.manifest(entry.name)
        assert written is not None
        LOG.info("%s", f"{entry.name:{_WIDTH}}  {duration(written['seconds']):>8}  {results or ''}".rstrip())
        signals.stop()
        entry = dataclasses.replace(entry, content=written["content"])
        self._current[entry.name], self.seen[entry.name] = (digest(made_from), entry), "done"
        return entry

    def _build_part(
        self,
        entry: Entry,
        name: str,
        made_from: dict[str, Any],
        piece: Any,
        build_part: BuildPart,
        progress: Callable[[int], Any],
        need: int,
    ) -> pathlib.Path:
        resume = self._resume_log(name, made_from)
        with self.workdir.creating(name, made_from, rebuild=entry.rebuild, need=need) as (aside, _):
            build_part(aside, piece, progress, resume)
        self.parts_built += 1
        return self.workdir.root / name


class _Rest:
    """How long the images that are not done yet will take; a line says so once."""

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
