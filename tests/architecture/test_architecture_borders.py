"""What may be done in one place only: reading the environment, printing, catching everything. And what may be done nowhere."""

import ast
from collections.abc import Iterator

from architecture_source import Module, modules, qualified_name_at

# Where everything is caught, and why that is right there. Each logs, counts, and answers or goes on without a silent pass.
BROAD_EXCEPTS = {
    "guardrail.events:EventFanout.emit": "an observer must not break what it observes; it is logged and counted",
    "guardrail.guard:_answers": "a classifier is foreign code: what it raises becomes an error verdict, which on_error turns into a block",
    "guardrail.classifiers.embedded:EmbeddedClassifier._run": "the engine loop lives on; every waiter gets an error",
    "guardrail.classifiers.adapter:AdapterClassifier._run": "the loop of passes lives on; every waiter gets an error, health says so",
    "guardrail.engine.cope.faults:Isolation._attempt": "whatever a pass raises is a row's error, or the engine's end; all waiters are told",
    "guardrail.engine.cope.engine:LocalEngine._live": "whatever ends the engine's thread, everybody who waits is told, and health says so",
    "guardrail.asgi.responder:GuardResponder._answer": "a defect is logged and answered; nothing unjudged leaves because of it",
    "guardrail.asgi.responder:GuardResponder._run": "the app behind the guard is foreign code; its failure is an upstream's failure",
    "guardrail.asgi.publication:Publisher.reload": "whatever refuses new policies is told, and the last good ones stay in force",
    "guardrail.audit.writer:AuditWriter._run": "a defect must not end the writer: its batch is lost, which is logged, told and counted",
    "guardrail.blame:Effort._count": "a classifier that cannot say what it got done has done no more than before",
    "guardrail.cli:main": "a defect is logged with its trace and still answered in one line, with exit status 2",
}
# Where PyTorch's own format is written, which others must unpickle. It is read nowhere.
PICKLES_WRITTEN = {
    "guardrail.training.adapter_output:write_output": "the head once more, on --opencc-head alone: OpenCC's reader knows no other format",
}
ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "os.putenv", "os.unsetenv"}
PRINTING = {"print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write", "pprint"}
UNSAFE_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
UNSAFE_CALLS = {
    "eval", "exec", "compile", "__import__", "torch.load", "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load",
    "os.system", "os.popen", "numpy.load", "np.load",
}  # fmt: skip


def dotted(node: ast.AST) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def calls(module: Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            yield dotted(node.func), node


def is_broad(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or dotted(kind) in ("Exception", "BaseException") for kind in caught)


def broad(module: Module) -> Iterator[ast.ExceptHandler]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler) and is_broad(node):
            yield node


def test_everything_is_caught_at_the_listed_borders_only():
    found = {f"{module.name}:{qualified_name_at(module, handler.lineno)}" for module in modules() for handler in broad(module)}
    assert found == set(BROAD_EXCEPTS)


def test_a_border_says_why_on_its_line():
    silent = [
        f"{module.place}:{handler.lineno}"
        for module in modules()
        for handler in broad(module)
        if "# border:" not in module.text.splitlines()[handler.lineno - 1]
    ]
    assert silent == []


def test_nothing_is_suppressed_wholesale():
    wide = {"Exception", "BaseException"}
    found = [
        f"{module.place}:{call.lineno}"
        for module in modules()
        for name, call in calls(module)
        if name.endswith("suppress") and wide & {dotted(argument) for argument in call.args}
    ]
    assert found == []


def test_the_environment_is_read_in_the_configuration_only():
    found = []
    for module in modules():
        if module.room == "config":
            continue
        found += [f"{module.place}:{node.lineno}" for node in ast.walk(module.tree) if dotted(node) in ENVIRONMENT]
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom) and node.module == "os":
                found += [f"{module.place}:{node.lineno}" for alias in node.names if f"os.{alias.name}" in ENVIRONMENT]
    assert found == []


def test_the_command_line_alone_prints():
    found = [
        f"{module.place}:{call.lineno} {name}"
        for module in modules()
        if module.room != "cli"
        for name, call in calls(module)
        if name in PRINTING
    ]
    assert found == []


def test_no_code_is_read_from_data():
    imported = [
        f"{module.place}:{node.lineno}"
        for module in modules()
        for node in ast.walk(module.tree)
        if (isinstance(node, ast.Import) and UNSAFE_MODULES & {alias.name.split(".")[0] for alias in node.names})
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNSAFE_MODULES)
    ]
    assert imported == []
    assert [f"{module.place}:{call.lineno} {name}" for module in modules() for name, call in calls(module) if name in UNSAFE_CALLS] == []


def test_what_others_must_unpickle_is_written_at_the_listed_places_only():
    found = {
        f"{module.name}:{qualified_name_at(module, call.lineno)}"
        for module in modules()
        for name, call in calls(module)
        if name in ("torch.save", "numpy.save", "np.save", "numpy.savez", "np.savez")
    }
    assert found == set(PICKLES_WRITTEN)


def test_no_shell_is_started():
    shells = [
        f"{module.place}:{call.lineno}"
        for module in modules()
        for _, call in calls(module)
        for keyword in call.keywords
        if keyword.arg == "shell" and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
    ]
    assert shells == []
