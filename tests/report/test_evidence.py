"""evidence.json and the appendix of the page: what was tested, on what, and what was not."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from tests.report.conftest import make_record
from tfadv.evaluation.records import wilson_interval
from tfadv.report import evidence, page
from tfadv.report.data import Origin

LABELS = np.arange(120) % 3


@pytest.fixture(scope="session")
def origin():
    return Origin(
        labels=LABELS,
        chosen="120 of 600 images of cifar10:3.0.2, 20% of each class, drawn with seed 0.",
        hashes={"images": "aa11", "split": "bb22"},
        models={"resnet18/baseline": {"model.keras": "cc33", "version": None}},
        rounding={"resnet18/baseline under pgd": [0.75, None]},
        versions={"tfadv": "0.3.0", "python": "3.11.1"},
    )


@pytest.fixture(scope="session")
def shown(full_data, origin):
    return dataclasses.replace(full_data, origin=origin)


def read(data, folder):
    evidence.write(folder, data)
    return json.loads((folder / "evidence.json").read_text(encoding="utf-8"))


def test_every_accuracy_is_there_with_its_interval_and_classes(shown, tmp_path):
    found = read(shown, tmp_path)
    results = [(name, result) for name, model in found["models"].items() for result in model["results"]]
    assert len(results) == len(shown.records)
    for (name, result), record in zip(
        results, sorted(shown.records, key=lambda r: list(found["models"]).index(f"{r.model}/{r.defense}"))
    ):
        assert name == f"{record.model}/{record.defense}" and result["interval"] == list(record.interval)
        assert (result["correct"], result["n"], result["eps"]) == (record.correct, record.n, record.eps)
        if record.protocol == "transfer":
            assert "classes" not in result
            continue
        for number, row in enumerate(result["classes"]):
            own = record.per_image[LABELS[: record.n] == number]
            assert (row["class"], row["n"], row["correct"]) == (shown.class_names[number], len(own), int(own.sum()))
            assert row["interval"] == pytest.approx(wilson_interval(int(own.sum()), len(own)), abs=1e-6)
    model = found["models"]["resnet18/baseline"]
    assert [check["answer"] for check in model["gradient_masking"]] == ["passed", "suspicious"]
    assert model["sha256"]["model.keras"] == "cc33" and found["data"]["sha256"] == {"images": "aa11", "split": "bb22"}
    assert model["share_that_fools_after_rounding_to_8_bits"] == {"pgd": [0.75, None]}
    assert found["versions"]["python"] == "3.11.1" and "120 of 600" in found["data"]["test_images"]
    assert found["name"] == found["signature"] == ""


def test_attacks_have_their_settings_seeds_and_sizes(shown, tmp_path):
    attacks = {each["attack"]: each for each in read(shown, tmp_path)["attacks"]}
    assert set(attacks) == {"fgsm", "pgd", "pgd(steps=50)"}  # the worst case is none
    assert attacks["pgd(steps=50)"] == {
        "attack": "pgd(steps=50)", "settings": {"steps": 50}, "seed": 0, "eps": [0.01, 0.1], "images": [100],
    }  # fmt: skip


def test_what_was_not_tested_follows_from_what_was(shown, data, origin):
    few = "\n".join(evidence.not_tested(shown))
    assert "the L2 norm" in few and "the L∞ norm" not in few and "larger than 0.1 in L∞" in few
    assert "AutoAttack" in few and "outputs only" in few and "as it is deployed" in few
    assert "masked" not in few and "8 bits" not in few
    strong = make_record("resnet18", "baseline", "whitebox", 0.5, attack="autoattack", settings={"norm": "l2"})
    deployed = dataclasses.replace(origin, access={"resnet18/baseline": "The file decides."})
    more = dataclasses.replace(shown, records=(*shown.records, strong), origin=deployed)
    left = "\n".join(evidence.not_tested(more))
    assert "L2 norm" not in left and "outputs only" not in left
    assert "AutoAttack with its default settings in L∞, which may lower" in left  # it was run in L2
    assert "larger than 0.5 in L2" in left and "deployed" not in left and "physical world" in left
    words = "\n".join(evidence.threat_model(more))
    assert "eps = 0.01 (2.55 of 255 grey levels), 0.1 (25.5" in words and "In L2" in words and "0.5;" in words
    assert "The file decides." in words and "another model" in words
    assert "signs of masked gradients" in evidence.not_tested(data)


def test_only_of_models_with_a_gradient_the_attacker_follows_it(shown, origin):
    names = {f"{record.model}/{record.defense}" for record in shown.records}
    blind = dataclasses.replace(origin, access=dict.fromkeys(names, "Attacks have no gradient."))
    words = "\n".join(evidence.threat_model(dataclasses.replace(shown, origin=blind)))
    assert "follows its gradient" not in words and "no gradient" in words
    some = dataclasses.replace(origin, access={min(names): "Attacks have no gradient."})
    assert "follows its gradient" in "\n".join(evidence.threat_model(dataclasses.replace(shown, origin=some)))


def test_what_was_tested_in_other_norms_and_without_an_attacker(shown):
    records = [
        make_record("resnet18", "baseline", "whitebox", 4.0, attack="fmn", settings={"norm": "l1"}),
        make_record("resnet18", "baseline", "whitebox", 24.0, attack="sparse-rs", settings={"norm": "pixels"}),
        make_record(
            "resnet18", "baseline", "whitebox", None, attack="fog", settings={"corruption": "fog", "constants": "c"}
        ),
        make_record("resnet18", "baseline", "whitebox", None, attack="spatial", settings={"angles": 3}),
        make_record("resnet18", "baseline", "whitebox", None, attack="patch", settings={"size": 0.1}),
    ]
    more = dataclasses.replace(shown, records=(*shown.records, *records))
    words, left = "\n".join(evidence.threat_model(more)), evidence.not_tested(more)
    assert (
        "The L1 norm of the change is at most eps = 4." in words and "corrupted by fog." in words and "rotated" in words
    )
    assert "A square of each image" in words and not any("patches" in line for line in left)
    assert any("patches" in line for line in evidence.not_tested(shown))
    assert "other common corruptions" in left and "rotations and translations" not in left
    assert "The L0 (pixels) norm of the change is at most eps = 24." in words
    assert not any("L1 norm" in line or "(pixels) norm" in line for line in left)
    assert any("L0 (values) norm" in line for line in left)


def test_the_worst_class_is_first_on_the_page(shown, tmp_path):
    tables = {table.title.split(":")[0]: table for table in evidence.class_tables(shown)}
    table = tables["resnet18/baseline"]
    assert "under the worst case of fgsm, pgd, pgd(steps=50) at eps 0.1" in table.title
    attacked = [float(row[4].split()[0]) for row in table.rows]
    assert len(attacked) == 3 and attacked == sorted(attacked)
    page.write(tmp_path, shown)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for words in ('id="evidence"', "Not tested", "120 of 600", "cc33", "physical world", "Signature", table.title):
        assert words in text
    assert "None" not in text and "compliant" not in text.lower()


def test_without_an_origin_there_is_no_appendix(data, tmp_path):
    found = read(data, tmp_path)
    assert "sha256" not in found["data"] and "classes" not in next(iter(found["models"].values()))["results"][0]
    page.write(tmp_path, data)
    assert 'id="evidence"' not in (tmp_path / "report.html").read_text(encoding="utf-8")
