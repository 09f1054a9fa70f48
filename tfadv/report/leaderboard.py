"""One table of the models of several runs, a line per model, the most robust first.

    python -m tfadv.report.leaderboard runs/a runs/b     # writes leaderboard.html

It reads results.json, and what it finds beside it: how the models were trained, and the checks for gradient masking.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import markupsafe

from tfadv.errors import UserError
from tfadv.evaluation.guessing import hardly_better_than_guessing
from tfadv.evaluation.records import WORST_CASE, Record, is_full_autoattack
from tfadv.report.data import NORMS, ONE_STEP, Training, dataset_name, with_earlier_rounds
from tfadv.report.page import environment, template
from tfadv.report.table import Cell, Table, short

HEAD = (
    *("place", "data set", "network", "defense", "eps", "clean", "FGSM", "PGD-20", "AutoAttack", "strongest attack"),
    *("images", "gradients, 1000s", "minutes", "checks", "run"),
)
ORDER = (
    "Places count among the models with the same data set, norm and eps. An attack shows that a model is at most this "
    "robust, and a weak attack shows little. So the models under AutoAttack come first, then those under another "
    "attack of several steps; both groups are ordered by the accuracy under the strongest attack. Without a place, and "
    "last, are models that were attacked by FGSM only, that fail a check for gradient masking, or that hardly do "
    "better on clean images than always answering one class. Attacks that ended early, because --require was decided, "
    "are left out: their number of images depends on the result."
)
_ROUND = re.compile(r"\bround=(\d+)")  # in the label of a defense


@dataclasses.dataclass(frozen=True)
class Run:
    """The results of a run.

    Attributes:
      name: of its folder.
      records: the entries of results.json.
      training: "model/defense" → how it was trained; a round with the cost of all rounds before.
      checks: "model/defense" → the checks for gradient masking as evidence.json has them; none where they were not run.
      largest_share: share of the largest class among the test images; 0 where it is not known.
    """

    name: str
    records: tuple[Record, ...]
    training: Mapping[str, Training]
    checks: Mapping[str, Sequence[Mapping[str, Any]]]
    largest_share: float = 0.0


@dataclasses.dataclass(frozen=True)
class Line:
    """A model under perturbations of one norm.

    Attributes:
      run: that it is of.
      clean: its record on clean images.
      norm: of the perturbations, such as "linf".
      eps: their size.
      attacked: its records under attacks of this norm and size.
    """

    run: Run
    clean: Record
    norm: str
    eps: float
    attacked: tuple[Record, ...]

    @property
    def name(self) -> str:
        """ "model/defense"."""
        return f"{self.clean.model}/{self.clean.defense}"

    @property
    def threat(self) -> tuple[str, int, float]:
        """What makes lines comparable, as a key to sort by: the data set, the norm and eps."""
        return self.clean.dataset, list(NORMS).index(self.norm), self.eps

    @property
    def fgsm(self) -> Record | None:
        """Under FGSM on all test images."""
        return next((r for r in self.attacked if r.attack == "fgsm" and r.settings is None), None)

    @property
    def pgd(self) -> Record | None:
        """Under PGD with 20 steps."""
        return next((r for r in self.attacked if r.attack == "pgd" and (r.settings or {}).get("steps") == 20), None)

    @property
    def autoattack(self) -> Record | None:
        """Under AutoAttack with at least its default settings."""
        return next((r for r in self.attacked if is_full_autoattack(r.attack, r.settings)), None)

    @property
    def strongest(self) -> Record:
        """AutoAttack; else the attack of several steps that left the least accuracy; else FGSM."""
        several = [record for record in self.attacked if record.attack not in ONE_STEP]
        return self.autoattack or min(several or [self.fgsm or self.attacked[0]], key=lambda record: record.accuracy)

    @property
    def doubt(self) -> str:
        """Why its accuracy under attack says little, or ""."""
        if hardly_better_than_guessing(self.clean.accuracy, self.run.largest_share):
            return "hardly better than guessing"
        failed = [check["check"] for check in self.run.checks.get(self.name, ()) if check["answer"] == "suspicious"]
        return f"suspicious: {', '.join(failed)}" if failed else ""

    @property
    def rank(self) -> tuple[int, float]:
        """A key to sort lines of one threat by: the group of `ORDER`, 2 and 3 without a place; minus the accuracy."""
        group = 3 if self.doubt else 0 if self.autoattack else 2 if self.strongest.attack in ONE_STEP else 1
        return group, -self.strongest.accuracy

    def cells(self, place: int) -> dict[str, str]:
        """The text of each column of `HEAD`; place 0 is none."""
        training, strongest = self.run.training.get(self.name), self.strongest
        shown = (self.clean, self.fgsm, self.pgd, self.autoattack)
        label = "FGSM only" if strongest is self.fgsm else short(strongest.attack_label)
        values = (
            *(str(place or "–"), dataset_name(self.clean.dataset), self.clean.model, short(self.clean.defense)),
            f"{NORMS[self.norm]} {self.eps:.3g}",
            *map(percent, shown),
            label if any(strongest is each for each in shown) else f"{label} {percent(strongest)}",
            " / ".join(f"{n:,}" for n in dict.fromkeys((self.clean.n, strongest.n))),
            *((f"{training.gradients / 1000:,.0f}", f"{training.seconds / 60:.1f}") if training else ("–", "–")),
            self.doubt or self._passed(),
            self.run.name,
        )
        return dict(zip(HEAD, values, strict=True))

    def _passed(self) -> str:
        answers = [check["answer"] for check in self.run.checks.get(self.name, ())]
        return f"{answers.count('passed')} of {len(answers)} passed" if answers else "–"


def lines(run: Run) -> Iterator[Line]:
    """The models of a run, each at the largest eps of each norm; of several rounds the last one."""
    attacked = [
        record
        for record in run.records
        if record.protocol == "whitebox" and record.eps is not None and record.attack != WORST_CASE and not record.of
    ]
    of_fgsm = {record.eps for record in attacked if record.settings is None}
    sizes: dict[str, float] = {}
    for record in attacked:
        if record.norm != "linf" or not of_fgsm or record.eps in of_fgsm:  # else a size of one attack only
            sizes[record.norm] = max(record.eps or 0.0, sizes.get(record.norm, 0.0))
    for clean in last_rounds(record for record in run.records if record.protocol == "clean"):
        for norm, eps in sizes.items():
            wanted = (clean.model, clean.defense, norm, eps)
            own = tuple(r for r in attacked if (r.model, r.defense, r.norm, r.eps) == wanted)
            if own:
                yield Line(run, clean, norm, eps, own)


def last_rounds(records: Iterable[Record]) -> list[Record]:
    """The records of all models, of which only the last of several rounds."""
    return list({(record.model, _ROUND.sub("round", record.defense)): record for record in records}.values())


def leaderboard(runs: Iterable[Run]) -> list[dict[str, str]]:
    """Dicts from the columns of `HEAD` to texts, a line per model and norm, in `ORDER`; equal ranks share a place."""
    found = sorted((line for run in runs for line in lines(run)), key=lambda line: (line.threat, line.rank))
    rows = []
    for _, group in itertools.groupby(found, key=lambda line: line.threat):
        ranks: list[tuple[int, float]] = []
        for line in group:
            ranks.append(line.rank)
            rows.append(line.cells(ranks.index(line.rank) + 1 if line.rank[0] < 2 else 0))
    return rows


def percent(record: Record | None) -> str:
    """An accuracy in percent with the larger side of its interval, such as "33.4 ± 2.1"."""
    if record is None:
        return "–"
    low, high = record.interval
    return f"{100 * record.accuracy:.1f} ± {100 * max(record.accuracy - low, high - record.accuracy):.1f}"


# ---- from the disk ------------------------------------------------------------------------------------------------


def read(folder: pathlib.Path) -> Run:
    """The run in a work folder, or in a folder of `results/`.

    Raises:
      UserError: it has no results.json, or files of another version.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise UserError(f"{folder} has no results.json: run tfadv with --stage=report first.")
    try:
        records = tuple(map(Record.from_dict, _json(path)))
        return Run(folder.resolve().name, records, training_of(folder), *checks_of(folder, records))
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(f"{folder} can't be read as a run of this version of tfadv ({type(error).__name__}: {error}).")


def training_of(folder: pathlib.Path) -> dict[str, Training]:
    """ "model/defense" → how it was trained, from training.json or from the models of a work folder."""
    if (folder / "training.json").is_file():
        return {name: Training(**fields) for name, fields in _json(folder / "training.json").items()}
    found = {}
    for path in sorted(folder.glob("models/*/*/history.json")):
        history, manifest = (_json(path.parent / name) for name in ("history.json", "manifest.json"))
        found[f"{manifest['model']}/{manifest['defense']}"] = Training.from_files(history, manifest)
    rounds = {name: _rounds(name) for name in found}
    return {
        name: with_earlier_rounds([found[each] for each in own])
        for name, own in rounds.items()
        if found.keys() >= {*own}
    }


def _rounds(name: str) -> list[str]:
    """The names of all rounds up to that of a model, "model/defense"; its own name where it is none."""
    found = _ROUND.search(name)
    return [_ROUND.sub(f"round={number}", name) for number in range(1, int(found[1]) + 1)] if found else [name]


def checks_of(folder: pathlib.Path, records: Sequence[Record]) -> tuple[dict[str, list[dict[str, Any]]], float]:
    """(`Run.checks`, `Run.largest_share`) from checks.json, or from the evidence of the reports of a work folder.

    A report that is older than a model, whose accuracy it then does not have, says nothing about it.
    """
    if (folder / "checks.json").is_file():
        return _json(folder / "checks.json"), 0.0
    clean = {f"{record.model}/{record.defense}": record for record in records if record.protocol == "clean"}
    checks, share = {}, 0.0
    for path in (folder / "comparison/evidence.json", folder / "report/evidence.json"):
        for name, model in (_json(path)["models"] if path.is_file() else {}).items():
            of_clean = [result for result in model["results"] if result["protocol"] == "clean"]
            if name in clean and [(r["correct"], r["n"]) for r in of_clean] == [(clean[name].correct, clean[name].n)]:
                checks[name] = model["gradient_masking"]
                share = max((own["n"] / clean[name].n for own in of_clean[0].get("classes", ())), default=share)
    return checks, share


def _json(path: pathlib.Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# ---- the page -----------------------------------------------------------------------------------------------------


def write(folders: Sequence[pathlib.Path], path: pathlib.Path) -> None:
    """Writes a page that needs no network, with links to the report of each run, or to its results.json.

    Raises:
      UserError: a folder is no run, or no model of any was attacked.
    """
    runs, links = [], {}
    for folder in dict.fromkeys(folders):
        run = dataclasses.replace(read(folder), name=folder.as_posix())  # folders of two runs may have the same name
        runs.append(run)
        pages = [folder / "report/report.html", folder / "comparison/report.html", folder / "results.json"]
        target = next(page for page in pages if page.is_file())
        href = pathlib.PurePath(os.path.relpath(target, path.parent)).as_posix()
        links[run.name] = markupsafe.Markup('<a href="{}">{}</a>').format(href, run.name)
    rows: list[tuple[Cell, ...]] = [tuple((row | {"run": links[row["run"]]}).values()) for row in leaderboard(runs)]
    if not rows:
        raise UserError(f"{', '.join(links)}: no model has a result under attack; run tfadv with --stage=report first.")
    page = environment().get_template("leaderboard.html")
    text = page.render(
        models=Table("Accuracy in %, ± the larger side of its 95% interval", HEAD, rows),
        order=ORDER,
        style=markupsafe.Markup(template("style.css")),
        script=markupsafe.Markup(template("table.js")),
    )
    path.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    """Writes leaderboard.html about the folders that are named."""
    if not arguments or arguments[0].startswith("-"):
        raise SystemExit("Usage: python -m tfadv.report.leaderboard FOLDER …, such as runs/cifar10")
    path = pathlib.Path("leaderboard.html")
    try:
        write(list(map(pathlib.Path, arguments)), path)
    except UserError as error:
        raise SystemExit(f"tfadv: {error}")
    print(path.resolve())


if __name__ == "__main__":
    main(sys.argv[1:])
