"""House numbers: small files, short functions, few parameters, and nothing that hides state or code."""

import ast
import io
import re
import statistics
import tokenize

from architecture_source import PACKAGE, ROOT, Function, Module, functions, modules

LONGEST_FILE = 400
MEDIAN_FILE = 150
LONGEST_FUNCTION = 60
MOST_PARAMETERS = 5  # self and cls aside
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "misc"}

# What may be longer or wider than the rule, each with its reason. An entry that is not needed any more fails the test.
LONGER_FUNCTIONS: dict[str, str] = {}
WIDER_FUNCTIONS: dict[str, str] = {
    "guardrail.telemetry.light_span:LightTracer.start_span": "the API's signature",
    "guardrail.telemetry.sampling:Recording.should_sample": "the SDK's signature",
    "guardrail.telemetry.tracing:Tracing.__init__": "a provider and, keyword-only, everything that can be set about spans",
}


def parameters(function: Function) -> list[str]:
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *filter(None, (arguments.vararg, arguments.kwarg))]
    return [argument.arg for argument in every if argument.arg not in ("self", "cls")]


def is_command(function: Function) -> bool:
    """A click command has a parameter for each of its options: there the value object is the command line."""
    calls = [decorator.func if isinstance(decorator, ast.Call) else decorator for decorator in function.decorator_list]
    return any(isinstance(call, ast.Attribute) and call.attr in ("command", "group") for call in calls)


def is_gpu_kernel(function: Function) -> bool:
    """A kernel's parameters are addresses and sizes; the device knows no value objects."""
    return any(ast.unparse(decorator) == "triton.jit" for decorator in function.decorator_list)


def length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def every_function() -> list[tuple[Module, str, Function]]:
    return [(module, f"{module.name}:{name}", function) for module in modules() for name, function in functions(module)]


def test_files_are_short():
    assert [f"{module.place} has {module.lines} lines" for module in modules() if module.lines > LONGEST_FILE] == []


def test_the_median_file_is_short():
    assert statistics.median(module.lines for module in modules() if module.lines > 1) <= MEDIAN_FILE


def test_functions_are_short():
    long = {name: length(function) for _, name, function in every_function() if length(function) > LONGEST_FUNCTION}
    assert {name: lines for name, lines in long.items() if name not in LONGER_FUNCTIONS} == {}
    assert set(LONGER_FUNCTIONS) <= set(long)


def test_functions_take_few_parameters():
    wide = {
        name: len(parameters(function))
        for _, name, function in every_function()
        if len(parameters(function)) > MOST_PARAMETERS and not is_command(function) and not is_gpu_kernel(function)
    }
    assert {name: count for name, count in wide.items() if name not in WIDER_FUNCTIONS} == {}
    assert set(WIDER_FUNCTIONS) <= set(wide)


def test_no_file_has_a_vague_name():
    named = [path.relative_to(ROOT) for path in PACKAGE.rglob("*") if path.stem.strip("_") in VAGUE]
    assert named == []


def test_no_global_statement():
    found = [f"{module.place}:{node.lineno}" for module in modules() for node in ast.walk(module.tree) if isinstance(node, ast.Global)]
    assert found == []


def test_nothing_is_left_to_do():
    comments = [
        (module, token)
        for module in modules()
        for token in tokenize.generate_tokens(io.StringIO(module.text).readline)
        if token.type == tokenize.COMMENT
    ]
    marked = [
        f"{module.place}:{token.start[0]} {token.string}"
        for module, token in comments
        if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", token.string)
    ]
    assert marked == []
    unfinished = [
        f"{module.place}:{node.lineno}"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Raise) and node.exc is not None and "NotImplementedError" in ast.unparse(node.exc)
    ]
    assert unfinished == []
