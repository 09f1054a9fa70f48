"""The report's tables as CSV files."""

from __future__ import annotations

import pathlib

from tfadv.report.data import ReportData
from tfadv.report.tables import report_tables


def write(folder: pathlib.Path, data: ReportData) -> None:
    """Writes `<table>.csv` for every table of the report."""
    for name, table in report_tables(data).items():
        (folder / f"{name}.csv").write_text(table.csv(), encoding="utf-8")
