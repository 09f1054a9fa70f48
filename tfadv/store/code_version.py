"""The version of code: a hash of the modules that compute an artifact, which nobody has to raise by hand.

A module counts with its own code and with that of all tfadv modules that it
imports, transitively; comments, docstrings and layout do not count.  A module
that cannot change a result (which writes files or logs lines) says so by

    AFFECTS_RESULTS = False

at its top level: it is neither hashed nor followed.  Modules are read, not
imported, so that a version is known without loading TensorFlow.

An import must be visible to be followed:

- `import tfadv.a.b` and `from tfadv.a import b` follow the module b, not the
  package a; `from tfadv.a import name` follows `tfadv/a/__init__.py` where it
  defines the name.
- A name that a package provides through `__getattr__` is followed where the
  package imports it for type checkers, and otherwise refused: import it from
  the module that defines it.
- A module outside of tfadv that imports tfadv or a package of it as a whole
  depends on all of its modules.
- What a registry resolves at run time is followed only where it is a root.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import pathlib
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any, TypeGuard

from tfadv.errors import UserError
from tfadv.store.files import digest

AFFECTS_RESULTS = False

PACKAGE = "tfadv"
HEXADECIMALS = 16
_SCOPE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def code_version(*roots: Any) -> str:
    """Hashes the code that the roots consist of.

    Args:
      roots: names of modules, modules, or objects, which stand for the module that defines them (an instance for
        that of its class, a `functools.partial` for that of its function and for its arguments).  A module outside
        of tfadv counts with the modules that it imports from tfadv and from its own package.

    Returns:
      16 hexadecimal digits.

    Raises:
      UserError: a root has no source file.
      ImportError: a module imports something that can't be found in the files of its package.
    """
    arguments = [repr((root.args, sorted(root.keywords.items()))) for root in roots if _is_partial(root)]
    roots = tuple(root.func if _is_partial(root) else root for root in roots)
    return digest([module_hashes(*roots), *arguments] if arguments else module_hashes(*roots))[:HEXADECIMALS]


def module_hashes(*roots: Any) -> dict[str, str]:
    """The modules that `code_version` hashes, each with its own hash, to see which one has changed."""
    names = [_module_name(root) for root in roots]
    packages = {PACKAGE, *(name.split(".")[0] for name in names)}
    hashes: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in hashes:
            continue
        module = _read(_file(name))
        if not module.affects_results and name not in names:
            continue
        hashes[name] = module.hash
        for imported, whole in _imported(name, module, packages):
            waiting.append(imported)
            if whole and name.split(".")[0] != PACKAGE:
                waiting += _modules_below(imported)
    return hashes


def _modules_below(package: str) -> list[str]:
    """The modules of a package of tfadv; none of a module that is no package."""
    if package.split(".")[0] != PACKAGE or _file(package).name != "__init__.py":
        return []
    folder = _file(package).parent
    names = [path.relative_to(folder).with_suffix("").parts for path in sorted(folder.rglob("*.py"))]
    return [".".join((package, *parts)).removesuffix(".__init__") for parts in names]


@dataclasses.dataclass(frozen=True)
class _Module:
    """A source file: hash of its code, imports, names defined at its top level, modules of those it provides lazily."""

    hash: str
    affects_results: bool
    imports: tuple[ast.Import | ast.ImportFrom, ...]
    defined: frozenset[str]
    lazy: dict[str, str]
    is_package: bool


def _is_partial(root: Any) -> TypeGuard[functools.partial]:
    return isinstance(root, functools.partial)


def _module_name(root: Any) -> str:
    if isinstance(root, str):
        return root
    if isinstance(root, types.ModuleType):
        return root.__name__
    return getattr(root, "__module__", None) or type(root).__module__


def _file(name: str) -> pathlib.Path:
    """The source file of a module; for tfadv's own, without importing a package."""
    if name.split(".")[0] == PACKAGE:
        base = pathlib.Path(__file__).parents[1].joinpath(*name.split(".")[1:])
        for path in (base / "__init__.py", base.with_suffix(".py")):
            if path.is_file():
                return path
        raise ImportError(f"there is no module {name}.")
    if name in sys.modules:
        origin = getattr(sys.modules[name], "__file__", None)
    else:
        spec = importlib.util.find_spec(name)
        origin = spec.origin if spec else None
    if not origin or not origin.endswith(".py") or not pathlib.Path(origin).is_file():
        raise UserError(f"{name} has no source file, so a change of its code would go unnoticed: put it into a module.")
    return pathlib.Path(origin)


@functools.cache
def _read(path: pathlib.Path) -> _Module:
    tree = ast.parse(path.read_bytes(), str(path))
    for node in ast.walk(tree):
        if isinstance(node, (*_SCOPE, ast.Module)) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    defined, affects = set(), True
    lazy = {
        alias.asname or alias.name: node.module or ""
        for block in tree.body
        if _only_for_type_checkers(block)
        for node in block.body
        if isinstance(node, ast.ImportFrom) and not node.level
        for alias in node.names
    }
    for node in _top_level(tree):
        if isinstance(node, _SCOPE):
            defined.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            defined |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
            defined |= names
            if "AFFECTS_RESULTS" in names:
                affects = not (isinstance(node.value, ast.Constant) and node.value.value is False)
    imports = tuple(_imports(tree))
    # Unparsed code, unlike a dump of the tree, is the same in nearly all versions of Python.
    is_package = path.name == "__init__.py"
    return _Module(digest(ast.unparse(tree)), affects, imports, frozenset(defined), lazy, is_package)


def _only_for_type_checkers(node: ast.AST) -> TypeGuard[ast.If]:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _top_level(node: ast.AST) -> Iterator[ast.AST]:
    """The statements of a module outside of functions and classes, those for type checkers left out."""
    children: Iterable[ast.AST] = node.orelse if _only_for_type_checkers(node) else ast.iter_child_nodes(node)
    for child in children:
        yield child
        if not isinstance(child, _SCOPE):
            yield from _top_level(child)


def _imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports in a piece of code, those within functions included and those for type checkers left out."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield node
        return
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if _only_for_type_checkers(node):
        children = node.orelse
    for child in children:
        yield from _imports(child)


def _imported(name: str, module: _Module, packages: set[str]) -> Iterator[tuple[str, bool]]:
    """(module, whether it is imported itself and not a name in it) for what a module imports from these packages."""
    for node in module.imports:
        if isinstance(node, ast.Import):
            yield from ((alias.name, True) for alias in node.names if alias.name.split(".")[0] in packages)
            continue
        source = node.module or ""
        if node.level:  # relative to the package that holds the module
            parts = name.split(".")
            package = parts[: len(parts) - node.level + module.is_package]
            source = ".".join([*package, *source.split(".")] if source else package)
        if source.split(".")[0] in packages:
            for alias in node.names:
                module_name = _source_of(name, source, alias.name)
                yield module_name, module_name == f"{source}.{alias.name}"


def _source_of(importer: str, source: str, attribute: str) -> str:
    """The module behind `from source import attribute`."""
    path = _file(source)
    if path.name == "__init__.py":
        below = path.parent / attribute
        if below.with_suffix(".py").is_file() or (below / "__init__.py").is_file():
            return f"{source}.{attribute}"
        package = _read(path)
        if attribute not in package.defined and attribute in package.lazy:
            return package.lazy[attribute]
        if attribute != "*" and attribute not in package.defined:
            raise ImportError(
                f"{importer} imports {attribute} from {source}: import it from the module that defines it."
            )
    return source
