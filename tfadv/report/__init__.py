"""Reports: functions from results (`ReportData`) to files.  They load no model and run no attack."""

from __future__ import annotations

import pathlib

from tfadv.registry import Registry
from tfadv.report.data import ReportData

# Name → function (folder, data) that writes files into the folder.  A report contains every registered format.
FORMATS = Registry(
    "report format",
    {
        "csv": "tfadv.report.csv_files:write",
        "plots": "tfadv.report.plots:write",
        "markdown": "tfadv.report.markdown:write",
        "html": "tfadv.report.page:write",
        "evidence": "tfadv.report.evidence:write",
        "model_cards": "tfadv.report.model_cards:write",
        "tensorboard": "tfadv.report.tensorboard:write",
        "text": "tfadv.report.summary:write",
    },
)


def write_report(folder: pathlib.Path, data: ReportData) -> None:
    """Writes a report in all registered formats.

    Args:
      folder: an existing folder.
      data: the results.
    """
    for name in FORMATS:
        FORMATS[name](folder, data)
