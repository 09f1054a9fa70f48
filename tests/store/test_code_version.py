"""The version of an artifact's code: every change that can change a result changes it, and no other change does."""

import functools
import importlib.util
import itertools
import json
import pathlib
import shutil
import subprocess
import sys
import textwrap

import pytest

from tfadv.errors import UserError
from tfadv.store import code_version as original

ROOT = pathlib.Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "tfadv").rglob("*.py")
)
_number = itertools.count()


def fresh(package):
    """The module `code_version` of a copy of tfadv, with nothing cached."""
    path = package / "store" / "code_version.py"
    spec = importlib.util.spec_from_file_location(f"copied_code_version_{next(_number)}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def package(tmp_path):
    """A copy of tfadv."""
    shutil.copytree(ROOT / "tfadv", tmp_path / "tfadv", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "tfadv"


@pytest.fixture
def toy(tmp_path):
    """Function that writes modules into a package that has nothing but `code_version`, and returns that."""
    package = tmp_path / "tfadv"
    (package / "store").mkdir(parents=True)
    shutil.copy(ROOT / "tfadv/store/code_version.py", package / "store")

    def write(**sources):
        for name, source in sources.items():
            path = package.joinpath(*name.split("__")).with_suffix(".py")
            path = path.with_name(path.name.replace("INIT", "__init__"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(source))
        return fresh(package)

    return write


def edit(path, old, new):
    source = path.read_text()
    assert old in source, path
    path.write_text(source.replace(old, new, 1))


def append(path, code):
    path.write_text(path.read_text() + code)


# ---- the package itself ---------------------------------------------------------------------------------

ROOTS = {"pgd": "tfadv.attacks.pgd", "evaluation": "tfadv.evaluation.masking", "training": "tfadv.training.trainer"}


def versions(package):
    module = fresh(package)
    return {name: module.code_version(root) for name, root in ROOTS.items()}


def test_of_a_copy_it_is_the_same(package):
    assert versions(package) == {name: original.code_version(root) for name, root in ROOTS.items()}


def test_a_changed_attack_changes_its_evaluation_and_leaves_training_alone(package):
    before = versions(package)
    append(package / "attacks" / "pgd.py", "\nSOMETHING = 1\n")
    after = versions(package)
    assert {name for name in ROOTS if before[name] != after[name]} == {"pgd", "evaluation"}


def test_what_attack_and_training_share_changes_both(package):
    before = versions(package)
    append(package / "models" / "accelerate.py", "\nSOMETHING = 1\n")
    after = versions(package)
    assert all(before[name] != after[name] for name in ROOTS)


def test_comments_docstrings_and_layout_change_nothing(package):
    before = versions(package)
    for path in (package / "attacks").glob("*.py"):
        append(path, "\n\n# a remark\n")
    path = package / "attacks" / "pgd.py"
    docstring = path.read_text().split('"""')[1]
    edit(path, docstring, "Another docstring.\n")
    edit(path, "\nfrom tfadv", "\n\n\nfrom tfadv")
    assert versions(package) == before


def test_plumbing_changes_nothing(package):
    before = versions(package)
    append(package / "store" / "files.py", "\nSOMETHING = 1\n")
    append(package / "errors.py", "\nSOMETHING = 1\n")
    append(package / "runtime" / "signals.py", "\nSOMETHING = 1\n")
    assert versions(package) == before


def test_training_does_not_depend_on_attacks():
    assert not [name for name in original.module_hashes("tfadv.training.trainer") if ".attacks" in name]


@pytest.mark.parametrize("name", MODULES)
def test_every_import_of_every_module_can_be_followed(name):
    assert len(original.code_version(name)) == 16


def test_is_known_without_tensorflow():
    code = "import sys; from tfadv.store.code_version import *; code_version('tfadv.attacks.pgd'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not {"tensorflow", "keras", "numpy", "tfadv.attacks.pgd"} & set(done.stdout.split())


# ---- what is followed -----------------------------------------------------------------------------------


def followed(module, root="tfadv.root"):
    return {name.removeprefix("tfadv.") for name in module.module_hashes(root)}


@pytest.mark.parametrize(
    "code, modules",
    [
        ("import tfadv.a.b", {"a.b"}),
        ("import tfadv.a.b as b", {"a.b"}),
        ("from tfadv.a import b", {"a.b"}),
        ("from tfadv.a.b import anything", {"a.b"}),
        ("from tfadv.a.b import *", {"a.b"}),
        ("from tfadv.a import table", {"a", "c"}),
        ("from tfadv.a import b, table", {"a", "a.b", "c"}),
        ("from .a import b", {"a.b"}),
        ("from . import c", {"c"}),
        ("from .c import anything", {"c"}),
        ("def function():\n    from tfadv.a import b", {"a.b"}),
        ("try:\n    import tfadv.c\nexcept ImportError:\n    pass", {"c"}),
        ("import typing\nif typing.TYPE_CHECKING:\n    import tfadv.c\nelse:\n    import tfadv.a.b", {"a.b"}),
        ("import numpy, os.path\nfrom json import dumps", set()),
        ("import tfadv.log\nfrom tfadv.log import line", set()),
    ],
)
def test_imports(toy, code, modules):
    module = toy(
        root=code,
        a__INIT="import tfadv.c\ntable = {}",
        a__b="",
        c="anything = 1",
        log="AFFECTS_RESULTS = False\nimport tfadv.c",
        INIT="",
    )
    assert followed(module) == modules | {"root"}


def test_chains_and_circles(toy):
    assert followed(toy(root="import tfadv.b", b="import tfadv.c", c="import tfadv.b")) == {"root", "b", "c"}


def test_relative_imports_of_a_package_and_its_modules(toy):
    module = toy(
        root="import tfadv.a.x", a__x="from . import y\nfrom ..c import z", a__y="", a__INIT="from .x import q", c=""
    )
    assert followed(module) == {"root", "a.x", "a.y", "c"}
    assert followed(module, "tfadv.a") == {"a", "a.x", "a.y", "c"}


def test_a_name_that_is_resolved_at_run_time_is_refused(toy):
    lazy = "def __getattr__(name):\n    from tfadv.a.b import hidden\n    return hidden"
    module = toy(root="from tfadv.a import hidden", a__INIT=lazy, a__b="hidden = 1")
    with pytest.raises(ImportError, match="tfadv.root imports hidden from tfadv.a: import it from the module that"):
        module.code_version("tfadv.root")


def test_a_lazy_name_is_followed_where_the_package_imports_it_for_type_checkers(toy):
    package = "import typing\nif typing.TYPE_CHECKING:\n    from tfadv.a.b import hidden\ndef __getattr__(name): ..."
    module = toy(root="from tfadv.a import hidden", a__INIT=package, a__b="hidden = 1")
    assert followed(module) == {"root", "a.b"}


def test_a_module_that_does_not_exist_is_named(toy):
    with pytest.raises(ImportError, match="there is no module tfadv.missing"):
        toy(root="import tfadv.missing").code_version("tfadv.root")


def test_a_root_counts_even_where_it_says_it_affects_nothing(toy):
    first = toy(root="AFFECTS_RESULTS = False\nx = 1").code_version("tfadv.root")
    assert toy(root="AFFECTS_RESULTS = False\nx = 2").code_version("tfadv.root") != first


CODE = '''
"""Docstring."""
def function(x: int = 1):
    """Docstring."""
    # comment
    return x + 1
class Some:
    """Docstring."""
    value = "text"
'''


@pytest.mark.parametrize(
    "old, new, same",
    [
        ('"""Docstring."""\ndef', "def", True),
        ("    # comment\n", "", True),
        ("x + 1", "(x\n        + 1)", True),
        ('    """Docstring."""\n    value', "    value", True),
        ("x + 1", "x + 2", False),
        ("= 1", "= 2", False),
        ('"text"', '"Text"', False),
        ("function", "other", False),
        ('    """Docstring."""\n    #', '    x = "Docstring."\n    #', False),
    ],
)
def test_what_counts_of_a_file(toy, old, new, same):
    assert old in CODE
    versions = {toy(root=source).code_version("tfadv.root") for source in (CODE, CODE.replace(old, new, 1))}
    assert len(versions) == (1 if same else 2)


def test_the_order_and_the_number_of_roots(toy):
    module = toy(a="x = 1", b="x = 2")
    assert module.code_version("tfadv.a", "tfadv.b") == module.code_version("tfadv.b", "tfadv.a", "tfadv.a")
    assert len({module.code_version(*roots) for roots in (["tfadv.a"], ["tfadv.b"], ["tfadv.a", "tfadv.b"])}) == 3


# ---- from outside of the package ------------------------------------------------------------------------


def test_an_attack_from_outside_counts_with_its_own_package_and_what_it_imports_from_tfadv(tmp_path, monkeypatch):
    (tmp_path / "someones").mkdir()
    (tmp_path / "someones" / "toy.py").write_text(
        "from someones import helper\nfrom tfadv.errors import UserError\n"
        "from tfadv.attacks.norms import *\nclass Toy: pass\n"
    )
    (tmp_path / "someones" / "__init__.py").write_text("")
    (tmp_path / "someones" / "helper.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    hashes = original.module_hashes("someones.toy")
    assert hashes.keys() - original.module_hashes("tfadv.attacks.norms").keys() == {"someones.toy", "someones.helper"}
    assert "tfadv.attacks.norms" in hashes and "tfadv.errors" not in hashes


def test_roots_may_be_modules_classes_functions_and_instances():
    from tfadv import registry

    expected = original.code_version("tfadv.registry")
    for root in (registry, registry.Registry, registry.Registry.check, registry.Registry("thing", {})):
        assert original.code_version(root) == expected


def test_an_object_without_a_source_file_is_refused():
    code = "from tfadv.store.code_version import code_version\nclass Toy: pass\ncode_version(Toy())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "UserError" in done.stderr and "no source file" in done.stderr
    with pytest.raises(UserError, match="sys has no source file"):
        original.code_version("sys")


def test_a_partial_counts_with_its_arguments():
    first, same, other = (functools.partial(json.dumps, indent=indent) for indent in (1, 1, 2))
    assert original.code_version(first) == original.code_version(same) != original.code_version(other)
    assert "json" in next(iter(original.module_hashes(json.dumps)))


def test_a_plugin_that_imports_a_package_as_a_whole_depends_on_all_of_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in (
        ("plugin_whole", "from tfadv import attacks\nattacks.FGSM()"),
        ("plugin_tfadv", "import tfadv\ntfadv.attacks.FGSM()"),
        ("plugin_name", "from tfadv.attacks import ATTACKS\nATTACKS"),
    ):
        (tmp_path / f"{name}.py").write_text(code)
    assert "tfadv.attacks.fgsm" in original.module_hashes("plugin_whole")
    assert "tfadv.attacks.fgsm" in original.module_hashes("plugin_tfadv")
    assert "tfadv.attacks.fgsm" not in original.module_hashes("plugin_name")
