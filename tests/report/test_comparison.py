"""The table and the plot of defenses, from records written by hand."""

import dataclasses

import numpy as np
import pytest

from tests.report.conftest import make_record
from tfadv.defenses.clean import Control
from tfadv.defenses.nfgsm import NFGSM
from tfadv.evaluation.checks import Check
from tfadv.paper import Baseline
from tfadv.report.comparison import comparison_plot, comparison_table, fgsm_tables, strongest
from tfadv.report.data import ReportData, Training
from tfadv.report.plots import pictures, styles
from tfadv.report.price import price_plot, priced

PGD, AUTO = "pgd(steps=20)", "autoattack"
# defense → clean, FGSM at 0.01 and 0.1, PGD and AutoAttack at 0.1, in %
FIGURES = {
    "baseline": (80, 20, 2, 1, 0),
    "control": (82, 25, 3, 2, 1),
    "nfgsm": (70, 60, 40, 36, 34),
    "nfgsm(share=0.5)": (76, 55, 30, 25, 24),
}


@pytest.fixture
def results():
    records = []
    for defense, (clean, low, high, pgd, auto) in FIGURES.items():
        records.append(make_record("resnet18", defense, "clean", accuracy=clean / 100))
        for eps, fgsm in ((0.01, low), (0.1, high)):
            records.append(make_record("resnet18", defense, "whitebox", eps, fgsm / 100))
        for name, label, accuracy in (("pgd", PGD, pgd), (AUTO, "", auto)):
            common = {"attack": name, "label": label, "settings": {"steps": 20}}
            records.append(make_record("resnet18", defense, "whitebox", 0.1, accuracy / 100, **common))
    known = (Baseline(), Control(), NFGSM(), NFGSM(share=0.5))
    checks = {
        "resnet18/nfgsm": [Check("steps", False, {}, "Bad."), Check("logits", True, {}, "Fine.")],
        "resnet18/control": [Check("steps", True, {}, "Fine.")],
    }
    training = {"resnet18/nfgsm": Training(840_000, 660.0, collapsed_epoch=3)}
    options = {"tables": fgsm_tables, "checks": checks, "training": training}
    return ReportData("cifar10", ("a", "b"), tuple(records), known, "baseline", **options)


def test_the_table_of_defenses(results):
    table = comparison_table(results)
    rows = {row[1]: dict(zip(table.head, row)) for row in table.rows}
    assert list(rows) == list(FIGURES) and "eps 0.1" in table.title
    row = rows["nfgsm"]
    assert (row["clean"], row["FGSM"]) == pytest.approx((70, 40))
    assert row[PGD] == "36.0 [0.0, 100.0]"
    assert (row["gradients, 1000s"], row["minutes"]) == ("840", "11.0")
    assert row["gradient masking"] == "SUSPICIOUS: steps; collapsed in epoch 3"
    assert rows["control"]["gradient masking"] == "none found" and rows["baseline"]["gradient masking"] is None
    assert rows["control"]["minutes"] is None
    stored = make_record("resnet18", "nfgsm", "transfer", 0.1, 0.5)
    with_stored = comparison_table(dataclasses.replace(results, records=(*results.records, stored)))
    assert "transfer" not in table.head and with_stored.head[3:5] == ("transfer", "FGSM")


def test_there_is_no_table_without_defenses_or_without_stronger_attacks(results, data):
    assert comparison_table(data) is None
    plain = tuple(record for record in results.records if record.defense == "baseline")
    assert comparison_table(dataclasses.replace(results, records=plain, known_defenses=(Baseline(),))) is None
    weak = tuple(record for record in results.records if not record.settings)
    assert comparison_table(dataclasses.replace(results, records=weak)) is None


def test_the_plot_takes_the_attack_that_leaves_least_and_joins_the_settings_of_a_defense(results):
    attack, records = strongest(results, "resnet18")
    assert attack == AUTO and list(records) == list(FIGURES)
    axes = comparison_plot(results, "resnet18", styles(results)).axes[0]
    points = {tuple(line.get_xydata()[0]) for line in axes.lines if len(line.get_xydata()) == 1}
    assert {(70, 34), (76, 24), (82, 1), (80, 0)} <= {tuple(map(round, point)) for point in points}
    (joined,) = [line.get_xydata().tolist() for line in axes.lines if len(line.get_xydata()) == 2]
    assert joined == [[70, 34], [76, 24]]
    assert "defenses_resnet18.png" in [picture.file for picture in pictures(results)]


def test_an_attack_that_was_not_run_on_all_defenses_is_not_plotted(results):
    some = tuple(r for r in results.records if not (r.attack == AUTO and r.defense == "control"))
    assert strongest(dataclasses.replace(results, records=some), "resnet18")[0] == PGD


def test_without_a_stronger_attack_the_strongest_is_fgsm_on_all_images(results, data):
    for records in (data.records, tuple(r for r in results.records if not r.settings)):
        attack, found = strongest(dataclasses.replace(results, records=records), "resnet18")
        assert attack == "FGSM" and all(r.protocol == "whitebox" and r.eps == 0.1 for r in found.values()) and found
    weak = dataclasses.replace(results.records[-1], attack="fgsm", label="fgsm", settings={}, eps=0.1)
    assert strongest(dataclasses.replace(results, records=(weak, *data.records)), "resnet18")[0] == "FGSM"


def test_the_tables_of_a_comparison(results):
    (table,) = fgsm_tables(results).values()
    assert table.head == ("model", "defense", "clean", "eps 0.01", "eps 0.1")
    assert table.rows[2][2:] == pytest.approx((70, 60, 40))


def test_attacks_are_plotted_over_their_passes_from_cheap_to_dear(results):
    assert not priced(results, "resnet18")  # the records have no costs
    costs = {PGD: (18.0, 3.0), "autoattack": (900.0, 100.0)}
    names = ("gradients_per_image", "forwards_per_image")
    records = tuple(
        dataclasses.replace(r, cost=dict(zip(names, costs[r.attack_label]))) if r.settings else r
        for r in results.records
    )
    results = dataclasses.replace(results, records=records)
    found = priced(results, "resnet18")
    assert [(passes, r.attack_label) for passes, r in found["nfgsm"]] == [(21, PGD), (1000, AUTO)]
    axes = price_plot(results, "resnet18", styles(results)).axes[0]
    joined = [line.get_xydata().round().tolist() for line in axes.lines if len(line.get_xydata()) == 2]
    assert [[21, 36], [1000, 34]] in joined and len(joined) == len(FIGURES)
    assert "price_resnet18.png" in [picture.file for picture in pictures(results)]
    other_norm = tuple(
        dataclasses.replace(r, settings={"norm": "l2"}) if r.attack == AUTO else r for r in results.records
    )
    assert not priced(dataclasses.replace(results, records=other_norm), "resnet18")


def test_plotted_accuracies_are_of_shared_images_and_of_attacks_that_did_not_end_early(results):
    cost = {"gradients_per_image": 5.0, "forwards_per_image": 5.0}
    few = {"n": 40, "per_image": np.arange(40) < 20, "accuracy": 0.5, "correct": 20}
    records = [dataclasses.replace(r, cost=cost) for r in results.records if r.settings and r.defense == "nfgsm"]
    pgd, auto = records[0], dataclasses.replace(records[1], **few)
    shown = {r.attack_label: r for _, r in _priced(results, pgd, auto)["nfgsm"]}
    assert {label: (r.correct, r.n) for label, r in shown.items()} == {PGD: (36, 40), AUTO: (20, 40)}
    assert not _priced(results, pgd, dataclasses.replace(auto, of=100))


def _priced(results, *attacked):
    plain = tuple(record for record in results.records if not record.settings)
    return priced(dataclasses.replace(results, records=(*plain, *attacked)), "resnet18")


def test_long_names_of_defenses_stay_within_the_pictures(results):
    long = "pgd(epochs=1, eps=0.03137254901960784+12.0, norm=linf+l1, steps=2)"
    records = [dataclasses.replace(r, defense=long) if r.defense == "nfgsm" else r for r in results.records]
    cost = {"gradients_per_image": 5.0, "forwards_per_image": 5.0}
    records = [dataclasses.replace(r, cost=cost) if r.settings else r for r in records]
    names = [f"resnet18/{defense}" for defense in ("baseline", long)]
    matrix = {name: {"n": 9, "eps": 0.1, "correct": dict.fromkeys(names, 5)} for name in names}
    shown = dataclasses.replace(results, records=tuple(records), transfer_matrix=matrix)
    drawn = {picture.topic: picture.draw() for picture in pictures(shown)}
    for topic in ("defenses", "price", "accuracy", "transfer"):
        figure = drawn[topic]
        figure.draw_without_rendering()
        boxes = [legend.get_window_extent() for legend in figure.legends]
        boxes += [label.get_window_extent() for axes in figure.axes for label in axes.get_yticklabels()]
        assert min(box.x0 for box in boxes) >= 0 and max(box.x1 for box in boxes) <= figure.bbox.x1, topic
        assert figure.axes[0].get_window_extent().height > 100
