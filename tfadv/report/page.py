"""The report as one HTML page, report.html, that needs no network and no server."""

from __future__ import annotations

import hashlib
import json
import pathlib
import re
from importlib import resources
from typing import Any

import jinja2
import markupsafe
import numpy as np

from tfadv.report.cards import cards
from tfadv.report.data import ReportData, dataset_name
from tfadv.report.evidence import class_tables, not_tested, threat_model
from tfadv.report.gallery import Gallery, fooled_first
from tfadv.report.markdown import legend_entries
from tfadv.report.plots import accuracy_curves, pictures, styles
from tfadv.report.summary import overview, warnings
from tfadv.report.svg import inline_svg, plot_area, png_data_uri
from tfadv.report.table import Table, figure, short
from tfadv.report.tables import matrix_table, report_tables

TEMPLATES = ("report.html", "head.html", "table.html", "style.css", "table.js", "page.js")
TOPICS = {
    "accuracy": "Accuracy over eps",
    "defenses": "Clean and robust accuracy",
    "price": "What attacks cost",
    "training": "Training",
    "certified": "Certified accuracy",
    "vulnerability": "Vulnerability",
    "explanations": "What the models look at",
}
MAIN_TOPICS = {  # come before the images; what to look for
    "accuracy": "The further to the right, the more an attack may change each pixel. A robust model stays at the top.",
    "defenses": "The best defenses are at the top right: accurate on unchanged images, and under attack.",
}
MOST_PIXELS = 96  # height and width of an image in the gallery; larger ones are shown by every second, third … pixel
MOST_BYTES = 3_000_000  # of all images in the gallery, before compression
FEWEST_IMAGES = 6


def write(folder: pathlib.Path, data: ReportData) -> None:
    """Writes report.html."""
    shown, topics, tables = cards(data), _topics(data), report_tables(data)
    threats = tables.pop("threats", None)
    for name in ("matrix", "checks"):  # have sections of their own, too
        tables.pop(name, None)
    page = (
        environment()
        .get_template("report.html")
        .render(
            data=data,
            title=f"Robustness on {dataset_name(data.dataset)}",
            cards=shown,
            only_fgsm=any(card.attack.startswith("FGSM") for card in shown),
            warnings=warnings(data),
            suspicious=data.suspicious,
            sections=_sections(data, topics, threats),
            threats=threats,
            overview=overview(data),
            tables=tables,
            legend=legend_entries(data),
            topics=topics,
            main_topics=MAIN_TOPICS,
            matrix=matrix_table(data),
            gallery=_gallery(data.gallery, data.class_names) if data.gallery else None,
            threat_model=threat_model(data),
            not_tested=not_tested(data),
            class_tables=list(class_tables(data)),
            style=markupsafe.Markup(template("style.css")),
            script=markupsafe.Markup(template("table.js") + template("page.js")),
        )
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def templates_hash() -> str:
    """The SHA-256 of the files that the page is made from, in addition to the code."""
    return hashlib.sha256("\0".join(map(template, TEMPLATES)).encode()).hexdigest()


def environment() -> jinja2.Environment:
    """Renders the templates of this folder."""
    found = jinja2.Environment(
        loader=jinja2.FunctionLoader(template),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.filters["zip"] = lambda a, b: zip(a, b, strict=True)
    found.filters["figure"] = figure
    found.filters["short"] = _short
    return found


def _short(text: str) -> markupsafe.Markup:
    """A part of a page with short numbers, but for those of drawings and scripts."""
    parts = re.split(r"(<svg.*?</svg>|<script.*?</script>)", text, flags=re.DOTALL)
    return markupsafe.Markup("".join(part if i % 2 else short(part) for i, part in enumerate(parts)))


def template(name: str) -> str:
    """The text of a file in `templates`."""
    return resources.files("tfadv.report").joinpath("templates", name).read_text(encoding="utf-8")


def _sections(data: ReportData, topics: list[dict[str, Any]], threats: Table | None) -> list[tuple[str, str]]:
    """(id, name) of the sections, for links, in the order of the page."""
    titles = {topic["id"]: topic["title"] for topic in topics}
    optional = {
        "images": ("Images", data.gallery),
        "classes": ("Classes", data.gallery),
        "masking": ("Gradient masking", data.checks),
    }
    return [
        ("overview", "All models"),
        *([("threats", "Threats")] if threats else []),
        *((name, titles.pop(name)) for name in MAIN_TOPICS if name in titles),
        *((name, title) for name, (title, shown) in optional.items() if shown),
        *titles.items(),
        *([("transfer", "Transfer")] if data.transfer_matrix else []),
        ("tables", "All tables"),
        *([("provenance", "How it was made")] if data.provenance else []),
        *([("evidence", "Evidence")] if data.origin else []),
    ]


def _topics(data: ReportData) -> list[dict[str, Any]]:
    """The sections of pictures, as SVG with a caption; those over eps with the accuracies at each eps."""
    drawn: dict[str, list[dict[str, Any]]] = {}
    for picture in pictures(data):
        if picture.topic in TOPICS:
            drawing = picture.draw()
            shown: dict[str, Any] = {
                "svg": markupsafe.Markup(inline_svg(drawing, picture.title)),
                "caption": picture.caption,
            }
            if picture.topic == "accuracy":
                model = data.models[len(drawn.get("accuracy", []))]  # these pictures are one per model
                shown |= {"readout": _readout(data, model), "area": plot_area(drawing, [0.0, *data.epsilons])}
            drawn.setdefault(picture.topic, []).append(shown)
    return [{"id": topic, "title": TOPICS[topic], "pictures": drawn[topic]} for topic in TOPICS if topic in drawn]


def _readout(data: ReportData, model: str) -> dict[str, Any]:
    """The accuracies of a model for the table below its plot: attacks, and (title, color, texts by attack and eps)."""
    curves = {defense: accuracy_curves(data, model, defense) for defense in data.defenses}
    attacks = list(dict.fromkeys(attack for found in curves.values() for attack in found))
    rows = []
    for defense, (title, color, _) in styles(data).items():
        lines = [curves[defense][attack][1] if attack in curves[defense] else [] for attack in attacks]
        texts = [[record.interval_text if record else "–" for record in line] for line in lines]
        if any(texts):
            rows.append((title, color.replace("#000000", "currentColor"), texts))
    sizes = ["0", *(short(f"{eps:g}") for eps in data.epsilons)]
    return {"model": model, "attacks": attacks, "rows": rows, "sizes": sizes}


def _gallery(gallery: Gallery, class_names: tuple[str, ...]) -> str:
    """The gallery for the script, as JSON that can stand inside a `<script>` element."""
    step = -(-max(gallery.images.shape[1:3]) // MOST_PIXELS)
    images = gallery.images[:, ::step, ::step]
    strips = len(gallery.models) * len(gallery.epsilons)
    count = int(np.clip(MOST_BYTES // (images[0].nbytes * max(strips, 1)), FEWEST_IMAGES, len(images)))
    shown = fooled_first(gallery, count)
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
        "attack": gallery.attack.upper(),
        "epsilons": list(map(float, gallery.epsilons)),
        "sizes": [short(f"{eps:g}") for eps in gallery.epsilons],
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
