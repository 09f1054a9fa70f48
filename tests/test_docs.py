"""The documentation: its commands are accepted, its Python code runs as written, and the site has no broken link."""

import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from tfadv.command_line import CommandLine

ROOT = pathlib.Path(__file__).parents[1]
DOCS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md"))
PAGES = ["README.md", "CONTRIBUTING.md", "BUILD_NOTES.md", *DOCS]
OWN_TEST = {"docs/tutorial.md", "docs/extending.md"}  # the latter: test_documented_extensions.py

# What the reader has: a softmax model on pixels from 0 to 255, and images.
GIVEN = """
import tfadv, keras, numpy as np, tensorflow as tf
x = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
y = np.arange(24) % 3
x_test, y_test = x_val, y_val = x, y
x_train, y_train = np.repeat(x, 4, axis=0), np.repeat(y, 4)
model = keras.Sequential([
    keras.Input((16, 16, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(4, 3, strides=2),
    keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax"),
])
np.save("fog.npy", np.tile(x, (5, 1, 1, 1)))
np.save("labels.npy", np.tile(y, 5))
model.save("mine.keras")
model.export("saved", verbose=False)
open("mine_int8.tflite", "wb").write(tf.lite.TFLiteConverter.from_saved_model("saved").convert())
model, x = tfadv.classifier(model, input_range=(0, 255)), x.astype("float32") / 255
"""


def commands(page):
    """Arguments of the tfadv commands in indented code of a page, but for those that need files of the reader."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^    .*?\b(?:tfadv|python -m tfadv\.main) (--.*)$", text, re.MULTILINE):
        arguments = shlex.split(line, comments=True)
        if not any(
            word.startswith(("--plugins=", "--models=mine", "--models=http:", "--flagfile=runs/")) for word in arguments
        ):
            yield arguments


def code(page):
    """The Python code of a page, with attacks and training that take seconds."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    text = "\n".join(blocks)
    for slow, fast in (
        (r'"autoattack"', '"autoattack(steps=2,queries=5)"'),
        (r"epochs=\d+", "epochs=1"),
        (r"steps=50", "steps=2"),
    ):
        text = re.sub(slow, fast, text)
    return text


def run(folder, text):
    done = subprocess.run([sys.executable, "-c", text], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_accepted(page):
    for arguments in commands(page):
        line = CommandLine(arguments)
        assert line.help or line.config(), arguments


def test_the_pages_have_commands():
    assert sum(len(list(commands(page))) for page in PAGES) >= 15


@pytest.mark.packaging
def test_the_code_of_the_pages_runs(tmp_path):
    """All pages in one process, each after what it takes as given."""
    pages = [page for page in PAGES if code(page) and page not in OWN_TEST]
    assert {"README.md", "docs/fit.md", "docs/own_model_and_images.md", "docs/gradient_masking.md"} < set(pages)
    out = run(tmp_path, "\n".join(f"{GIVEN}\nprint('page', {page!r})\n{code(page)}" for page in pages))
    text = {part.split("\n")[0]: part for part in out.split("page ")[1:]}
    assert text.keys() == set(pages)
    assert text["README.md"].count("autoattack, eps 0.1: ") == 2 and "of 12 checks" in text["README.md"]
    assert (tmp_path / "hardened.keras").is_file()


@pytest.mark.packaging
def test_the_code_and_the_command_of_the_tutorial_run(tmp_path, monkeypatch):
    out = run(tmp_path, code("docs/tutorial.md"))
    assert "clean: " in out and "autoattack, eps 0.1:" in out and out.count("passed") + out.count("FAILED") == 12
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(r"^    tfadv (--models=mine.*)$", text, re.MULTILINE)
    config = CommandLine(shlex.split(line)).config()
    assert config.models == ("mine.keras",) and config.defenses == "nfgsm(epochs=30)"


def printed(page):
    """The lines of a page that show what its Python code prints, with figures left out."""
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = re.findall(r"^    ((?:clean|fgsm|autoattack|\d+ of).*(?:images|robust|passed).*)$", text, re.MULTILINE)
    return [re.sub(r"[\d.]+", "0", line) for line in lines]


def test_the_output_that_readme_shows_has_the_form_of_what_is_printed():
    import numpy as np

    from tfadv.evaluation.result import Result

    result = Result("autoattack", {}, 0.1, np.ones(360, bool), np.ones((1, 360), bool))
    summary = [re.sub(r"[\d.]+", "0", line) for line in result.summary().splitlines()]
    assert printed("README.md") == [*summary, *summary, "0 of 0 checks for gradient masking passed"]
    assert set(summary) <= set(printed("docs/tutorial.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built as BUILD_NOTES.md says."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.packaging
def test_the_site_has_every_page_and_loads_nothing_from_elsewhere(site):
    for page in DOCS:
        text = (site / pathlib.Path(page).relative_to("docs").with_suffix(".html")).read_text(encoding="utf-8")
        loaded = re.findall(
            r'<(?:script|img|link rel="(?:stylesheet|icon|preconnect)")[^>]*?(?:src|href)="(http[^"]*)"', text
        )
        assert not loaded, page


@pytest.mark.packaging
def test_the_table_of_models_is_sorted_by_the_script_of_the_site(site):
    text = (site / "results.html").read_text(encoding="utf-8")
    assert '<div class="sortable">\n<table>' in text and 'src="table.js"' in text and 'href="table.css"' in text
    assert (site / "table.js").is_file() and len(set(re.findall(r'href="(results/\w+/results.json)"', text))) > 15


@pytest.mark.packaging
def test_the_site_lists_every_flag_attack_defense_and_check(site):
    from tfadv.attacks import ATTACKS
    from tfadv.config import Config
    from tfadv.defenses import DEFENSES
    from tfadv.evaluation.checks import RULES
    from tfadv.settings import settings_of

    def text(page):
        return (site / page).read_text(encoding="utf-8")

    assert all(f'id="{name}"' in text("reference/flags.html") for name, _, _ in settings_of(Config))
    assert all(f">{name}</code></a>" in text("reference/attacks.html") for name in ATTACKS)
    assert all(f">{name}</code></a>" in text("reference/defenses.html") for name in DEFENSES)
    assert all(f"<strong>{name}.</strong>" in text("gradient_masking.html") for name in RULES)
    assert "input_range" in text("reference/python.html") and "Wilson interval" in text("reference/python.html")
