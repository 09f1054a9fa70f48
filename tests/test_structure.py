"""Rules of the code's structure: layers, lengths, names."""

import ast
import pathlib
import re

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "tfadv"
FILES = sorted(PACKAGE.rglob("*.py"))
# From the bottom up.  A module imports from its own layer and from those below it.
LAYERS = [
    {"errors", "registry"},
    {"runtime", "store"},
    {"datasets", "models"},
    {"attacks", "objectives"},
    {"evaluation", "explanation", "training", "report"},
    {"experiments"},
]
COMMAND_LINE = {
    "choices",
    "config",
    "settings",
    "command_line",
    "main",
}  # read the tables of all layers
MAX_LINES, MAX_PARAMETERS = 60, 8
# Of attacks, of `evaluate` and of `AdversarialTrainer.fit`, whose arguments are those of Keras and a few more.
PUBLIC = ("tfadv.attacks.base", "tfadv.evaluation.evaluator", "tfadv.training.adversarial_trainer")


def layer(module):
    parts = module.split(".")
    return next((i for i, names in enumerate(LAYERS) if len(parts) > 1 and parts[1] in names), None)


def imports(tree):
    """(module, attribute) of the imports outside of `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        else:
            yield from imports(node)


def functions():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield path, node


def name(path):
    return ".".join(("tfadv", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_run_downwards(path):
    own = layer(name(path))
    if own is None:
        return
    for module, attribute in imports(ast.parse(path.read_text())):
        if not module.startswith("tfadv"):
            continue
        if own < len(LAYERS) - 1:
            target = module.split(".")[1] if "." in module else attribute
            assert target not in COMMAND_LINE, f"{name(path)} imports {target}"
        above = layer(f"{module}.{attribute}" if module == "tfadv" else module)
        assert above is None or above <= own, f"{name(path)} imports {module}"


def test_functions_are_short():
    too_long = []
    for path, node in functions():
        docstring = ast.get_docstring(node, clean=False)
        body = node.body[1:] if docstring is not None else node.body
        lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        if lines > MAX_LINES:
            too_long.append(f"{name(path)}.{node.name}: {lines}")
    assert not too_long


def test_functions_have_few_parameters():
    too_many = []
    for path, node in functions():
        arguments = node.args
        parameters = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        count = len([p for p in parameters if p not in ("self", "cls")])
        if count > MAX_PARAMETERS and name(path) not in PUBLIC:
            too_many.append(f"{name(path)}.{node.name}: {count}")
    assert not too_many


def test_public_functions_have_docstrings_and_annotations():
    lacking = []
    for path in FILES:
        tree = ast.parse(path.read_text())
        for scope in (tree, *(n for n in tree.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_"))):
            protocol = isinstance(scope, ast.ClassDef) and any("Protocol" in ast.unparse(b) for b in scope.bases)
            for node in scope.body:
                if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                    continue
                arguments = [a for a in (*node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")]
                annotated = node.returns is not None and all(a.annotation is not None for a in arguments)
                if not annotated or not (protocol or ast.get_docstring(node)):
                    lacking.append(f"{name(path)}.{node.name}")
    assert not lacking


@pytest.mark.parametrize("path", FILES, ids=name)
def test_only_the_paper_knows_its_recipes(path):
    if path == PACKAGE / "experiments" / "paper.py":
        return
    text = path.read_text()
    assert not re.search(r"\b(baseline|retrained)\b|[\"']augmented[\"']", text)


@pytest.mark.parametrize("module", ["fcntl", "resource", "pwd", "grp", "termios"])
def test_nothing_posix_only_is_imported(module):
    for path in FILES:
        assert module not in {m for m, _ in imports(ast.parse(path.read_text()))}, name(path)
