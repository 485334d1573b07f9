"""YAML as data with line numbers: nodes are composed and read, nothing is ever constructed or executed."""

from dataclasses import dataclass

import yaml

from guardrail.policy.findings import Report

_SCALARS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "timestamp"))
_NULL = "tag:yaml.org,2002:null"


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of YAML inside a document; `first_line` is the document's line on which its text starts."""

    text: str
    first_line: int

    def line(self, node: yaml.Node) -> int:
        """The document line on which a node starts."""
        return self.first_line + int(node.start_mark.line)


def compose(block: Block, report: Report) -> yaml.Node | None:
    """The root node, or None for an empty text or a malformed one (then P005 is in the report)."""
    try:
        node: yaml.Node | None = yaml.compose(block.text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        report.add(block.first_line + (mark.line if mark else 0), "P005", f"not valid YAML: {error.problem or error.context}")
    except yaml.reader.ReaderError as error:
        line = block.first_line + block.text.count("\n", 0, error.position if isinstance(error.position, int) else 0)
        report.add(line, "P005", f"not valid YAML: {error.reason}")
    except RecursionError:
        report.add(block.first_line, "P005", "not valid YAML: nested too deeply")
    except (ValueError, OverflowError):
        report.add(block.first_line, "P005", "not valid YAML: an escape or a number is out of range")
    else:
        return node
    return None


def entries(node: yaml.Node | None, block: Block, report: Report, *, allowed: tuple[str, ...]) -> dict[str, yaml.Node]:
    """The entries of a mapping by key; unknown (P006) and repeated (P007) keys are reported and left out."""
    found: dict[str, yaml.Node] = {}
    if node is None:
        return found
    if not isinstance(node, yaml.MappingNode):
        report.add(block.line(node), "P009", f"expected `key: value` lines with the keys {', '.join(allowed)}")
        return found
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else "(not text)"
        if name not in allowed:
            report.add(block.line(key), "P006", f"unknown key `{_short(name)}`; known keys: {', '.join(allowed)}")
        elif name in found:
            report.add(block.line(key), "P007", f"`{name}` is given twice")
        else:
            found[name] = value
    return found


def scalar(node: yaml.Node | None) -> str | None:
    """The text of a scalar as it is written, whatever YAML would make of it (`no` stays `no`); None if it is empty or no scalar."""
    if not isinstance(node, yaml.ScalarNode) or node.tag == _NULL or node.tag not in _SCALARS:
        return None
    text = str(node.value).strip()
    return text if text and encodable(text) else None


def encodable(text: str) -> bool:
    """False for text with lone surrogates, which no UTF-8 file or request can carry."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "…"
