"""Model cards."""

from __future__ import annotations

import dataclasses
import json
import re

from tests.report.conftest import make_record
from tfadv.report import model_cards
from tfadv.specs import folder_name


def cards(data, folder):
    """Name of a card → (its metadata, its text)."""
    model_cards.write(folder, data)
    found = {}
    for path in (folder / "model_cards").iterdir():
        _, metadata, text = path.read_text(encoding="utf-8").split("---\n", 2)
        found[path.stem] = json.loads(metadata), text
    return found


def test_there_is_a_card_for_each_model_with_each_of_its_accuracies_and_no_other(full_data, tmp_path):
    found = cards(full_data, tmp_path)
    assert set(found) == {f"{model}_{defense}" for model in full_data.models for defense in full_data.defenses}
    for model in full_data.models:
        for defense in full_data.defenses:
            metadata, text = found[f"{model}_{defense}"]
            own = [record for record in full_data.records if (record.model, record.defense) == (model, defense)]
            (index,) = metadata["model-index"]
            metrics = index["results"][0]["metrics"]
            assert [metric["value"] for metric in metrics] == [round(100 * record.accuracy, 2) for record in own]
            assert all(record.interval_text in text for record in own)
            assert text.count("| ") >= len(own)


def test_a_card_tells_how_the_model_was_trained_and_what_the_checks_found(full_data, tmp_path):
    name, training = "resnet18/baseline", full_data.training["resnet18/baseline"]
    collapsed = dataclasses.replace(training, collapsed_epoch=7)
    found = cards(dataclasses.replace(full_data, training={name: collapsed}), tmp_path)
    text = found["resnet18_baseline"][1]
    assert "900 forward and backward passes of single images, 1.0 minutes" in text
    assert "2, of which epoch 2 was kept" in text and "collapsed in epoch 7" in text
    assert "SUSPICIOUS, black box: It succeeds on 9." in text and "Fine." not in text
    assert "    tfadv --flagfile=flags.txt" in text and "seed: 0" in text
    other = found["resnet50_baseline"][1]
    assert "SUSPICIOUS" not in other and "Gradient masking" not in other and "epoch" not in other


def test_the_card_of_a_model_that_guesses_says_so_and_no_other(data, tmp_path):
    poor = [dataclasses.replace(r, accuracy=0.52) for r in data.records if r.protocol == "clean"][:1]
    records = tuple(r for r in data.records if (r.model, r.defense, r.protocol) != ("resnet18", "baseline", "clean"))
    shown = dataclasses.replace(data, records=(*poor, *records), largest_share=0.5)
    named = [name for name, (_, text) in cards(shown, tmp_path).items() if "hardly better than always" in text]
    assert named == ["resnet18_baseline"]


def test_a_card_tells_which_attacks_ended_early(full_data, tmp_path):
    first, *others = full_data.records
    data = dataclasses.replace(full_data, records=(dataclasses.replace(first, of=4_000), *others))
    found = {name: text for name, (_, text) in cards(data, tmp_path).items()}
    assert {name for name, text in found.items() if model_cards.EARLY in text} == {f"{first.model}_{first.defense}"}
    assert f"{first.n:,} of 4,000 |" in found[f"{first.model}_{first.defense}"]


def test_a_card_names_the_file_of_the_model_as_it_is_on_the_disk(data, tmp_path):
    records = tuple(dataclasses.replace(r, defense="nfgsm(share=0.5)") for r in data.records if r.model == "resnet18")
    ((_, text),) = cards(dataclasses.replace(data, records=records), tmp_path).values()
    assert f'"models/resnet18/{folder_name("nfgsm(share=0.5)")}/model.keras"' in text


def test_a_model_without_results_has_no_card(data, tmp_path):
    clean = next(record for record in data.records if record.defense == "baseline")
    records = (*data.records, dataclasses.replace(clean, model="resnet101"))
    found = cards(dataclasses.replace(data, records=records), tmp_path)
    assert "resnet101_baseline" in found and "resnet101_retrained" not in found


def test_a_size_in_another_norm_names_it(data):
    records = [
        make_record("resnet18", "baseline", "whitebox", 0.5, attack="ddn", settings={"norm": "l2"}),
        make_record("resnet18", "baseline", "whitebox", 3.0, attack="sparse-rs", settings={"norm": "pixels"}),
        make_record("resnet18", "baseline", "whitebox", 0.1, attack="pgd", settings={"norm": "linf"}),
    ]
    text = model_cards.card(data, "resnet18", "baseline", records)
    assert (
        "ddn, eps 0.5 in L2" in text
        and "sparse-rs, eps 3 in L0 (pixels)" in text
        and re.search(r"pgd, eps 0\.1 +\|", text)
    )
