"""Certified accuracy in the report."""

import dataclasses

import numpy as np
import pytest

from tests.report.conftest import make_record
from tfadv.evaluation.certificate import Certificate
from tfadv.report.certified import certified_plot, certified_table
from tfadv.report.plots import pictures, styles
from tfadv.report.summary import write

NAME = "resnet18/retrained"


@pytest.fixture
def certified(data):
    """Results with a certificate of four images, and attacks in both norms."""
    counts = np.array([[1000, 1000], [1000, 800], [0, 0], [975, 400]])
    found = Certificate(0.25, 1000, 100, 0.001, np.arange(4), np.array([0, 1, 9, 3]), counts)
    attacked = [
        make_record("resnet18", "retrained", "whitebox", eps, accuracy, attack="pgd", settings={"norm": norm})
        for norm, eps, accuracy in (("l2", 0.5, 0.4), ("l2", 0.25, 0.6), ("l2", 0.5, 0.3), ("linf", 0.1, 0.1))
    ]
    return dataclasses.replace(data, certificates={NAME: found}, records=(*attacked, *data.records))


def test_the_table(certified):
    table = certified_table(certified)
    assert table.head[:5] == ("model", "defense", "sigma", "correct", "radius 0.25") and "radius 0.75" not in table.head
    (row,) = table.rows
    assert row[:3] == ("resnet18", "retrained", "0.25") and row[3].startswith("50.0 [") and row[4].startswith("25.0 [")
    assert row[-4:] == ("25.0", "1,000", "4", "0.616")


def test_the_plot_falls_to_0_at_the_largest_radius_and_shows_attacks_in_l2(certified):
    axes = certified_plot(certified, "resnet18", styles(certified)).axes[0]
    curve, ceiling, attacks = axes.lines
    radius = certified.certificates[NAME].radius
    np.testing.assert_allclose(curve.get_xydata(), [[0, 50], [radius[1], 50], [radius[0], 25], [radius[0], 0]])
    np.testing.assert_allclose(ceiling.get_xdata(), radius[0])
    np.testing.assert_allclose(attacks.get_xydata(), [[0, 90], [0.25, 60], [0.5, 30]])


def test_long_names_stay_within_the_picture(certified):
    names = [f"gaussian(epochs={epochs}, sigma=0.12, optimizer=sgd)" for epochs in (7, 8, 9)]
    records = tuple(make_record("resnet18", name, "clean") for name in names)
    found = {f"resnet18/{name}": certified.certificates[NAME] for name in names}
    shown = dataclasses.replace(certified, certificates=found, records=records)
    figure = certified_plot(shown, "resnet18", styles(shown))
    figure.draw_without_rendering()
    (box,) = [legend.get_window_extent() for legend in figure.legends]
    assert 0 <= box.x0 and box.x1 <= figure.bbox.x1


def test_where_it_is_shown(certified, data, tmp_path):
    assert certified_table(data) is None and not [p for p in pictures(data) if p.topic == "certified"]
    (picture,) = [p for p in pictures(certified) if p.topic == "certified"]
    assert picture.file == "certified_resnet18.png"
    write(tmp_path, certified)
    assert "Certified accuracy of the smoothed classifier in L2" in (tmp_path / "summary.txt").read_text()
