"""Log lines: one object a line for machines, one readable line for people. Never what people said.

A line is a fixed text and fields (`fields.py` has all that there are). What the libraries log becomes such lines too,
without the values that they put into theirs.
"""

import contextlib
import functools
import logging
import re
import sys
import threading
import warnings
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.typing import FilteringBoundLogger, Processor

from mochi_server.domain.clock import timestamp
from mochi_server.observability.fields import Ours, printable, shown
from mochi_server.observability.stacks import stack

LogFormat = Literal["console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

_QUIET = ("uvicorn", "asyncio")
"""They tell each step that they take: what is below a warning is for the debug level only."""

_SILENT = ("httpx", "httpcore")
"""What these say below a warning says nothing without the values in it."""

_KNOWN = ("uvicorn", "asyncio", "httpx")
"""Libraries of whose texts it is known which part was written by their authors."""

_WORD = re.compile(r"[\w./:+-]+\Z", re.ASCII)
_CONVERSION = re.compile(r"%(?:\([^)]*\))?[^a-zA-Z%]*[a-zA-Z%]")
_FIRST_WORDS = re.compile(r"[\w .,!?/-]*", re.ASCII)
_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}

_correlation: ContextVar[str | None] = ContextVar("correlation_id", default=None)


def configure(level: LogLevel, log_format: LogFormat) -> None:
    """Send all that the process has to tell to standard error, the libraries' lines and its own last words included."""
    _configure_lines(level, log_format)
    logging.basicConfig(level=level.upper(), handlers=[_Libraries()], force=True)
    for name in (*_QUIET, *_SILENT):
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" and name in _QUIET else logging.WARNING)
    warnings.showwarning = _show_warning
    sys.excepthook = _show_exception
    threading.excepthook = lambda hook: _show_exception(hook.exc_type, hook.exc_value, hook.exc_traceback)
    sys.unraisablehook = lambda hook: _show_exception(hook.exc_type, hook.exc_value, hook.exc_traceback)


def log(logger: logging.Logger, level: int, event: str, **fields: Any) -> None:
    """One line: what happened, and its facts. A new field gets its shape in `fields.py`."""
    _lines(logger.name).log(level, event, **fields)


def log_exception(logger: logging.Logger, error: BaseException, correlation_id: str | None = None) -> None:
    """A bug with its stack. Its own text is left out: that may be anything, also what people said."""
    correlated = {} if correlation_id is None else {"correlation_id": correlation_id}
    log(logger, logging.ERROR, "internal error", error=type(error), stack=stack(error), **correlated)


def correlate(correlation_id: str) -> None:
    """Have all that is logged from here on carry this id: in this task, in those that it begins, and in its threads."""
    _correlation.set(correlation_id)


def _configure_lines(level: LogLevel, log_format: LogFormat) -> None:
    render: Processor = _json if log_format == "json" else functools.partial(_console, sys.stderr.isatty())
    structlog.configure(
        processors=[_line, render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=_StandardError,
        cache_logger_on_first_use=True,
    )
    _lines.cache_clear()


@functools.cache
def _lines(name: str) -> FilteringBoundLogger:
    if not structlog.is_configured():
        # In a command that runs no server: what nobody may miss, for people.
        _configure_lines("warning", "console")
    lines: FilteringBoundLogger = structlog.get_logger(name).bind()
    return lines


class _StandardError:
    """Where lines end. One that cannot be written is lost: a full disk of the log is no reason to answer nobody."""

    _writing = threading.Lock()

    def __init__(self, name: str) -> None:
        self.name = name
        # Its own, without a buffer: what could not be written must not stand before all that comes.
        self._file = open(sys.stderr.fileno(), "wb", buffering=0, closefd=False)  # noqa: SIM115 - for good

    def debug(self, line: bytes) -> None:
        with self._writing, contextlib.suppress(OSError):
            while line and (written := self._file.write(line)):
                line = line[written:]

    info = warning = error = critical = debug


def _line(lines: _StandardError, level: str, fields: MutableMapping[str, Any]) -> Mapping[str, Any]:
    event = fields.pop("event")
    if (correlation := _correlation.get()) is not None:
        fields.setdefault("correlation_id", correlation)
    return {
        "time": timestamp(datetime.now(UTC)),
        "level": level,
        "logger": printable(lines.name),
        "event": printable(event),
        **shown(fields),
    }


def _json(_lines: Any, _level: str, line: MutableMapping[str, Any]) -> bytes:
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _console(colours: bool, _lines: Any, level: str, line: MutableMapping[str, Any]) -> bytes:
    fields = dict(line)
    time, _, _, event = (fields.pop(name) for name in ("time", "level", "logger", "event"))
    stack = fields.pop("stack", None)
    told = level.ljust(7)
    if colours:
        told, event = f"\x1b[{_COLOURS[level]}m{told}\x1b[0m", f"\x1b[1m{event}\x1b[0m"
    parts = [time[11:23], told, event, *(f"{name}={_one_word(value)}" for name, value in fields.items())]
    text = " ".join(parts)
    if stack is not None:
        text += "".join(f"\n    {printable(row)}" for row in stack.split("\n"))
    return f"{text}\n".encode()


def _one_word(value: Any) -> str:
    """The value with nothing in it that could pass for another field."""
    text = str(value)
    return text if _WORD.match(text) else f'"{text.replace(chr(34), chr(39))}"'


class _Libraries(logging.Handler):
    """What others log, as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log it without what was put into it. Raises nothing."""
        fields: dict[str, Any] = {"where": Ours(f"{record.module}:{record.lineno}")}
        if record.exc_info and (error := record.exc_info[1]) is not None:
            fields |= {"error": type(error), "stack": stack(error)}
        level = max(min(record.levelno // 10 * 10, logging.CRITICAL), logging.DEBUG)
        # Named by a module as a rule: another name may be anything.
        name = record.name if record.name.partition(".")[0] in sys.modules else "a library"
        _lines(name).log(level, _authors_words(record), **fields)


def _authors_words(record: logging.LogRecord) -> str:
    """What a library's author wrote of a line; the values in it may be anything."""
    text = record.msg
    if record.name.partition(".")[0] not in _KNOWN or not isinstance(text, str):
        return "a library's line"
    if record.args:
        return _CONVERSION.sub("…", text)
    # It may have been put together before: the beginning of its first line has not.
    words = _FIRST_WORDS.match(text)
    return words[0].strip() if words else ""


def _show_warning(
    message: Warning | str,  # noqa: ARG001 - it may quote anything
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001 - the hook's own signature
    line: str | None = None,  # noqa: ARG001 - as above
) -> None:
    where = Ours(f"{Path(filename).stem}:{lineno}")
    log(logging.getLogger("py.warnings"), logging.WARNING, "a warning", error=category, where=where)


def _show_exception(
    kind: type[BaseException],
    error: BaseException | None,
    traceback: TracebackType | None,
) -> None:
    if kind is not SystemExit:
        error = kind() if error is None else error
        log_exception(logging.getLogger("mochi_server"), error.with_traceback(traceback))
