"""Making artifacts: only what is missing, in one go or part by part, alone or beside other processes."""

import logging
import time

from tqdm import tqdm

from tfadv.runtime import signals
from tfadv.errors import UserError

LOG = logging.getLogger(__name__)
_SILENCE = 60  # seconds after which a log that has no progress bar says how far it is

# Raised when the code of an artifact changes what it makes: older ones are then made anew.
CODE = {
    "split": 1, "model": 4, "surrogate": 3, "evaluation": 4, "attack": 1, "transfer": 1, "verdict": 1, "report": 4,
}  # fmt: skip


def code(name):
    """int, the version of the code that makes an artifact of that name."""
    return CODE[name.split("/")[0].rstrip("s")]


class Artifacts:
    """What one process makes in a work folder.

    Attributes:
      made: list of str, the names of the artifacts made so far, parts not counted.
      parts_made: int, the number of parts made so far.
    """

    def __init__(self, workdir, share=None):
        """`workdir`: an open `Workdir`; `share`: (i, n) to make each n-th part and nothing else, or None."""
        self._workdir, self._share = workdir, share
        self.made, self.parts_made = [], 0

    def make(self, name, inputs, fill, need=0):
        """Makes an artifact unless it is current.

        Args:
          name: str.
          inputs: dict, JSON, all that it is made from.
          fill: function of (folder, manifest) that writes it.
          need: int, the bytes it will take, as far as that is known.

        Returns:
          str, its content hash.

        Raises:
          UserError: it is missing, and this process makes a share of something else only.
        """
        inputs = inputs | {"code": code(name)}
        if not self._workdir.is_current(name, inputs):
            if self._share:
                raise UserError(f"--shard needs {self._workdir.root / name}: make it first, by a call without --shard.")
            LOG.info("%s …", name)
            self._put(name, inputs, fill, need)
        return self._workdir.manifest(name)["content"]

    def _put(self, name, inputs, fill, need=0):
        with self._workdir.creating(name, inputs, need=need) as (folder, manifest):
            fill(folder, manifest)
        self.made.append(name)
        LOG.info("%s done in %.0f s", name, self._workdir.manifest(name)["seconds"])
        signals.stop()

    def make_in_parts(self, name, inputs, pieces, fill_part, join, need=0):
        """Makes an artifact part by part, each of them kept should the process end; a share of it under `--shard`.

        Args:
          name: str.
          inputs: dict, JSON, all that it is made from.
          pieces: list of what is to be done; each has a length, in images.
          fill_part: function of (folder, piece, progress) that writes a part; it calls
            `progress` with numbers of images done.
          join: function of (folder, manifest, folders of the parts) that writes the artifact.
          need: int, the bytes of a part, as far as that is known.

        Returns:
          str, the content hash of the artifact; None where this process made its share of the parts.
        """
        inputs = inputs | {"code": code(name)}
        if self._workdir.is_current(name, inputs):
            return self._workdir.manifest(name)["content"]
        LOG.info("%s, in %d parts …", name, len(pieces))
        of_parts = inputs | {"parts": len(pieces)}
        folders, seconds, told = [], 0.0, time.monotonic()
        with tqdm(total=sum(map(len, pieces)), unit="image", desc=name, leave=False, disable=None) as bar:
            for number, piece in enumerate(pieces):
                if self._share and number % self._share[1] != self._share[0]:
                    bar.update(len(piece))
                    continue
                part = f"parts/{name}/{number:05d}"
                folder = self._workdir.part(part, of_parts)
                if folder is None:
                    with self._workdir.creating(part, of_parts, need=need) as (aside, _):
                        fill_part(aside, piece, bar.update)
                    self.parts_made += 1
                    folder = self._workdir.root / part
                    if bar.disable and number + 1 < len(pieces) and time.monotonic() > told + _SILENCE:
                        told = time.monotonic()
                        LOG.info("%s: part %d of %d done", name, number + 1, len(pieces))
                else:
                    bar.update(len(piece))
                folders.append(folder)
                seconds += self._workdir.manifest(part)["seconds"]
        if self._share:
            return None

        def fill(folder, manifest):
            if not self._workdir.follower:
                join(folder, manifest, folders)
            manifest["seconds"] = round(seconds, 1)

        self._put(name, inputs, fill)
        self._workdir.remove(f"parts/{name}")
        return self._workdir.manifest(name)["content"]
