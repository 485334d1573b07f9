"""Who may import whom: the table of floors, no cycles, nothing imported late."""

import ast
import graphlib
import importlib
import re

import pytest
from architecture_source import Import, Module, imports, modules

FLOORS = {
    "__init__": 0, "types": 0, "errors": 0, "interfaces": 0, "events": 0, "testing": 0,
    "policy": 1, "config": 1, "routing": 1, "calibration": 1, "ranking": 1, "units": 1, "disguises": 1,
    "normalize": 2, "questions": 2, "decision": 2, "escalation": 2, "window": 2, "windows": 2, "cadence": 2, "guard": 2, "reading": 2,
    "window_part": 2, "guard_stream": 2, "boundary": 2, "placeholder": 2, "verdict_cache": 2, "conversation": 2, "context": 2, "recall": 2,
    "canary": 2, "locality": 2,
    "bucket": 2, "breaker": 2, "blame": 2, "quota": 2,
    "wire": 3, "engine": 3, "upstream": 3, "telemetry": 3, "audit": 3,
    "classifiers": 4,
    "evaluation": 5, "training": 5, "review": 5, "redteam": 5,
    "asgi": 6, "console": 6, "assembly": 6,
    "cli": 7, "__main__": 7,
}  # fmt: skip
NAMES_EVERYTHING = "assembly"  # the one file that may name its neighbours
BUILT_ON = {("console", "asgi")}  # the console shows what the service does; the service knows nothing of it
LAZY_TABLES = {"guardrail.assembly", "guardrail.cli", "guardrail.engine.cope.runners"}  # import strings may stand here only
IMPORT_STRING = re.compile(r"guardrail(?:\.\w+)+:\w+")


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else "__init__"


def allowed(importer: str, imported: str) -> bool:
    above, below = FLOORS[importer], FLOORS[imported]
    if importer == imported or below < above:
        return True
    # The files of floors 0 to 2 are one room each; from floor 3 on neighbours are blind to one another.
    neighbours = above <= 2 or importer in (NAMES_EVERYTHING, "__main__") or (importer, imported) in BUILT_ON
    return below == above and neighbours


def everything() -> list[Import]:
    return [found for module in modules() for found in imports(module)]


def import_strings(module: Module) -> list[tuple[str, int]]:
    constants = [node for node in ast.walk(module.tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [(node.value, node.lineno) for node in constants if IMPORT_STRING.fullmatch(node.value)]


def test_every_room_has_a_floor():
    assert {module.room for module in modules()} - set(FLOORS) == set()


def test_a_file_imports_its_own_room_or_lower_floors():
    wrong = [
        f"{found.source.place}:{found.line} (floor {FLOORS[found.source.room]}) imports {found.target} (floor {FLOORS[room(found.target)]})"
        for found in everything()
        if not allowed(found.source.room, room(found.target))
    ]
    assert wrong == []


def test_the_rule_refuses_what_it_is_there_for():
    assert allowed("wire", "guard")
    assert allowed("guard", "decision")
    assert not allowed("guard", "wire")
    assert allowed("assembly", "asgi")
    assert not allowed("asgi", "assembly")
    assert allowed("console", "asgi")
    assert not allowed("asgi", "console")
    assert not allowed("wire", "upstream")
    assert not allowed("types", "wire")
    assert not allowed("evaluation", "asgi")


def test_imports_make_no_cycle():
    graph = {module.name: {found.target for found in imports(module)} - {module.name} for module in modules()}
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_nothing_of_the_package_is_imported_inside_a_function():
    assert [f"{found.source.place}:{found.line} {found.target}" for found in everything() if found.inside] == []


def test_import_strings_stand_in_the_tables_only():
    strays = [
        f"{module.place}:{line} {text}" for module in modules() if module.name not in LAZY_TABLES for text, line in import_strings(module)
    ]
    assert strays == []


@pytest.mark.parametrize(
    ("place", "table"),
    sorted({(text, module.name) for module in modules() if module.name in LAZY_TABLES for text, _ in import_strings(module)}),
)
def test_an_import_string_names_something_on_a_floor_below(place: str, table: str):
    module, _, name = place.partition(":")
    assert hasattr(importlib.import_module(module), name)
    assert allowed(room(table), room(module))
