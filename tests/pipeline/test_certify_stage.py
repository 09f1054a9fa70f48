"""`--stage=certify`, with a model that the defense `gaussian` has trained."""

import keras
import numpy as np

import tfadv
from tests.pipeline.test_pictures_and_explanations import tested  # noqa: F401
from tfadv.evaluation.certificate import Certificate

FLAGS = ("--defenses=gaussian(sigma=0.1, epochs=1)", "--eval_size=40", "--copies=60")
TRAINED = "resnet_tiny/gaussian_epochs=1_sigma=0.1"


def test_models_are_certified_once_and_reported(smoke, tested, tmp_path, long):  # noqa: F811
    run = smoke.copy(tmp_path / "run")
    before = run.dates()
    stdout = run.succeed("--stage=certify", *FLAGS)
    folders = [path.parent for path in run.workdir.glob("certificates/*/*/certificate.npz")]
    names = {folder.relative_to(run.workdir).as_posix() for folder in folders}
    assert names < run.rebuilt(before) and "certificates/resnet_tiny/baseline" in names and len(names) == 2
    assert "Certified accuracy of the smoothed classifier in L2" in stdout and "radius 0.1" not in stdout
    text = (run.workdir / "report/report.md").read_text()
    assert "certified_resnet_tiny.png" in text and (run.workdir / "report/certified_resnet_tiny.png").is_file()
    assert "Certified accuracy" in (run.workdir / "report/report.html").read_text()
    _, images, y = tested
    for folder, sigma in ((folder, 0.25 if folder.name == "baseline" else 0.1) for folder in folders):
        found = Certificate.load(folder / "certificate.npz")
        assert (found.sigma, found.n, len(found.labels)) == (sigma, 60, 40)
        model = keras.models.load_model(run.workdir / "models/resnet_tiny" / folder.name / "model.keras")
        own = tfadv.certify(model, images[:40], y[:40], sigma, 60, seed=0, batch_size=128)
        np.testing.assert_array_equal(own.counts, found.counts)  # in two parts or in one
    if not long:
        return
    # Another command reports what there is; and a model that was trained with noise does not depend on --epsilons.
    before = run.dates()
    run.succeed("--stage=report", FLAGS[0], "--epsilons=0.05")
    assert not {name for name in run.rebuilt(before) if name.startswith(("models", "certificates"))}
    assert "certified_resnet_tiny.png" in (run.workdir / "report/report.md").read_text()
    assert "done        certificates/resnet_tiny/baseline" in run.succeed("--stage=status", *FLAGS, "--epsilons=0.05")


def test_too_few_copies_are_refused(smoke):
    done = smoke("--stage=certify", "--copies=9")
    assert done.returncode == 1 and "--copies" in done.stderr and "Traceback" not in done.stderr
