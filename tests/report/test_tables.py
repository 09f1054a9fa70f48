import pytest

from tfadv.evaluation.checks import Check
from tfadv.report import paper, tables


def record(model, variant, protocol, eps, accuracy):
    return {
        "dataset": "cifar10", "model": model, "variant": variant, "protocol": protocol, "eps": eps,
        "source": None, "attack": None if eps is None else "fgsm",
        "accuracy": accuracy, "correct": round(accuracy * 100), "n": 100, "seed": 0,
        "settings": None, "cost": None, "interval": [0.0, 1.0],
    }  # fmt: skip


@pytest.fixture
def records():
    made = []
    for model, base in (("resnet18", 0.3), ("resnet50", 0.2)):
        for variant, more in (("baseline", 0), ("augmented", 0.05), ("retrained", 0.1)):
            made.append(record(model, variant, "clean", None, 0.8 + more))
            for eps in (0.01, 0.1):
                made.append(record(model, variant, "whitebox", eps, base + more * (1 + (model == "resnet50"))))
                made.append(record(model, variant, "transfer", eps, 0.5))
    return made


def test_table2_has_ours_the_papers_and_the_difference(records):
    table = tables.all_tables(records, "CIFAR10", {}, {})["table2"]
    assert table.rows[0][0] == "0.01"
    assert table.rows[0][1:] == pytest.approx((30.0, 27.52, 2.48, 20.0, 16.04, 3.96))
    assert table.rows[1][2] is None  # the paper has no eps 0.1
    assert "+2.48" in table.markdown() and "–" in table.markdown()
    assert table.csv().splitlines()[1].startswith("0.01,30.0,27.52,")


def test_without_a_row_of_the_paper_its_columns_are_left_out(records):
    table = tables.all_tables(records, None, {}, {})["table4"]
    assert table.head == ("eps", "ResNet18", "ResNet50")
    assert table.rows[0] == ("0.01", pytest.approx(40.0), pytest.approx(40.0))


def test_gain_is_the_mean_over_models_and_eps(records):
    assert tables.gain(records) == pytest.approx((10 + 10 + 20 + 20) / 4)
    assert tables.gain(records, "augmented") == pytest.approx(7.5)
    assert tables.gain(records, protocol="transfer") == 0


def test_the_papers_gain_is_shown_beside_the_papers_eps_alone(records):
    assert "+15.00" in tables.headline(records, "CIFAR10") and "paper" not in tables.headline(records, "CIFAR10")
    at_the_papers = [r | {"eps": {0.1: 0.03}.get(r["eps"], r["eps"])} for r in records]
    at_the_papers += [r | {"eps": 0.02} for r in at_the_papers if r["eps"] == 0.01]
    assert "+14.96" in tables.headline(at_the_papers, "CIFAR10")
    assert "paper" not in tables.headline(at_the_papers, None)


@pytest.mark.parametrize("row, mean", [("MNIST", 41.21), ("CIFAR10", 14.43), ("Cat VS Dog", 26.44)])
def test_the_papers_tables_give_about_the_gain_it_states(row, mean):
    before, after = paper.FGSM[row]["baseline"], paper.FGSM[row]["retrained"]
    gains = [b - a for x, y in zip(before, after) for a, b in zip(x, y)]
    assert sum(gains) / 9 == pytest.approx(mean, abs=0.005)
    assert paper.STATED_GAIN[row] == pytest.approx(mean, abs=0.6)


def test_stronger_attacks_have_a_table_and_do_not_touch_the_papers(records):
    without = tables.all_tables(records, None, {}, {})
    assert set(without) == {"table1", "table2", "table3", "table4", "transfer"}
    cost = {"gradients_per_image": 10.0, "forwards_per_image": 2.0, "seconds": 3.0}
    stronger = [
        record("resnet18", "baseline", "whitebox", eps, 0.12)
        | {"attack": "pgd", "settings": {"steps": 10}, "cost": cost, "interval": [0.1, 0.15]}
        for eps in (0.01, 0.1)
    ]
    worst = [r | {"attack": "worst", "settings": {"attacks": ["fgsm", "pgd"]}, "cost": None} for r in stronger]
    made = tables.all_tables(stronger + worst + records, None, {}, {})
    assert made["attacks"].rows == [
        ("ResNet18", "baseline", "pgd", "12.0 [10.0, 15.0]", "12.0 [10.0, 15.0]", "100", "10", "2", "3"),
        ("ResNet18", "baseline", "worst of fgsm, pgd", *["12.0 [10.0, 15.0]"] * 2, "100", "–", "–", "–"),
    ]
    for name in without:
        assert made[name].markdown() == without[name].markdown()


def test_transfer_matrix_has_sources_as_rows():
    matrix = {
        "a/baseline": {"n": 200, "eps": 0.03, "correct": {"a/baseline": 2, "b/baseline": 100}},
        "b/baseline": {"n": 200, "eps": 0.03, "correct": {"a/baseline": 50, "b/baseline": 4}},
    }
    table = tables.matrix_table(matrix)
    assert table.head == ("made on", "a/baseline", "b/baseline")
    assert table.rows == [("a/baseline", 1.0, 50.0), ("b/baseline", 25.0, 2.0)] and "200 images" in table.title


def test_suspicion_is_said_first_and_all_checks_are_in_the_table():
    verdicts = {
        "a/baseline": [Check("steps", True, {}, "fine."), Check("black box", False, {"images": 9}, "It broke 9.")]
    }
    lines = tables.verdict_lines(verdicts)
    assert lines == [
        "- a/baseline: 1 of 2 checks for masked gradients passed.", "  - SUSPICIOUS, black box: It broke 9."
    ]  # fmt: skip
    rows = tables.verdict_table(verdicts).rows
    assert [row[:3] for row in rows] == [("a/baseline", "steps", "passed"), ("a/baseline", "black box", "SUSPICIOUS")]
