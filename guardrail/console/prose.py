"""A policy's Markdown as HTML. Raw HTML in it stays text, images are left out, links go nowhere that runs code."""

from collections.abc import Sequence
from functools import lru_cache

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

_DEEPER = 1  # the page has a first heading of its own
_DEEPEST = 6


@lru_cache(64)
def rendered(text: str) -> Markup:
    """HTML of a policy's prose."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "html_block", "html_inline"])
    tokens = parser.parse(text)
    _lower(tokens)
    return Markup(parser.renderer.render(tokens, parser.options, {}))  # noqa: S704  (what it renders is escaped by it)


def _lower(tokens: Sequence[Token]) -> None:
    """Headings below the page's own."""
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(_DEEPEST, int(token.tag[1]) + _DEEPER)}"
