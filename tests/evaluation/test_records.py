from __future__ import annotations

import json

import numpy as np
import pytest

from tfadv.attacks import AutoAttack
from tfadv.evaluation.records import (
    AUTOATTACK_NUMBERS,
    AUTOATTACK_PARTS,
    ModelId,
    Record,
    attack_records,
    fgsm_records,
    is_full_autoattack,
    with_outcomes,
    worst_case_records,
)

MODEL = ModelId("digits", "resnet18", "retrained", seed=3)
COST = {"gradients": 10, "forwards": 7, "seconds": 1.5, "fallbacks": {"dlr": "margin"}, "remaining": {}}


def rows(*counts, n=4):
    return np.array([[i < count for i in range(n)] for count in counts])


# An entry of results.json.
ENTRY = """{
 "dataset": "digits",
 "model": "resnet18",
 "defense": "retrained",
 "protocol": "transfer",
 "source": "resnet18/baseline",
 "attack": "fgsm",
 "eps": 0.01,
 "accuracy": 0.75,
 "interval": [
  0.300642,
  0.954413
 ],
 "correct": 3,
 "n": 4,
 "settings": null,
 "cost": null,
 "seed": 3
}"""


def test_fgsm_records_and_their_form_in_results_json():
    records = fgsm_records(MODEL, (0.01, 0.02), rows(4)[0], rows(2, 1), rows(3, 0), "resnet18/baseline")
    assert [(r.protocol, r.eps, r.correct, r.source) for r in records] == [
        ("clean", None, 4, None),
        ("whitebox", 0.01, 2, None),
        ("whitebox", 0.02, 1, None),
        ("transfer", 0.01, 3, "resnet18/baseline"),
        ("transfer", 0.02, 0, "resnet18/baseline"),
    ]
    assert json.dumps(records[3].to_dict(), indent=1) == ENTRY
    assert [r.attack for r in records] == [None, "fgsm", "fgsm", "fgsm", "fgsm"]


def test_without_a_surrogate_there_are_no_transfer_records():
    records = fgsm_records(MODEL, (0.01,), rows(4)[0], rows(2))
    assert [r.protocol for r in records] == ["clean", "whitebox"]


def test_a_wrong_number_of_eps_is_refused():
    with pytest.raises(ValueError):
        fgsm_records(MODEL, (0.01,), rows(4)[0], rows(2, 1))


def test_attack_records_have_settings_and_cost_per_image():
    records = attack_records(MODEL, (0.1, 0.2), rows(3, 1), "pgd", {"steps": 50}, COST, label="pgd(steps=50)")
    first = records[0].to_dict()
    assert first["settings"] == {"steps": 50} and first["label"] == "pgd(steps=50)" and first["protocol"] == "whitebox"
    assert first["cost"] == COST | {"gradients_per_image": 2.5, "forwards_per_image": 1.75}
    assert [r.correct for r in records] == [3, 1]


def test_the_label_is_stored_only_where_it_differs_from_the_name():
    (record,) = attack_records(MODEL, (0.1,), rows(3), "pgd", {"steps": 10}, COST, label="pgd")
    assert "label" not in record.to_dict() and record.attack_label == "pgd"


def test_the_median_distance_is_stored_and_may_be_infinite():
    distances = np.array([0, 0.1, 0.2, 0.4, 0.5, 0.6, np.inf, np.inf])
    args = MODEL, (0.3,), (distances > 0.3)[None], "fmn", {"norm": "l2"}, COST, "fmn"
    (record,) = attack_records(*args, distances)
    entry = json.loads(json.dumps(record.to_dict(), allow_nan=False))
    assert entry["median_distance"] == 0.4 and entry["median_interval"] == [0, None] and "distances" not in entry
    assert Record.from_dict(entry) == record and record.median_interval == (0, np.inf)
    assert record.median_text == "0.4 [0, inf] l2"
    assert with_outcomes(record, record.per_image[2:]).median_distance is None
    (unknown,) = attack_records(*args)
    assert "median_distance" not in unknown.to_dict() and unknown.median_text is None


def test_worst_case_records_name_the_attacks():
    (record,) = worst_case_records(MODEL, (0.1,), rows(1), ["fgsm", "pgd(steps=50)"])
    assert (record.attack, record.settings) == ("worst", {"attacks": ["fgsm", "pgd(steps=50)"]})
    assert record.cost is None and record.correct == 1


def test_records_survive_json():
    records = fgsm_records(MODEL, (0.01,), rows(4)[0], rows(2), rows(3), "resnet18/baseline")
    records += attack_records(MODEL, (0.1,), rows(3), "pgd", {"steps": 50}, COST, label="pgd(steps=50)")
    for record in records:
        assert Record.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_unknown_keys_are_refused():
    with pytest.raises(TypeError):
        Record.from_dict(json.loads(ENTRY) | {"unknown": 1})


def test_records_know_their_images_and_results_json_does_not():
    (record,) = attack_records(MODEL, (0.01,), rows(3), "pgd", {"steps": 2}, COST)
    assert record.per_image.tolist() == [True, True, True, False]
    assert "per_image" not in record.to_dict() and Record.from_dict(record.to_dict()).per_image is None
    assert Record.from_dict(record.to_dict()) == record  # whether its images are known or not
    cut = with_outcomes(record, record.per_image[2:])
    assert (cut.n, cut.correct, cut.accuracy, cut.attack) == (2, 1, 0.5, "pgd")


def test_autoattack_is_full_with_all_parts_and_no_weaker_than_its_defaults():
    settings = AutoAttack().settings()
    assert AUTOATTACK_PARTS == tuple(settings["attacks"])
    assert AUTOATTACK_NUMBERS == {name: value for name, value in settings.items() if isinstance(value, int)}
    assert is_full_autoattack("autoattack", settings)
    assert is_full_autoattack("autoattack", settings | {"queries": 10_000, "norm": "l2"})
    weaker = [{"queries": 4_999}, {"steps": 99}, {"attacks": ["apgd-ce", "square"]}, {"precision": "mixed_bfloat16"}]
    assert not any(is_full_autoattack("autoattack", settings | changed) for changed in weaker)
    assert not is_full_autoattack("apgd-ce", settings) and not is_full_autoattack(None, None)
