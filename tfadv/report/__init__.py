"""The report of a run: `report`."""

from tfadv.report.page import report

__all__ = ["report"]
