"""A page and its `.json` twin: the same values, once in a template and once as they are."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from guardrail import __version__
from guardrail.console.plots import share_bar
from guardrail.console.sessions import Session

HERE = Path(__file__).parent
NAVIGATION = (
    ("overview", "Overview"),
    ("decisions", "Decisions"),
    ("policies", "Policies"),
    ("playground", "Playground"),
    ("health", "Health"),
)


@dataclass(frozen=True, slots=True)
class Visit:
    """One request that was let in. `session` is None for a program with the admin key, and on the page where one signs in."""

    request: Request
    session: Session | None
    form: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    twin: bool = False
    """Whether the `.json` twin is asked for."""

    def asked(self, name: str) -> str:
        """A value of the address's query; empty where there is none."""
        return self.request.query_params.get(name, "").strip()


@dataclass(frozen=True, slots=True)
class Page:
    """`data` is what the twin says and what the template sees; `drawn` are the plots of it, which the twin leaves out.

    `at` is the entry of the navigation it belongs to. `live`: it is worth looking at again every few seconds.
    """

    template: str
    title: str
    data: Mapping[str, Any]
    drawn: Mapping[str, Markup] = field(default_factory=lambda: MappingProxyType({}))
    at: str = ""
    status: int = 200
    live: bool = False


class Renderer:
    """Fills templates. Everything that is put into one is escaped, unless the package itself drew it."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        self._environment.filters |= {
            "percent": percent, "number": number, "ms": milliseconds, "score": score, "moment": moment, "short": short, "bytes": size,
        }  # fmt: skip
        self._environment.globals |= {"navigation": NAVIGATION, "version": __version__, "query": query, "bar": share_bar}

    def answer(self, page: Page, visit: Visit) -> Response:
        """The page as it was asked for."""
        if visit.twin:
            return JSONResponse(plain(page.data), status_code=page.status)
        return HTMLResponse(self.html(page, visit), status_code=page.status)

    def html(self, page: Page, visit: Visit) -> str:
        """The page as a document."""
        template = self._environment.get_template(page.template)
        path = visit.request.url.path
        return template.render(page=page, visit=visit, path=path, drawn=page.drawn, **page.data)


def plain(value: Any) -> Any:
    """A value as JSON can carry it."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    return json.loads(json.dumps(value, default=str))


def percent(share: float | None) -> str:
    """A share as `12.3%`; a dash where there is nothing to take a share of."""
    if share is None:
        return "–"
    return "0%" if share == 0 else f"{share:.1%}" if share >= 0.001 else "<0.1%"


def number(value: float | None) -> str:
    """A number with thin groups of thousands."""
    return "–" if value is None else f"{value:,.0f}"


def milliseconds(seconds: float | None) -> str:
    """A duration in the unit that suits it."""
    if seconds is None:
        return "–"
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1_000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1_000:.1f} ms"


def score(value: float | None) -> str:
    """A score with three digits; never rounded up to a threshold it did not reach."""
    return "–" if value is None else f"{math.floor(value * 1_000) / 1_000:.3f}"


def moment(seconds: float | None) -> Markup:
    """A moment (seconds since 1970) in UTC, readable by people and by programs."""
    if seconds is None:
        return Markup("–")
    when = datetime.fromtimestamp(seconds, UTC)
    return Markup('<time datetime="{}">{}</time>').format(when.isoformat(timespec="milliseconds"), when.strftime("%Y-%m-%d %H:%M:%S"))


def short(text: str | None, length: int = 12) -> str:
    """The beginning of an identifier or digest."""
    text = (text or "").removeprefix("sha256:")
    return text if len(text) <= length else text[:length] + "…"


def size(count: float | None) -> str:
    """A number of bytes in the unit that suits it."""
    if count is None:
        return "–"
    for unit in ("B", "KiB", "MiB"):
        if count < 1_024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1_024
    return f"{count:.1f} GiB"


def query(given: Mapping[str, Any], **changes: Any) -> str:
    """An address's query with some values changed; those that are empty are left out."""
    wanted = {key: value for key, value in {**given, **changes}.items() if value not in ("", None, False)}
    return "?" + urlencode(wanted) if wanted else "?"
