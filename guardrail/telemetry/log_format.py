"""Log records as JSON lines, and the set-up of the process's log."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from traceback import walk_tb
from typing import Final, TextIO

from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

from guardrail.telemetry import names

LONGEST_MESSAGE: Final = 2000
MAX_FRAMES: Final = 20
MAX_CAUSES: Final = 5


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time, level, logger, event, the record's `fields`, trace and span id, and for an exception
    its classes and frames. An exception's message is left out, because it may quote a prompt or a key."""

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage()[:LONGEST_MESSAGE],
        }
        context = get_current_span().get_span_context()
        if context.is_valid:
            line["trace_id"] = format_trace_id(context.trace_id)
            line["span_id"] = format_span_id(context.span_id)
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line |= {name: value for name, value in fields.items() if name not in line}
        if record.exc_info and record.exc_info[1] is not None:
            line |= _exception(record.exc_info[1])
        return _ENCODE(line)


def configure_logging(stream: TextIO, level: int | str = logging.INFO) -> logging.Handler:
    """Send everything under the logger `guardrail` to `stream` as JSON lines and nowhere else; returns the handler.

    `level` quietens the ordinary log only: `guardrail.audit` stays at INFO, or asking for less noise would end the audit.
    Calling it again replaces the earlier handler. Raises ValueError for an unknown level.
    """
    logger = logging.getLogger(names.SCOPE)
    logger.setLevel(level.upper() if isinstance(level, str) else level)
    for earlier in logger.handlers[:]:
        if isinstance(earlier.formatter, JsonFormatter):
            logger.removeHandler(earlier)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    logger.propagate = False
    logging.getLogger(names.AUDIT_LOGGER).setLevel(logging.INFO)
    return handler


def _exception(error: BaseException) -> dict[str, object]:
    classes: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(classes) < MAX_CAUSES:
        classes.append(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    frames = [f"{Path(frame.f_code.co_filename).name}:{line} {frame.f_code.co_qualname}" for frame, line in walk_tb(error.__traceback__)]
    return {"exception": classes, "frames": frames[-MAX_FRAMES:]}


def _type_name(value: object) -> str:
    return f"<{type(value).__name__}>"


_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, default=_type_name).encode
