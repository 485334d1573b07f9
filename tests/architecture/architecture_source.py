"""The package as its own source sees it: modules, and what imports what."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "guardrail"

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One file. `name` is dotted (`guardrail.asgi`, for a folder's `__init__` too), `place` the path from the repository's root."""

    name: str
    place: str
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """The first name below the package: a file or a folder of DESIGN's table of floors."""
        return self.name.split(".")[1] if "." in self.name else "__init__"

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())


@dataclass(frozen=True)
class Import:
    """`inside`: not at the top level of the file (conditional type-checking imports are at the top level)."""

    source: Module
    target: str
    line: int
    inside: bool


@cache
def modules() -> tuple[Module, ...]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        found.append(Module(name, str(path.relative_to(ROOT)), text, ast.parse(text)))
    return tuple(found)


@cache
def names() -> frozenset[str]:
    return frozenset(module.name for module in modules())


def imports(module: Module) -> Iterator[Import]:
    """Every import of this package's own modules, wherever in the file it stands."""
    for node, inside in _nodes(module.tree):
        for target in _targets(module, node):
            if target.split(".")[0] == "guardrail":
                yield Import(module, target, node.lineno, inside)


def functions(module: Module) -> Iterator[tuple[str, Function]]:
    """Every function and method with its qualified name."""
    yield from _functions(module.tree, "")


def qualified_name_at(module: Module, line: int) -> str:
    """The innermost function that a line belongs to, or `<module>`."""
    around = [(name, node) for name, node in functions(module) if node.lineno <= line <= (node.end_lineno or node.lineno)]
    return max(around, key=lambda found: found[1].lineno)[0] if around else "<module>"


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield prefix + child.name, child
        name = f"{prefix}{child.name}." if isinstance(child, Function | ast.ClassDef) else prefix
        yield from _functions(child, name)


def _nodes(tree: ast.Module) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    bodies = {id(inner) for node in ast.walk(tree) if isinstance(node, Function | ast.Lambda | ast.ClassDef) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, id(node) in bodies


def _targets(module: Module, node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    origin = node.module or ""
    if node.level:
        package = module.name.split(".") if module.place.endswith("__init__.py") else module.name.split(".")[:-1]
        origin = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
    # `from package import module` imports the module; `from module import name` the module it stands in.
    return [full if (full := f"{origin}.{alias.name}") in names() else origin for alias in node.names]
