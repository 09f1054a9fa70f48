"""`--stage=status`."""

import shutil

from tfadv.store.workdir import Workdir


def states(stdout):
    """Entry → state."""
    lines = [line.split() for line in stdout.partition("\n\n")[0].splitlines()]
    return {line[1]: line[0] for line in lines}


def test_everything_is_done_after_a_run(smoke):
    stdout = smoke.succeed("--stage=status")
    assert set(states(stdout)) == set(smoke.dates()) and set(states(stdout).values()) == {"done"}
    assert "12 done in" in stdout and "missing" not in stdout
    size = sum(path.stat().st_size for path in smoke.workdir.rglob("*") if path.is_file())
    assert f"{size / 1e6:.1f} MB on disk" in stdout


def test_status_names_what_is_stale_missing_unfinished_or_damaged(smoke, tmp_path):
    run = smoke.copy(tmp_path / "run")
    shutil.rmtree(run.workdir / "gallery/resnet_tiny/baseline")
    part = run.workdir / "parts/evaluations/resnet_tiny/retrained"
    shutil.rmtree(run.workdir / "evaluations/resnet_tiny/retrained")
    part.mkdir(parents=True)
    manifest = run.workdir / "evaluations/resnet_tiny/augmented/manifest.json"
    manifest.write_text(manifest.read_text().replace("fgsm", "pgd"))
    before = run.dates()
    stdout = run.succeed("--stage=status", "--retrain_epochs=2")
    found = states(stdout)
    assert found["split"] == found["models/resnet_tiny/baseline"] == "done"
    assert found["models/resnet_tiny/augmented"] == found["models/resnet_tiny/retrained"] == "stale"
    assert found["gallery/resnet_tiny/baseline"] == "missing"
    assert found["evaluations/resnet_tiny/retrained"] == "unfinished"
    assert found["evaluations/resnet_tiny/augmented"] == "damaged"
    assert "run the same command with --stage=report" in stdout
    assert run.dates() == before  # it builds and changes nothing
    # With other images, nothing is up to date.
    found = states(run.succeed("--stage=status", "--train_size=200"))
    assert "done" not in found.values() and found["split"] == "stale"


def test_status_of_attacks_counts_those_of_other_commands(smoke, tmp_path):
    run = smoke.copy(tmp_path / "run")
    shutil.copytree(run.workdir / "split", run.workdir / "attacks/resnet_tiny/baseline/pgd")
    stdout = run.succeed("--stage=status", "--attacks=fgsm", "--eval_size=8")
    assert states(stdout)["attacks/resnet_tiny/baseline/fgsm"] == "missing" and "1 more, of other" in stdout


def test_status_works_while_another_process_uses_the_folder(smoke, tmp_path):
    folder = tmp_path / "new"
    run = type(smoke)(folder, smoke.data_dir)
    found = states(run.succeed("--stage=status"))
    assert set(found.values()) == {"missing"} and not folder.exists()
    with Workdir(folder):
        assert states(run.succeed("--stage=status")) == found
