"""Decisions as files: a table in Markdown, and JUnit's XML."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from tfadv.gate.decision import FAILED, PASSED, UNDECIDED, Decision


def markdown(decisions: Sequence[Decision]) -> str:
    """A table."""
    rows = [f"| {d.verdict} | {d.model} | `{d.requirement.text}` | {d.reason} |" for d in decisions]
    return "\n".join(["| verdict | model | requirement | measured |", "| --- | --- | --- | --- |", *rows]) + "\n"


def junit(decisions: Sequence[Decision]) -> str:
    """JUnit's XML: what is failed is a failure, what is undecided an error."""
    counts = {verdict: sum(d.verdict == verdict for d in decisions) for verdict in (FAILED, UNDECIDED)}
    attributes = {"failures": str(counts[FAILED]), "errors": str(counts[UNDECIDED]), "tests": str(len(decisions))}
    suite = ElementTree.Element("testsuite", {"name": "tfadv", **attributes})
    for decision in decisions:
        case = ElementTree.SubElement(suite, "testcase", classname=decision.model, name=decision.requirement.text)
        if decision.verdict != PASSED:
            kind = "failure" if decision.verdict == FAILED else "error"
            ElementTree.SubElement(case, kind, message=decision.reason)
        else:
            ElementTree.SubElement(case, "system-out").text = decision.reason
    return ElementTree.tostring(suite, encoding="unicode") + "\n"
