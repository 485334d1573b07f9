"""Which routes can never be reached. Sound, not complete: a route that some request reaches is never reported."""

from fnmatch import fnmatchcase

from guardrail.config.models import Config, RouteConfig


def covers(wide: str, narrow: str) -> bool:
    """True only if every model name that the glob `narrow` matches is matched by `wide` too."""
    wide_tokens, narrow_tokens = _tokens(wide), _tokens(narrow)
    # row[j]: the tokens of `wide` so far cover the first j tokens of `narrow`. A * of `wide` takes any of them.
    row = [True] + [False] * len(narrow_tokens)
    for taker in wide_tokens:
        below = [taker == "*" and row[0]]
        for j, other in enumerate(narrow_tokens):
            below.append((row[j + 1] or below[j]) if taker == "*" else (row[j] and _takes(taker, other)))
        row = below
    return row[-1]


def covering(config: Config, index: int) -> tuple[int, ...]:
    """The earlier routes that together take everything the route at `index` matches; empty where it may be reached."""
    route = config.routes[index]
    found = []
    for tenant in config.tenants_of(route):
        for path in route.paths:
            earlier = next((i for i in range(index) if _takes_all(config, config.routes[i], route, (path, tenant))), None)
            if earlier is None:
                return ()
            found.append(earlier)
    return tuple(dict.fromkeys(found))


def _takes_all(config: Config, earlier: RouteConfig, route: RouteConfig, place: tuple[str, str]) -> bool:
    path, tenant = place
    return path in earlier.paths and tenant in config.tenants_of(earlier) and covers(earlier.model, route.model)


def _takes(taker: str, other: str) -> bool:
    """Whether one token of the wide glob takes one of the narrow glob, neither of them seen as more than one character."""
    if other == "*":
        return False
    if taker in ("?", other):
        return True
    return len(other) == 1 and other != "?" and len(taker) > 1 and fnmatchcase(other, taker)


def _tokens(glob: str) -> list[str]:
    """`*`, `?`, one literal character, or a class `[…]` as fnmatch reads it; in a run of wildcards the `?` come first, then one `*`."""
    tokens: list[str] = []
    i = 0
    while i < len(glob):
        end = _class_end(glob, i) if glob[i] == "[" else None
        piece = glob[i:end] if end else glob[i]
        i = end or i + 1
        if piece == "*" and tokens[-1:] == ["*"]:
            continue
        if piece == "?" and tokens[-1:] == ["*"]:
            tokens.insert(-1, piece)
        else:
            tokens.append("[[]" if piece == "[" else piece)
    return tokens


def _class_end(glob: str, start: int) -> int | None:
    """The index after the class that opens at `start`; None where it never closes and the bracket is a plain character."""
    i = start + 1
    if glob[i : i + 1] == "!":
        i += 1
    if glob[i : i + 1] == "]":
        i += 1
    end = glob.find("]", i)
    return None if end < 0 else end + 1
