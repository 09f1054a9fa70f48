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

from tfadv.experiments.recipe import Experiment, Recipe
from tfadv.report import FORMATS, csv_files, markdown, plots, write_report
from tfadv.report.data import Examples, choose_examples
from tfadv.report.example_sheet import example_sheet
from tfadv.report.tables import report_tables


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


def with_further_recipe(data, name="trades", in_experiment=True):
    """The same results with a fourth recipe."""
    records = [dataclasses.replace(r, variant=name) for r in data.records if r.variant == "retrained"]
    recipes = (Recipe(name, "TRADES"),) if in_experiment else ()
    experiment = data.experiment.with_recipes(recipes)
    return dataclasses.replace(data, experiment=experiment, records=(*data.records, *records))


def test_all_formats_are_written(full_data, tmp_path):
    write_report(tmp_path, full_data)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    pictures = {"accuracy_resnet18.png", "accuracy_resnet50.png", "matrix.png", "examples.png"}
    tables = {f"{name}.csv" for name in report_tables(full_data)}
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "checks.md", *pictures, *tables}
    for name in pictures:
        assert f"]({name})" in text and (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_format_registered_from_outside_is_written(data, tmp_path, monkeypatch):
    def write(folder, data):
        (folder / "headline.txt").write_text(data.dataset)

    monkeypatch.setattr(FORMATS, "_entries", dict(FORMATS._entries))
    FORMATS.register("toy", write)
    write_report(tmp_path, data)
    assert (tmp_path / "headline.txt").read_text() == "cifar10" and (tmp_path / "report.md").exists()


def test_report_needs_no_tensorflow(tmp_path):
    code = (
        "import sys, tfadv.report, tfadv.report.csv_files, tfadv.report.plots, tfadv.report.markdown\n"
        "import tfadv.experiments.paper, tfadv.evaluation.checks\n"
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
    assert "- **retrained**: starts from baseline; clean images and the surrogate's adversarial images" in text
    assert "minus the published figure" in text
    assert "97 are classified correctly by the model baseline" in text


def test_markdown_without_anything_optional(data, tmp_path):
    digits = dataclasses.replace(data, dataset="digits")
    markdown.write(tmp_path, digits)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "There are no published figures for this data set." in text
    assert "Gradient masking" not in text and "examples.png" not in text and not (tmp_path / "checks.md").exists()
    unpublished = Experiment("own", data.experiment.recipes, "baseline")
    markdown.write(tmp_path, dataclasses.replace(digits, experiment=unpublished))
    assert "published" not in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_csv_has_full_precision_and_empty_cells(data, tmp_path):
    csv_files.write(tmp_path, data)
    with open(tmp_path / "table2.csv", encoding="utf-8", newline="") as file:
        head, first, second = csv.reader(file)
    assert head[:4] == ["eps", "resnet18", "published", "Δ"]
    assert float(first[3]) == 30.0 - 27.52 and second[2] == ""


# ---- pictures -------------------------------------------------------------------------------------------------


def test_accuracy_plot_has_a_curve_for_every_recipe_and_protocol(full_data):
    figure = plots.accuracy_plot(full_data, "resnet18")
    assert line_colors(figure) == {"#D55E00", "#0072B2", "#009E73"}
    assert len(figure.axes[0].lines) == 3 * 2 + 1  # the worst case was evaluated for one recipe
    retrained = next(line for line in figure.axes[0].lines if line.get_color() == "#009E73")
    np.testing.assert_allclose(retrained.get_xdata(), [0, 0.01, 0.1])
    np.testing.assert_allclose(retrained.get_ydata(), [90, 40, 40])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        "Baseline", "Augmented", "Retrained", "FGSM, white-box", "FGSM, transfer", "worst case of attacks",
    ]  # fmt: skip
    assert_nothing_is_cut_off(figure)


@pytest.mark.parametrize("in_experiment", [True, False])
def test_accuracy_plot_shows_a_fourth_recipe(data, in_experiment):
    figure = plots.accuracy_plot(with_further_recipe(data, in_experiment=in_experiment), "resnet18")
    assert len(line_colors(figure)) == 4 and len({line.get_marker() for line in figure.axes[0].lines}) == 4
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert ("TRADES" if in_experiment else "trades") in labels
    assert_nothing_is_cut_off(figure)


def test_colors_are_reused_where_there_are_more_recipes_than_colors(data):
    for i in range(12):
        data = with_further_recipe(data, f"defense{i}")
    assert len(plots.styles(data)) == 15
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
    figure = example_sheet(dataclasses.replace(with_further_recipe(full_data), class_names=class_names))
    renderer = drawn(figure)
    assert_nothing_is_cut_off(figure)
    images = [axes.get_window_extent(renderer) for axes in figure.axes]
    assert len(images) == 3 * 6
    for text in figure.texts:
        box = text.get_window_extent(renderer)
        assert not any(box.overlaps(image) for image in images), text.get_text()


def test_example_sheet_shows_what_each_recipe_predicts(full_data):
    examples, names = full_data.examples, full_data.class_names
    texts = [text.get_text() for text in example_sheet(full_data).texts]
    for recipe, title in (("baseline", "Baseline"), ("retrained", "Retrained")):
        predictions = examples.predictions[recipe]
        for i, label in enumerate(examples.labels):
            for classes, confidences in (
                (predictions.clean, predictions.clean_confidence),
                (predictions.attacked, predictions.attacked_confidence),
            ):
                mark = "✓" if classes[i] == label else "✗"
                assert f"{mark} {title}: {names[classes[i]]} ({100 * confidences[i]:.0f}%)" in texts


def test_example_sheet_of_one_gray_image(full_data):
    examples = full_data.examples
    one = dataclasses.replace(
        examples,
        images=examples.images[:1, ..., :1],
        labels=examples.labels[:1],
        adversarial=examples.images[:1, ..., :1],  # no perturbation at all
    )
    assert_nothing_is_cut_off(example_sheet(dataclasses.replace(full_data, examples=one)))


# ---- examples ---------------------------------------------------------------------------------------------------


def test_examples_are_the_same_after_saving_and_loading(full_data, tmp_path):
    examples = full_data.examples
    examples.save(tmp_path / "examples.npz")
    loaded = Examples.load(tmp_path / "examples.npz")
    assert list(loaded.predictions) == list(examples.predictions)
    for a, b in ((examples, loaded), *((examples.predictions[r], loaded.predictions[r]) for r in loaded.predictions)):
        for field in dataclasses.fields(a):
            if field.name != "predictions":
                value = getattr(b, field.name)
                np.testing.assert_array_equal(getattr(a, field.name), value)
                assert type(getattr(a, field.name)) is type(value)


def test_fooled_images_are_chosen_first_and_one_of_each_class_before_a_second():
    labels = np.array([0, 0, 1, 1, 2, 2])
    clean = np.array([0, 0, 1, 1, 2, 0])
    attacked = np.array([0, 1, 0, 0, 2, 2])  # 1, 2 and 3 are fooled; 5 was misclassified before
    assert choose_examples(labels, clean, attacked, 4).tolist() == [1, 2, 4, 3]
    assert sorted(choose_examples(labels, clean, attacked, 100).tolist()) == list(range(6))
