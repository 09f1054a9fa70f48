"""The report as one HTML page, report.html, that needs no network and no server."""

from __future__ import annotations

import hashlib
import json
import pathlib
from importlib import resources
from typing import Any

import jinja2
import markupsafe
import numpy as np

from tfadv.report.data import ReportData
from tfadv.report.evidence import class_tables, not_tested, threat_model
from tfadv.report.gallery import Gallery
from tfadv.report.markdown import legend_entries
from tfadv.report.plots import pictures
from tfadv.report.summary import overview, sentence, warnings
from tfadv.report.svg import inline_svg, png_data_uri
from tfadv.report.table import is_figure
from tfadv.report.tables import matrix_table, report_tables

TEMPLATES = ("report.html", "style.css", "gallery.js")
TOPICS = {
    "accuracy": "Accuracy over eps",
    "defenses": "Clean and robust accuracy",
    "training": "Training",
    "certified": "Certified accuracy",
    "vulnerability": "Vulnerability",
    "explanations": "What the models look at",
}
MOST_PIXELS = 96  # height and width of an image in the gallery; larger ones are shown by every second, third … pixel
MOST_BYTES = 3_000_000  # of all images in the gallery, before compression
FEWEST_IMAGES = 6


def write(folder: pathlib.Path, data: ReportData) -> None:
    """Writes report.html."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["zip"] = lambda a, b: zip(a, b, strict=True)
    environment.filters["is_figure"] = is_figure
    topics, tables = _topics(data), report_tables(data)
    for name in ("matrix", "checks"):  # have sections of their own
        tables.pop(name, None)
    page = environment.get_template("report.html").render(
        data=data,
        title=f"Robustness on {data.dataset}",
        sentence=sentence(data),
        warnings=warnings(data),
        suspicious=data.suspicious,
        sections=_sections(data, topics),
        overview=overview(data),
        tables=tables,
        legend=legend_entries(data),
        topics=topics,
        matrix=matrix_table(data),
        gallery=_gallery(data.gallery, data.class_names) if data.gallery else None,
        threat_model=threat_model(data),
        not_tested=not_tested(data),
        class_tables=list(class_tables(data)),
        style=markupsafe.Markup(_template("style.css")),
        script=markupsafe.Markup(_template("gallery.js")),
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def templates_hash() -> str:
    """The SHA-256 of the files that the page is made from, in addition to the code."""
    return hashlib.sha256("\0".join(map(_template, TEMPLATES)).encode()).hexdigest()


def _template(name: str) -> str:
    return resources.files("tfadv.report").joinpath("templates", name).read_text(encoding="utf-8")


def _sections(data: ReportData, topics: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(id, name) of the sections, for links."""
    optional = {
        "images": ("Images", data.gallery),
        "transfer": ("Transfer", data.transfer_matrix),
        "masking": ("Gradient masking", data.checks),
    }
    return [
        ("overview", "Overview"),
        *((topic["id"], topic["title"]) for topic in topics),
        *((name, title) for name, (title, shown) in optional.items() if shown),
        ("tables", "Tables"),
        *([("provenance", "How it was computed")] if data.provenance else []),
        *([("evidence", "Evidence")] if data.origin else []),
    ]


def _topics(data: ReportData) -> list[dict[str, Any]]:
    """The sections of pictures, as SVG with a caption."""
    drawn: dict[str, list[dict[str, Any]]] = {}
    for picture in pictures(data):
        if picture.topic in TOPICS:
            svg = markupsafe.Markup(inline_svg(picture.draw(), picture.title))
            drawn.setdefault(picture.topic, []).append({"svg": svg, "caption": picture.caption})
    return [{"id": topic, "title": TOPICS[topic], "pictures": drawn[topic]} for topic in TOPICS if topic in drawn]


def _gallery(gallery: Gallery, class_names: tuple[str, ...]) -> str:
    """The gallery for the script, as JSON that can stand inside a `<script>` element."""
    step = -(-max(gallery.images.shape[1:3]) // MOST_PIXELS)
    images = gallery.images[:, ::step, ::step]
    strips = len(gallery.models) * len(gallery.epsilons)
    count = int(np.clip(MOST_BYTES // (images[0].nbytes * max(strips, 1)), FEWEST_IMAGES, len(images)))
    shown = np.unique(np.linspace(0, len(images) - 1, count).round().astype(int))
    models = {
        name: {
            "adversarial": [_strip(pixels[shown][:, ::step, ::step]) for pixels in attacked.adversarial],
            "classes": attacked.classes[:, shown].tolist(),
            "confidences": np.round(attacked.confidences[:, shown].astype(float), 3).tolist(),
            "confusion": attacked.confusion.tolist(),
        }
        for name, attacked in gallery.models.items()
    }
    content = {
        "attack": gallery.attack,
        "epsilons": gallery.epsilons,
        "classes": class_names,
        "labels": gallery.labels[shown].tolist(),
        "size": images.shape[1:3],
        "clean": _strip(images[shown]),
        "models": models,
    }
    return markupsafe.Markup(json.dumps(content).replace("<", "\\u003c"))


def _strip(images: np.ndarray) -> str:
    """uint8 (G, H, W, C) → one picture, in which they lie side by side."""
    return png_data_uri(np.concatenate(list(images), axis=1))
