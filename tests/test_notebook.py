"""The Colab notebook runs from top to bottom."""

import os
import pathlib
import sys

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = pathlib.Path(__file__).parents[1] / "notebooks/tfadv_colab.ipynb"


def parameters_cell(notebook):
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    return cell


def texts(notebook):
    """What the cells printed, by their id."""
    outputs = {cell.id: cell.get("outputs", ()) for cell in notebook.cells}
    return {id: "".join(output.get("text", "") for output in own) for id, own in outputs.items()}


def test_it_is_committed_without_outputs_and_downloads_nothing_unasked():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook.cells)
    values = {}
    exec(parameters_cell(notebook).source, values)
    assert values["SOURCE"] == values["PAPER"] == "" and not values["DRIVE"]


@pytest.fixture
def kernel_environment(tmp_path, monkeypatch):
    """The kernel finds this environment's `tfadv` and `tensorboard`; TensorBoard ends with the kernel."""
    monkeypatch.setenv("PATH", os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where TensorBoard notes its processes


@pytest.mark.packaging
def test_it_runs(kernel_environment, tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    parameters_cell(notebook).source += '\nFIVE_MINUTES = "--flagfile=smoke"'
    for cell in notebook.cells:
        cell.source = cell.source.replace('"autoattack"', '"autoattack(steps=2,queries=5)"')
        cell.source = cell.source.replace("epochs=30", "epochs=3").replace("x_test[:128]", "x_test[:32]")
        cell.source = cell.source.replace("y_test[:128]", "y_test[:32]")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = texts(notebook)
    assert printed["check"].startswith("tfadv ")
    assert "clean: " in printed["attack"] and "autoattack, eps 0.1" in printed["proof"]
    assert printed["proof"].count("passed") + printed["proof"].count("FAILED") == 12
    assert (tmp_path / "runs/five_minutes/report/report.html").is_file() and (tmp_path / "hardened.keras").is_file()
    (cell,) = [cell for cell in notebook.cells if cell.id == "report"]
    assert 'srcdoc="&lt;!DOCTYPE html' in "".join(
        output.get("data", {}).get("text/html", "") for output in cell.outputs
    )
    (cell,) = [cell for cell in notebook.cells if cell.id == "tensorboard"]
    assert "tensorboard-frame" in str(cell.outputs) and "ERROR" not in str(cell.outputs)
