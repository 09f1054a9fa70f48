"""The files of a report."""

from __future__ import annotations

import csv
import dataclasses
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from tests.report.conftest import EPSILONS, make_record
from tfadv.defenses.trades import TRADES
from tfadv.report import FORMATS, csv_files, markdown, plots, write_report
from tfadv.report.example_sheet import MOST, example_sheet
from tfadv.report.explanations import explanation_sheet, vulnerability_plot, vulnerability_table
from tfadv.report.gallery import AttackedImages, choose_images
from tfadv.report.tables import report_tables

FURTHER = TRADES()


def drawn(figure):
    """The renderer of a figure that has been drawn."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def assert_nothing_is_cut_off(figure):
    box = figure.get_tightbbox(drawn(figure))
    width, height = figure.get_size_inches()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height


def line_colors(figure):
    return {to_hex(line.get_color()).upper() for line in figure.axes[0].lines}


def with_further_defense(data, defense=FURTHER, known=True):
    """The same results with a fourth defense."""
    records = [dataclasses.replace(r, defense=defense.label) for r in data.records if r.defense == "retrained"]
    known_defenses = (*data.known_defenses, *([defense] if known else []))
    return dataclasses.replace(data, known_defenses=known_defenses, records=(*data.records, *records))


def test_all_formats_are_written(full_data, tmp_path):
    write_report(tmp_path, full_data)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    pictures = {"accuracy_resnet18.png", "accuracy_resnet50.png", "matrix.png", "examples.png", "training_resnet18.png"}
    pictures |= {
        "vulnerability_resnet18.png",
        "explanations_resnet18.png",
        "defenses_resnet50.png",
        "price_resnet18.png",
    }
    tables = {f"{name}.csv" for name in report_tables(full_data)}
    others = {"report.md", "report.html", "checks.md", "tensorboard", "summary.txt", "model_cards", "evidence.json"}
    assert {path.name for path in tmp_path.iterdir()} == {*others, *pictures, *tables}
    for name in pictures:
        assert f"]({name})" in text and (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_format_registered_from_outside_is_written(data, tmp_path, monkeypatch):
    def write(folder, data):
        (folder / "headline.txt").write_text(data.dataset)

    monkeypatch.setattr(FORMATS, "_entries", {"markdown": FORMATS._entries["markdown"]})
    FORMATS.register("toy", write)
    write_report(tmp_path, data)
    assert (tmp_path / "headline.txt").read_text() == "cifar10" and (tmp_path / "report.md").exists()


def test_report_needs_no_tensorflow(tmp_path):
    code = (
        "import sys, tfadv.report, tfadv.report.csv_files, tfadv.report.plots, tfadv.report.markdown\n"
        "import tfadv.report.page\n"
        "import tfadv.defenses, tfadv.evaluation.checks\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules\n"
    )
    root = pathlib.Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


# ---- Markdown and CSV -------------------------------------------------------------------------------------


def test_markdown_starts_with_the_headline_and_explains_its_words(full_data, tmp_path):
    markdown.write(tmp_path, full_data)
    blocks = (tmp_path / "report.md").read_text(encoding="utf-8").split("\n\n")
    assert blocks[0] == "# cifar10" and blocks[1].startswith("Mean change in accuracy against baseline")
    assert blocks[3] == "**Gradient masking is suspected**, see below: resnet18/baseline."
    text = "\n\n".join(blocks)
    assert text.index("## Tables") < text.index("Table 1") < text.index("## Gradient masking") < text.index("![")
    assert "- **retrained**: trained further on clean images and stored adversarial images" in text
    assert "minus the published figure" in text
    assert "The adversarial images are those for baseline" in text


def test_markdown_without_anything_optional(data, tmp_path):
    digits = dataclasses.replace(data, dataset="digits")
    markdown.write(tmp_path, digits)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "published" not in text
    assert "Gradient masking" not in text and "examples.png" not in text and not (tmp_path / "checks.md").exists()


def test_csv_has_full_precision_and_empty_cells(data, tmp_path):
    csv_files.write(tmp_path, data)
    with open(tmp_path / "table2.csv", encoding="utf-8", newline="") as file:
        head, first, second = csv.reader(file)
    assert head[:4] == ["eps", "resnet18", "published", "Δ"]
    assert float(first[3]) == 30.0 - 27.52 and second[2] == ""


# ---- pictures -------------------------------------------------------------------------------------------------


def test_accuracy_plot_has_a_curve_for_every_defense_and_protocol(full_data):
    figure = plots.accuracy_plot(full_data, "resnet18")
    assert line_colors(figure) == {"#D55E00", "#0072B2", "#009E73"}
    assert len(figure.axes[0].lines) == 3 * 2 + 1  # the worst case was evaluated for one defense
    retrained = next(line for line in figure.axes[0].lines if line.get_color() == "#009E73")
    np.testing.assert_allclose(retrained.get_xdata(), [0, 0.01, 0.1])
    np.testing.assert_allclose(retrained.get_ydata(), [90, 40, 40])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        "Baseline", "Augmented", "Retrained", "FGSM, white-box", "FGSM, transfer", "worst case of attacks",
    ]  # fmt: skip
    assert_nothing_is_cut_off(figure)


def test_distances_are_a_curve_without_markers_and_a_column(data):
    distances = np.append(np.repeat([0.0, 0.04, 0.05, 0.2], 24), [np.inf] * 4)
    found = {"distances": distances, "median_distance": 0.04, "median_interval": (0.04, np.inf)}
    common = {"attack": "fmn", "settings": {"norm": "linf"}, **found}
    records = [
        make_record("resnet18", "baseline", "whitebox", eps, (distances > eps).mean(), **common) for eps in EPSILONS
    ]
    l2 = [dataclasses.replace(record, settings={"norm": "l2"}, label="fmn(norm=l2)") for record in records]
    with_curve = dataclasses.replace(data, records=(*data.records, *records, *l2))
    figure = plots.accuracy_plot(with_curve, "resnet18")
    (curve,) = (line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post")
    np.testing.assert_allclose(curve.get_xydata(), [[0, 76], [0.04, 52], [0.05, 28], [0.1, 28]])
    assert "nearest images, fmn" in [text.get_text() for text in figure.legends[0].get_texts()]
    (caption,) = (each.caption for each in plots.pictures(with_curve) if each.file == "accuracy_resnet18.png")
    assert caption.endswith("nearest adversarial image by fmn is further.")
    table = report_tables(with_curve)["attacks"]
    medians = {row[2]: row[table.head.index("median distance")] for row in table.rows}
    assert medians == {"fmn": "0.04 [0.04, inf] linf", "fmn(norm=l2)": "0.04 [0.04, inf] l2"}


@pytest.mark.parametrize("known", [True, False])
def test_accuracy_plot_shows_a_fourth_defense(data, known):
    figure = plots.accuracy_plot(with_further_defense(data, known=known), "resnet18")
    assert len(line_colors(figure)) == 4 and len({line.get_marker() for line in figure.axes[0].lines}) == 4
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert ("TRADES" if known else "trades") in labels
    assert_nothing_is_cut_off(figure)


def test_colors_are_reused_where_there_are_more_defenses_than_colors(data):
    for i in range(12):
        data = with_further_defense(data, TRADES(beta=i + 10))
    styles = plots.styles(data)
    assert len(styles) == len({(color, marker) for _, color, marker in styles.values()}) == 15
    plots.accuracy_plot(data, "resnet18")


def test_matrix_plot_shows_every_figure(full_data):
    figure = plots.matrix_plot(full_data)
    assert [text.get_text() for text in figure.axes[0].texts] == ["25", "25", "1", "25"]
    assert_nothing_is_cut_off(figure)


def test_matrix_plot_of_an_incomplete_matrix(full_data):
    matrix = {"a/x": {"n": 4, "eps": 0.1, "correct": {"a/x": 1, "b/x": 2}}}
    figure = plots.matrix_plot(dataclasses.replace(full_data, transfer_matrix=matrix))
    assert [text.get_text() for text in figure.axes[0].texts] == ["25", "50"]


LONG = ("American pit bull terrier, female, young", "cat", "a class with quite a long name, " * 2)


@pytest.mark.parametrize("class_names", [("cat", "dog", "frog"), LONG])
def test_nothing_on_the_example_sheet_is_cut_off_or_overlaps(full_data, class_names):
    figure = example_sheet(dataclasses.replace(with_further_defense(full_data), class_names=class_names))
    renderer = drawn(figure)
    assert_nothing_is_cut_off(figure)
    images = [axes.get_window_extent(renderer) for axes in figure.axes]
    assert len(images) == 3 * 6
    for text in figure.texts:
        box = text.get_window_extent(renderer)
        assert not any(box.overlaps(image) for image in images), text.get_text()


def test_example_sheet_shows_what_each_defense_predicts(full_data):
    gallery, names = full_data.gallery, full_data.class_names
    reference = gallery.models["resnet18/baseline"]
    fooled = np.flatnonzero((reference.classes[0] == gallery.labels) & (reference.classes[-1] != gallery.labels))
    others = np.setdiff1d(np.arange(len(gallery.labels)), fooled)
    assert 0 < len(fooled) < MOST
    texts = [text.get_text() for text in example_sheet(full_data).texts]
    for defense, title in (("baseline", "Baseline"), ("retrained", "Retrained")):
        attacked = gallery.models[f"resnet18/{defense}"]
        for i in [*fooled, *others[: MOST - len(fooled)]]:
            for eps in (0, -1):
                predicted, confidence = attacked.classes[eps, i], attacked.confidences[eps, i]
                mark = "✓" if predicted == gallery.labels[i] else "✗"
                assert f"{mark} {title}: {names[predicted]} ({100 * confidence:.0f}%)" in texts


def test_example_sheet_of_one_gray_image(full_data):
    gallery = full_data.gallery
    images = gallery.images[:1, ..., :1]
    models = {
        name: dataclasses.replace(
            attacked,
            adversarial=np.stack([images, images]),  # no perturbation at all
            classes=attacked.classes[:, :1],
            confidences=attacked.confidences[:, :1],
        )
        for name, attacked in gallery.models.items()
    }
    one = dataclasses.replace(gallery, images=images, labels=gallery.labels[:1], models=models)
    assert_nothing_is_cut_off(example_sheet(dataclasses.replace(full_data, gallery=one)))


def test_training_plot_marks_the_epoch_that_was_kept(full_data):
    figure = plots.training_plot(full_data, "resnet18")
    curve, ring = figure.axes[0].lines
    np.testing.assert_allclose(curve.get_ydata(), [50, 70])
    assert list(ring.get_xdata()) == [2] and list(ring.get_ydata()) == [70]
    assert_nothing_is_cut_off(figure)
    start = {name: dataclasses.replace(own, best_epoch=0) for name, own in full_data.training.items()}
    (curve,) = plots.training_plot(dataclasses.replace(full_data, training=start), "resnet18").axes[0].lines
    np.testing.assert_allclose(curve.get_ydata(), [50, 70])  # no epoch was better than the start: no ring


def test_vulnerability_is_the_median_of_the_images_classified_correctly(full_data):
    row, _ = vulnerability_table(full_data).rows
    assert row == ("resnet18", "baseline", "4", "2.5", "100", "0.025", "0.03", "1.00")
    figure = vulnerability_plot(full_data, "resnet18", plots.styles(full_data))
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xdata(), [0.01, 0.02, 0.03])
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [0.01, 0.02, 0.04])
    assert_nothing_is_cut_off(figure)


def test_the_sheet_of_explanations_names_what_each_defense_predicts(full_data):
    figure = explanation_sheet(full_data, "resnet18", {"baseline": "Baseline", "retrained": "Retrained"})
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert labels == [
        "Baseline\ncat as cat,\nattacked as cat", "Retrained\ncat as cat,\nattacked as cat",
        "Baseline\ndog as cat,\nattacked as cat", "Retrained\ndog as cat,\nattacked as cat",
    ]  # fmt: skip
    assert [len(axes.images) for axes in figure.axes[:7]] == [1, 1, 2, 1, 1, 1, 0]  # no Grad-CAM where it is unknown
    assert_nothing_is_cut_off(figure)


# ---- gallery ----------------------------------------------------------------------------------------------------


def test_attacked_images_are_the_same_after_saving_and_loading(full_data, tmp_path):
    attacked = full_data.gallery.models["resnet18/baseline"]
    attacked.save(tmp_path / "gallery.npz")
    loaded = AttackedImages.load(tmp_path / "gallery.npz")
    for field in dataclasses.fields(attacked):
        value, expected = getattr(loaded, field.name), getattr(attacked, field.name)
        np.testing.assert_array_equal(value, expected)
        assert value.dtype == expected.dtype


def test_images_are_chosen_one_of_each_class_before_a_second():
    labels = np.array([2, 0, 0, 1, 0, 2, 1])
    assert choose_images(labels, 3).tolist() == [1, 3, 0]
    assert choose_images(labels, 5).tolist() == [1, 2, 3, 0, 5]
    assert sorted(choose_images(labels, 100).tolist()) == list(range(7))
