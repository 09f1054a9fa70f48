"""The report's format for TensorBoard."""

import dataclasses

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from tfadv.report import tensorboard


@pytest.fixture(scope="module")
def folder(full_data, tmp_path_factory):
    """The runs."""
    written = tmp_path_factory.mktemp("report")
    tensorboard.write(written, full_data)
    return written / "tensorboard"


@pytest.fixture(scope="module")
def run(folder):
    """The run of resnet18/baseline, read back."""
    sizes = {"tensors": 0}  # all of them
    return EventAccumulator(str(folder / "resnet18/baseline"), sizes).Reload()


def test_there_is_a_run_per_model_and_defense(full_data, folder):
    names = {path.parent.relative_to(folder).as_posix() for path in folder.rglob("events*")}
    assert names == {f"{model}/{defense}" for model in full_data.models for defense in full_data.defenses}


def test_metrics_are_the_accuracies_of_the_records(full_data, run):
    metrics = tensorboard.accuracies(full_data, "resnet18", "baseline")
    clean = full_data.record("resnet18", "baseline", "clean").accuracy
    fgsm = full_data.record("resnet18", "baseline", "whitebox", 0.1).accuracy
    assert metrics == {"clean": clean, "FGSM, eps 0.1": fgsm, "pgd, eps 0.1": 0.12} and len({clean, fgsm, 0.12}) == 3
    assert set(tensorboard.accuracies(full_data, "resnet50", "baseline")) == {"clean", "FGSM, eps 0.1"}
    for name, accuracy in metrics.items():
        (event,) = run.Tensors(name)
        assert tf.make_ndarray(event.tensor_proto) == pytest.approx(accuracy)


def test_hparams_name_the_run(run):
    content = run.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    assert found["model"].string_value == "resnet18" and found["defense"].string_value == "baseline"
    assert found["epochs"].number_value == 2 and found["gradients"].number_value == 900
    assert found["seed"].number_value == 0


def test_images_and_margins_have_a_step_for_each_eps(full_data, run):
    shown = full_data.gallery.models["resnet18/baseline"]
    clean, *attacked = run.Tensors("images")
    assert [event.step for event in attacked] == [1, 2]
    pictures = clean.tensor_proto.string_val[2:]
    assert len(pictures) == 8 and (tf.image.decode_png(pictures[3]).numpy() == full_data.gallery.images[3]).all()
    pictures = attacked[1].tensor_proto.string_val[2:]
    assert (tf.image.decode_png(pictures[5]).numpy() == shown.adversarial[1, 5]).all()
    no_change, *_, largest = run.Tensors("perturbations")
    assert (tf.image.decode_png(no_change.tensor_proto.string_val[2]).numpy() == 127).all()
    pixels = tf.image.decode_png(largest.tensor_proto.string_val[2]).numpy()
    assert pixels.min() < 40 and pixels.max() > 215  # 0.5 ± 0.4 of the range
    for step, event in enumerate(run.Tensors("margin")):
        buckets = tf.make_ndarray(event.tensor_proto)
        assert event.step == step and buckets[:, 2].sum() == shown.margins.shape[1]
        assert buckets[0, 0] == pytest.approx(shown.margins[step].min())
    assert len(run.Tensors("confusion_matrix")) == 3


def test_results_without_images_have_metrics_only(data, tmp_path):
    tensorboard.write(tmp_path, dataclasses.replace(data, gallery=None))
    run = EventAccumulator(str(tmp_path / "tensorboard/resnet50/baseline")).Reload()
    assert "clean" in run.Tags()["tensors"] and "images" not in run.Tags()["tensors"]


def test_a_confusion_matrix_of_many_classes_has_no_numbers():
    few = tensorboard.confusion_figure(tf.eye(3, dtype=tf.int32).numpy(), ("a", "b", "c"), "clean")
    many = tensorboard.confusion_figure(tf.eye(100, dtype=tf.int32).numpy(), tuple(map(str, range(100))), "clean")
    assert [text.get_text() for text in few.axes[0].texts] == ["1"] * 3 and not many.axes[0].texts
