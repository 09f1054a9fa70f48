"""Figures and images as text inside an HTML page."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image


def inline_svg(figure: Figure, title: str) -> str:
    """A figure as an `<svg>` element whose black parts take the color of the text around it.

    Args:
      figure: the figure.
      title: what the figure shows, for those who do not see it.
    """
    text = io.StringIO()
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,
    }  # texts stay texts; equal figures are equal files
    with matplotlib.rc_context(settings):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace("#000000", "currentColor")
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" role="img" aria-label="">', svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return svg.replace('aria-label=""', f'aria-label="{html.escape(title)}"', 1)


def plot_area(figure: Figure, values: Sequence[float]) -> tuple[list[float], tuple[float, float]]:
    """Where values of the x axis are in a figure that was drawn, and the top and height of its axes.

    Args:
      figure: the figure, after `inline_svg`, which arranges it.
      values: float (N,), in the units of the x axis of its first axes.

    Returns:
      (N shares of the width from the left, (top, height) as shares of the height from the top), in [0, 1].
    """
    axes = figure.axes[0]
    area = axes.get_position()
    left = [round(float(axes.transData.transform((value, 0))[0] / figure.bbox.width), 4) for value in values]
    return left, (round(float(1 - area.y1), 4), round(float(area.height), 4))


def png_data_uri(pixels: np.ndarray) -> str:
    """uint8 (H, W, 1) or (H, W, 3) → "data:image/png;base64,…"."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
