"""Rows of a benchmark as text."""


def line(row):
    """str, a row for the console."""
    what = " ".join(str(row[k]) for k in ("work", "model", "size", "contender") if k in row)
    return f"{what}: {_figure(row)}" + (f" ({row['remark']})" if row.get("remark") else "")


def _figure(row):
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


def markdown(result):
    """str, the whole of a `results.json` as Markdown: the ratios first, then every measurement."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result["versions"].items()))
    parts = [
        f"{result['date']}, {machine['cores']} cores of {machine['processor']}, "
        f"{machine['matmul_gflops']:.0f} GFLOP/s in float32 matrix products; {versions}. "
        f"Medians of {result['repeats'] // 2 + 1} rounds or more, contenders by turns; "
        "a range from a figure to itself is a single call.",
        "## Ratios",
        _table(
            ("work", "network", "pixels", "against", "times as fast", "goal"),
            [
                (r["work"], r["model"], r["size"], r["against"], f"{r['ratio']:.2f}", _goal(r))
                for r in result["rows"]
                if "ratio" in r
            ],
        ),
        "## Measurements",
        _table(
            ("work", "network", "pixels", "batch", "contender", "median (least–most)", "of the limit", "remark"),
            [
                (
                    r["work"],
                    r.get("model", ""),
                    r["size"],
                    r.get("batch", ""),
                    r["contender"],
                    _figure(r),
                    f"{r['flops_share']:.0%}" if "flops_share" in r else "",
                    r.get("remark") or (f"{r['cost']:.2f} times one eps" if "cost" in r else ""),
                )
                for r in result["rows"]
                if "ratio" not in r
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _goal(row):
    if not row.get("goal"):
        return ""
    return f"{row['goal']} {'✓' if row['ratio'] >= row['goal'] else '✗'}"


def _table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in cells)} |" for cells in lines)
