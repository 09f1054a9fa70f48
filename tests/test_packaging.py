"""The wheel, the continuous integration script and the list of packages."""

import configparser
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

import tfadv

ROOT = pathlib.Path(__file__).parents[1]
TEST_COMMAND = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m pytest"


def tracked_files():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:  # no git, or a copy of the sources without its history, as `.ci/run` makes it
        folders = ("tfadv", "flags")
        files = [p for folder in folders for p in (ROOT / folder).rglob("*") if "__pycache__" not in p.parts]
        return [str(p.relative_to(ROOT)) for p in files if p.is_file()] + [
            "setup.cfg",
            "pyproject.toml",
            "README.md",
            "LICENSE",
        ]
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_every_package_is_listed():
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in ROOT.glob("tfadv/**/*.py")}
    assert setup_cfg()["options"]["packages"].split() == sorted({*folders, "tfadv.flagfiles"})


def test_ci_runs_the_readmes_command_after_lint_and_types_and_leaves_venvs_alone():
    """In 0.1, `.ci/run` removed a contributor's .venv."""
    script = (ROOT / ".ci/run").read_text()
    commands = [line for line in script.splitlines() if line and not line.startswith("#")]
    assert commands[-2:] == [TEST_COMMAND, ".venv/bin/python -m pytest -m packaging"]
    assert TEST_COMMAND in (ROOT / "README.md").read_text()
    for command in ("ruff check", "ruff format --check", "mypy"):
        assert f".venv/bin/{command}" in commands
    assert commands.index('cd "$work/tfadv"') < min(i for i, line in enumerate(commands) if ".venv" in line)
    assert "rm -rf .venv" not in script
    assert subprocess.run(["bash", "-n", ROOT / ".ci/run"]).returncode == 0


def test_hosted_ci_covers_the_supported_versions():
    workflow = (ROOT / ".github/workflows/test.yml").read_text()
    for version in ("3.11", "3.12", "3.13"):
        assert f'"{version}"' in workflow and f"Python :: {version}" in setup_cfg()["metadata"]["classifiers"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder in which the wheel of this checkout is installed, without its dependencies."""
    work = tmp_path_factory.mktemp("wheel")
    for name in tracked_files():
        if name.split("/")[0] in ("tfadv", "flags", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
            (work / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, work / "source" / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(work), str(work / "source")]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    [wheel] = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(work / "installed")
    return work / "installed"


def run_installed(installed, folder, *arguments):
    """Runs the installed package in an empty folder."""
    code = f"import sys; sys.path.insert(0, {str(installed)!r}); from tfadv.main import run; run()"
    folder.mkdir()
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=folder)


@pytest.mark.packaging
def test_the_wheel_has_modules_flagfiles_and_the_command(installed):
    for name in tracked_files():
        if name.startswith("tfadv/"):
            assert (installed / name).is_file(), name
        elif name.startswith("flags/"):
            assert (installed / "tfadv/flagfiles" / pathlib.Path(name).name).is_file(), name
    assert {path.name.split("-")[0] for path in installed.iterdir()} == {"tfadv"}  # no tests, no benchmarks
    [info] = installed.glob("*.dist-info")
    assert info.name == f"tfadv-{tfadv.__version__}.dist-info"
    assert "tfadv = tfadv.main:run" in (info / "entry_points.txt").read_text()


@pytest.mark.packaging
def test_the_installed_command_knows_its_flagfiles(installed, tmp_path):
    done = run_installed(installed, tmp_path / "empty", "--flagfile=smok")
    assert done.returncode == 1 and "did you mean 'smoke'" in done.stderr
    done = run_installed(installed, tmp_path / "help", "--flagfile=smoke", "--help")
    assert done.returncode == 0 and "quickstart" in done.stdout


@pytest.mark.packaging
def test_the_installed_command_runs_the_smoke_flagfile_from_an_empty_folder(installed, tmp_path):
    done = run_installed(installed, tmp_path / "empty", "--flagfile=smoke")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "empty/runs/smoke/report/report.html").is_file()
    assert "Report: runs/smoke/report/report.html" in done.stdout
    assert done.stderr.splitlines()[0].endswith(f"tfadv {tfadv.__version__}: digits, stage all, in runs/smoke")
