"""Log lines: one object a line for machines, one readable line for people. Never what people said.

A line is a fixed text and fields; fields are named by whoever logs and hold no text of a request but its path.
"""

import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from mochi_server.domain.clock import timestamp
from mochi_server.domain.events import one_line

LogFormat = Literal["console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

_WORD = re.compile(r"[\w./:+-]+\Z", re.ASCII)

# These print chat text, addresses, or what interests only who mends them.
_HELD_BACK = {
    "sse_starlette": logging.INFO,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "uvicorn": logging.WARNING,
}


def configure(level: LogLevel, log_format: LogFormat) -> None:
    """Send all log lines of the process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _ConsoleFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name, floor in _HELD_BACK.items():
        logging.getLogger(name).setLevel(max(floor, logging.getLevelName(level.upper())))


def log(logger: logging.Logger, level: int, event: str, **fields: Any) -> None:
    """One line: what happened, and its facts."""
    logger.log(level, event, extra={"fields": fields})


def log_exception(logger: logging.Logger, error: BaseException, correlation_id: str) -> None:
    """A bug with its stack. Its own text is left out: that may be anything, also what people said."""
    stack = "".join(traceback.format_tb(error.__traceback__))
    log(logger, logging.ERROR, "internal error", error=type(error).__name__, stack=stack, correlation_id=correlation_id)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        return one_line(orjson.dumps(line, default=str)).decode()


class _ConsoleFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = dict(_fields(record))
        stack = fields.pop("stack", None)
        parts = [_time(record)[11:23], record.levelname.lower().ljust(7), _one_line(record.getMessage())]
        parts += [f"{name}={_one_word(str(value))}" for name, value in fields.items()]
        line = " ".join(parts)
        return line if stack is None else f"{line}\n{stack}"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = dict(getattr(record, "fields", {}))
    if record.exc_info and record.exc_info[0] is not None:
        fields["error"] = record.exc_info[0].__name__
        fields["stack"] = "".join(traceback.format_tb(record.exc_info[2]))
    return fields


def _time(record: logging.LogRecord) -> str:
    return timestamp(datetime.fromtimestamp(record.created, UTC))


def _one_line(text: str) -> str:
    """The text with nothing in it that could pass for another line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _one_word(text: str) -> str:
    """The text with nothing in it that could pass for another field."""
    return text if _WORD.match(text) else f'"{_one_line(text).replace(chr(34), chr(39))}"'
