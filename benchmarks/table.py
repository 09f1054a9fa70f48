"""Rows of a benchmark as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def line(row: dict[str, Any]) -> str:
    """A row for the console."""
    what = " ".join(str(row[k]) for k in ("work", "model", "size", "library"))
    return f"{what}: {_value(row)}" + (f" ({row['remark']})" if row.get("remark") else "")


def _value(row: dict[str, Any]) -> str:
    if "ratio" in row:
        goal = f", goal {row['goal']}" if row.get("goal") else ""
        return f"{row['ratio']:.2f} × {row['against']}{goal}"
    if "images_per_second" in row:
        return f"{row['images_per_second']:,.0f} images/s ({row['from']:,.0f}–{row['to']:,.0f})"
    if "seconds" in row:
        return f"{row['seconds']:.1f} s"
    if "bytes" in row:
        return f"{row['bytes']:,.0f} B" if row["bytes"] < 1e6 else f"{row['bytes'] / 2**30:.2f} GiB"
    return "—"


def markdown(result: dict[str, Any]) -> str:
    """A `results.json` as Markdown: the ratios first, then every measurement."""
    machine, rows = result["machine"], result["rows"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result["versions"].items()))
    ratios = [
        (r["work"], r["model"], r["size"], r["against"], f"{r['ratio']:.2f}", _goal(r)) for r in rows if "ratio" in r
    ]
    measurements = [
        (r["work"], r["model"], r["size"], r["batch"], r["library"], _value(r), _share(r), _remark(r))
        for r in rows
        if "ratio" not in r
    ]
    parts = [
        f"{result['date']}, {machine['cores']} cores of {machine['processor']}, "
        f"{machine['matmul_gflops']:.0f} GFLOP/s in float32 matrix products; {versions}. "
        f"Medians of {result['rounds'] // 2 + 1} rounds or more, libraries in turn; "
        "a range from a number to itself is a single call.",
        "## Ratios",
        cells(("work", "network", "pixels", "compared with", "times as fast", "goal"), ratios),
        "## Measurements",
        cells(
            ("work", "network", "pixels", "batch", "library", "median (least–most)", "of matmul rate", "remark"),
            measurements,
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _goal(row: dict[str, Any]) -> str:
    if not row.get("goal"):
        return ""
    return f"{row['goal']} {'✓' if row['ratio'] >= row['goal'] else '✗'}"


def _share(row: dict[str, Any]) -> str:
    return f"{row['flops_share']:.0%}" if "flops_share" in row else ""


def _remark(row: dict[str, Any]) -> str:
    return row.get("remark") or (f"{row['cost']:.2f} times one eps" if "cost" in row else "")


def cells(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in row)} |" for row in lines)
