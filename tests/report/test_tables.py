from __future__ import annotations

import dataclasses
import re

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.report.conftest import EPSILONS, make_record, without_published
from tfadv import paper
from tfadv.defenses.trades import TRADES
from tfadv.report import cards, markdown, page, plots, summary, tables
from tfadv.report.table import Table, short
from tfadv.report.tables import report_headline, report_tables


def with_eps(data, replacements):
    """The same results at other eps."""
    records = [dataclasses.replace(r, eps=replacements.get(r.eps, r.eps)) for r in data.records]
    return dataclasses.replace(data, records=tuple(records))


@hypothesis.given(levels=st.integers(1, 255), digits=st.sampled_from(("{:g}", "{!r}")))
def test_sizes_of_whole_levels_are_shown_as_such(levels, digits):
    text = digits.format(levels / 255)
    shown = short(f"pgd(eps={text}), eps {text}+12.0")
    assert shown == (f"pgd(eps={levels}/255), eps {levels}/255+12.0" if len(f"{levels / 255:g}") > 7 else shown)
    assert eval(short(text)) == pytest.approx(levels / 255, rel=1e-5)  # noqa: S307


@hypothesis.given(value=st.floats(0, 100))
def test_a_shown_number_is_the_number(value):
    shown = short(f"{value:.9f}")
    assert eval(shown) == pytest.approx(value, rel=1e-5, abs=1e-8)  # noqa: S307
    assert "/" not in shown or f"{value:g}" == f"{round(255 * value) / 255:g}"
    assert short("0.03 [0.01, 0.05] of 12.3456 and 0.0314") == "0.03 [0.01, 0.05] of 12.3456 and 0.0314"


def test_table2_has_ours_the_published_figure_and_the_difference(data):
    table = report_tables(data)["table2"]
    assert table.head == ("eps", "resnet18", "published", "Δ", "resnet50", "published", "Δ")
    assert table.rows[0][0] == "0.01"
    assert table.rows[0][1:] == pytest.approx((30.0, 27.52, 2.48, 20.0, 16.04, 3.96))
    assert table.rows[1][2] is None  # the paper has no eps 0.1
    assert "+2.48" in table.markdown() and "–" in table.markdown()
    assert table.csv().splitlines()[1].startswith("0.01,30.0,27.52,")


def test_table1_compares_before_and_after(data):
    table = report_tables(data)["table1"]
    assert table.head == ("model", "baseline", "published", "Δ", "augmented", "retrained", "published", "Δ")
    assert table.rows[0] == ("resnet18", *map(pytest.approx, (80.0, 75.39, 4.61, 85.0, 90.0, 76.63, 13.37)))


def test_without_published_figures_their_columns_are_left_out(data):
    table = report_tables(dataclasses.replace(data, dataset="digits"))["table4"]
    assert table.head == ("eps", "resnet18", "resnet50")
    assert table.rows[0] == ("0.01", pytest.approx(40.0), pytest.approx(40.0))


def test_mean_gain_is_the_mean_over_models_and_eps(data):
    assert tables.mean_gain(data, "retrained").value == pytest.approx((0.1 + 0.1 + 0.2 + 0.2) / 4)
    assert tables.mean_gain(data, "augmented").value == pytest.approx(0.075)
    assert tables.mean_gain(data, "augmented", models=["resnet50"]).value == pytest.approx(0.1)
    assert tables.mean_gain(data, "retrained", "transfer").value == 0
    assert tables.mean_gain(data, "unknown") is None


def test_the_stated_gain_is_shown_only_for_the_papers_eps(data):
    assert "retrained +15.0 [" in report_headline(data) and "paper" not in report_headline(data)
    papers = with_eps(data, {0.1: 0.03})
    more = with_eps(dataclasses.replace(papers, records=papers.records), {0.01: 0.02, 0.03: 0.5}).records
    papers = dataclasses.replace(papers, records=(*papers.records, *(r for r in more if r.eps == 0.02)))
    gain = str(tables.mean_gain(papers, "retrained"))
    assert f"retrained {gain} (the paper, over its three models: +14.96)" in report_headline(papers)
    assert "paper" not in report_headline(dataclasses.replace(papers, dataset="digits"))


@pytest.mark.parametrize("row, mean", [("MNIST", 41.21), ("CIFAR10", 14.43), ("Cat VS Dog", 26.44)])
def test_the_papers_tables_give_about_the_gain_it_states(row, mean):
    before, after = paper.FGSM[row]["baseline"], paper.FGSM[row]["retrained"]
    gains = [b - a for x, y in zip(before, after, strict=True) for a, b in zip(x, y, strict=True)]
    assert sum(gains) / 9 == pytest.approx(mean, abs=0.005)
    assert paper.STATED_GAINS[row] == pytest.approx(mean, abs=0.6)


def test_stronger_attacks_have_a_table_and_do_not_change_the_others(data, full_data):
    before, after = report_tables(data), report_tables(full_data)
    assert set(before) == {"table1", "table2", "table3", "table4", "differences", "transfer"}
    assert set(after) == {*before, "attacks", "matrix", "vulnerability", "checks"}
    accuracies = ("12.0 [10.0, 15.0]", "12.0 [10.0, 15.0]")
    assert after["attacks"].rows == [
        ("resnet18", "baseline", "pgd", *accuracies, "100", "10", "2", "3"),
        ("resnet18", "baseline", "pgd(steps=50)", *accuracies, "100", "10", "2", "3"),
        ("resnet18", "baseline", "worst case of fgsm, pgd, pgd(steps=50)", *accuracies, "100", None, None, None),
    ]
    for name, table in before.items():
        assert after[name].markdown() == table.markdown()
    assert "worst case per image over fgsm, pgd, pgd(steps=50) on 100 test images: baseline 12.0%." in report_headline(
        full_data
    )


def test_a_further_defense_is_in_every_table(data):
    records = [dataclasses.replace(r, defense="trades") for r in data.records if r.defense == "retrained"]
    known = (*data.known_defenses, TRADES())
    data = dataclasses.replace(data, known_defenses=known, records=(*data.records, *records))
    made = report_tables(data)
    assert made["table1"].head[-1] == "trades" and made["table1"].rows[0][-1] == pytest.approx(90.0)
    assert made["fgsm_trades"].rows[0] == ("0.01", pytest.approx(40.0), pytest.approx(40.0))
    assert ("resnet18", "trades", 50.0, 50.0) in made["transfer"].rows
    assert "trades +15.0 [" in report_headline(data)


def test_a_run_without_tables_or_published_figures_has_the_default_ones(data):
    data = without_published(data)
    made = report_tables(data)
    assert list(made) == ["clean", "fgsm_baseline", "fgsm_augmented", "fgsm_retrained", "differences", "transfer"]
    assert made["clean"].head == ("model", "baseline", "augmented", "retrained")
    assert report_headline(data).startswith("Mean change in accuracy against baseline")
    assert not any("published" in table.markdown() for table in made.values())


def test_results_of_one_model_of_one_defense_are_enough(data):
    records = tuple(r for r in data.records if r.protocol == "clean")[:1]
    for run in (data, without_published(data)):
        alone = dataclasses.replace(run, records=records)
        assert report_headline(alone) == "Test images: 100."
        (table,) = report_tables(alone).values()
        assert table.rows[0][1] == pytest.approx(80.0) and "augmented" not in table.head


def test_an_attack_that_ran_twice_has_two_rows(full_data):
    """With sizes of its own, on other images and at another cost."""
    (first,) = [r for r in full_data.records if r.attack_label == "pgd" and r.eps == EPSILONS[0]]
    own = dataclasses.replace(first, eps=0.5, n=7, cost={**first.cost, "seconds": 8.0})
    table = tables.attacks_table(dataclasses.replace(full_data, records=(*full_data.records, own)))
    rows = [dict(zip(table.head, row)) for row in table.rows if row[2] == "pgd"]
    assert [(row["images"], row["seconds"], row["eps 0.5"] is None) for row in rows] == [
        ("100", "3", True),
        ("7", "8", False),
    ]


def test_transfer_matrix_has_attacked_models_as_rows(data):
    matrix = {
        "a/baseline": {"n": 200, "eps": 0.03, "correct": {"a/baseline": 2, "b/baseline": 100}},
        "b/baseline": {"n": 200, "eps": 0.03, "correct": {"a/baseline": 50, "b/baseline": 4}},
    }
    table = tables.matrix_table(dataclasses.replace(data, transfer_matrix=matrix))
    assert table.head == ("attacked on", "a/baseline", "b/baseline")
    assert table.rows == [("a/baseline", 1.0, 50.0), ("b/baseline", 25.0, 2.0)] and "200 images" in table.title


def test_transfer_matrix_of_several_attacks_names_the_best_on_another_model(data):
    best = {"a": "mifgsm(blocks=2)", "b": "pgd"}
    matrix = {
        "a": {"n": 100, "eps": 0.03, "correct": {"a": 0, "b": 40, "c": 9}, "attack": best | {"c": "pgd"}},
        "b": {"n": 100, "eps": 0.03, "correct": {"a": 30, "b": 2, "c": 8}, "attack": best | {"c": "mifgsm"}},
    }
    several = dataclasses.replace(data, transfer_matrix=matrix)
    table = tables.matrix_table(several)
    assert table.rows[-1] == ("best transfer", "mifgsm(blocks=2) on b", "pgd on a", "mifgsm on b")
    assert "PGD and mifgsm" in table.title and "PGD at" in tables.matrix_table(without_attack(several)).title
    drawn = [text.get_text() for text in plots.matrix_plot(several).axes[0].texts]
    assert drawn == ["0", "40", "9", "30", "2", "8"]
    alone = {"a": {"n": 100, "eps": 0.03, "correct": {"a": 0}, "attack": {"a": "pgd"}}}
    assert tables.matrix_table(dataclasses.replace(data, transfer_matrix=alone)).rows == [("a", 0.0)]


def without_attack(data):
    """The same, of PGD alone."""
    matrix = {
        name: {key: value for key, value in row.items() if key != "attack"}
        for name, row in data.transfer_matrix.items()
    }
    return dataclasses.replace(data, transfer_matrix=matrix)


def test_failed_checks_are_listed_and_all_checks_are_in_the_table(full_data):
    assert tables.checks_lines(full_data) == [
        "- resnet18/baseline: 1 of 2 checks for gradient masking passed.",
        "  - SUSPICIOUS, black box: It succeeds on 9.",
        "- resnet18/retrained: 0 of 1 checks for gradient masking passed.",
        "  - steps: Not evaluated: attacks refuse the model.",
    ]
    rows = tables.checks_table(full_data).rows
    assert [row[2] for row in rows] == ["passed", "SUSPICIOUS", "not evaluated"]


def test_markdown_aligns_text_left_and_figures_right():
    table = Table("T", ("model", "a Δ", "b"), [("x|y", 1.0, None), ("z", -0.5, "9.0 [1.0, 2.0]")])
    assert table.markdown().splitlines() == [
        "**T**",
        "",
        "| model |   a Δ |              b |",
        "| :---- | ----: | -------------: |",
        "| x\\|y  | +1.00 |              – |",
        "| z     | -0.50 | 9.0 [1.0, 2.0] |",
    ]


def test_a_defense_of_some_models_only_says_so(data):
    """Otherwise the mean gains of defenses over different models would look comparable."""
    some = tuple(r for r in data.records if r.model == "resnet18" or r.defense != "augmented")
    restricted = dataclasses.replace(data, records=some)
    assert re.search(r"augmented \(resnet18 only\) \+5\.0 \[.+?\], retrained \+15\.0 \[", report_headline(restricted))
    assert "only" not in report_headline(data)
    assert report_tables(restricted)["table3"].head[:2] == ("eps", "resnet18")
    assert not any("resnet50" in head for head in report_tables(restricted)["table3"].head)


# ---- the summary for the terminal -----------------------------------------------------------------------


def test_the_summary_has_aligned_figures_and_names_suspicious_models(full_data, tmp_path):
    summary.write(tmp_path, full_data)
    lines = (tmp_path / "summary.txt").read_text(encoding="utf-8").splitlines()
    head, *rows = lines[2 : lines.index("", 2)]
    assert head.split()[:3] == ["model", "defense", "clean"] and len(rows) == 6
    end = head.index("clean") + len("clean")
    assert all(row[end - 1].isdigit() and row[end : end + 2] == "  " for row in rows)
    assert summary.sentence(full_data) in lines and lines[-1] == "Gradient masking is suspected: resnet18/baseline."


def test_a_model_that_guesses_is_named_and_is_not_the_most_robust(data, tmp_path):
    guess = [make_record("resnet18", "nfgsm", "clean", accuracy=0.52)]
    guess += [make_record("resnet18", "nfgsm", "whitebox", eps, 0.5) for eps in data.epsilons]
    data = dataclasses.replace(data, records=(*(r for r in data.records if r.model == "resnet18"), *guess))
    text = "Hardly better than always answering one class: resnet18/nfgsm."
    for share, guesses in ((0.5, True), (0.1, False), (0.0, False)):
        shown = dataclasses.replace(data, largest_share=share)
        assert shown.guessing == (("resnet18/nfgsm",) if guesses else ())
        assert ("defense retrained" if guesses else "defense nfgsm") in summary.sentence(shown)
        for format, file in ((summary, "summary.txt"), (markdown, "report.md"), (page, "report.html")):
            format.write(tmp_path, shown)
            assert (text in (tmp_path / file).read_text(encoding="utf-8")) == guesses


def test_what_ended_early_is_not_compared(data):
    def shown(**of):
        attacked = [
            make_record("resnet18", name, "whitebox", 0.1, value, attack="pgd", settings={"steps": 9}, of=of.get(name))
            for name, value in (("baseline", 0.2), ("retrained", 0.6))
        ]
        return dataclasses.replace(data, records=(*data.records, *attacked))

    assert "with the defense retrained and 20.0% with baseline" in summary.sentence(shown())
    assert [row.defense for row in cards.cards(shown())[0].rows] == ["baseline", "retrained"]
    assert summary.sentence(shown(retrained=400)).startswith("resnet18 classifies 20.0% of the test images correctly")
    assert summary.sentence(shown(baseline=400)).startswith("resnet18 with the defense retrained classifies 60.0% of")
    assert "ended early" in summary.sentence(shown(baseline=400, retrained=400))
    for early in ({"retrained": 400}, {"baseline": 400}):
        assert [row.defense for row in cards.cards(shown(**early))[0].rows] == ["baseline"]


def test_a_report_of_guessing_models_says_so(data):
    shown = dataclasses.replace(data, largest_share=0.95)
    assert summary.sentence(shown) == "resnet18 has not learned to classify cifar10."
