"""The layers of the code; `ruff.toml` has the other rules."""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).parents[1] / "tfadv"
# From the bottom up.  A module imports from its own package and from the layers below it, not from beside it.
LAYERS = [
    {"errors"},
    {"registry"},
    {"specs"},
    {"settings", "runtime", "store"},
    {"models"},
    {"datasets", "attacks"},
    {"defenses", "evaluation", "explanation"},
    {"training", "report"},
    {"gate", "paper"},
    {"config"},
    {"command_line", "pipeline"},
    {"main"},
]
# Further limits: what is told nothing of the work folder, of Keras' models or of the command line stays usable alone.
NOT = {
    "datasets": {"runtime", "store", "settings"},
    "attacks": {"store", "settings"},
    "defenses": {"store", "runtime", "settings", "models", "datasets"},
    "evaluation": {"store", "settings", "specs"},
    "explanation": {"store", "runtime", "settings"},
    "report": {"store", "runtime", "settings", "models", "datasets", "attacks", "defenses", "explanation"},
    "paper": {"store", "runtime", "settings", "models", "datasets", "attacks", "evaluation", "explanation", "training"},
    "config": {"store", "runtime", "evaluation", "explanation", "training", "report", "paper"},
    "training": {"settings"},
}


def imports(tree):
    """(module, name) of the imports outside of `if TYPE_CHECKING`; no name where a module is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        else:
            yield from imports(node)


def test_imports_run_downwards():
    layer = {name: number for number, names in enumerate(LAYERS) for name in names}
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert found - {"__init__"} == set(layer)
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for module, name in imports(ast.parse(path.read_text())):
            package, _, rest = module.partition(".")
            other = rest.partition(".")[0] or name
            if own != "__init__" and package == "tfadv" and other in layer and other != own:
                assert layer[other] < layer[own] and other not in NOT.get(own, ()), f"{path} imports {module}"
