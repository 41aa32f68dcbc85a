"""Put into a server by `sitecustomize`: a search fails in every way in which code can let slip what was looked for."""

import asyncio
import gc
import logging
import sys
import threading
import warnings
from typing import Any

from mochi_server.observability.fields import FIELDS
from mochi_server.observability.logs import log
from mochi_server.store.sessions import SessionStore


class Telltale:
    """Says it whatever is done with it."""

    def __init__(self, words: str) -> None:
        self.words = words

    def __repr__(self) -> str:
        return self.words

    __str__ = __repr__

    def __format__(self, form: str) -> str:
        return self.words


class Lost(Telltale):
    """Fails where nobody can catch it."""

    def __del__(self) -> None:
        raise ValueError(self.words)


async def fail(words: str) -> None:
    raise ValueError(words)


def fail_at_once(words: object) -> None:
    raise ValueError(words)


def log_carelessly(words: str) -> None:
    """As somebody might who knows nothing of the rule."""
    logger = logging.getLogger("mochi_server.careless")
    telling: list[Any] = [
        Telltale(words),
        [words],
        {words: words},
        ValueError(words),
        words.encode(),
        type("Str", (str,), {})(words),
    ]
    for value in (f"{words} and more", *telling):
        log(logger, logging.ERROR, "careless", **{name: value for name in FIELDS if name != "path"})
        log(logger, logging.ERROR, "careless", message=value, content=value, **{words: value})
    for value in telling:
        log(logger, logging.ERROR, "careless", path=value)


def libraries_log(words: str) -> None:
    """As libraries do at their debug level, or in an emergency."""
    logging.getLogger("sse_starlette.sse").debug("chunk: %s", words)
    logging.getLogger("sse_starlette.sse").error("ping: %(words)r", {"words": words})
    for name in ("httpx", "httpcore.http11", "uvicorn.error", "asyncio", "unheard.of", words):
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG)
        logger.info("HTTP Request: %s %d", words, 3)
        logger.warning("%d of %s", words, Telltale(words))
        logger.error(ValueError(words))
        logger.error(f"unheard.of({words})" if name != "unheard.of" else words)
        logger.log(35, Telltale(words))
        try:
            fail_at_once(words)
        except ValueError:
            logger.exception("Error while sending\n", stack_info=True)


def in_a_group(words: str) -> None:
    try:
        raise KeyError(words)  # noqa: TRY301 - as code does that lets it slip
    except KeyError as error:
        error.add_note(words)
        failures = [OSError(28, words, words), UnicodeDecodeError("utf-8", words.encode(), 0, 1, words), error]
        raise ExceptionGroup(words, failures) from TypeError(words)


async def page(*_: object, saying: str | None = None, **__: object) -> None:
    words = saying or ""
    local = Telltale(words)
    loop = asyncio.get_running_loop()
    loop.call_soon(fail_at_once, words)
    loop.call_soon(fail_at_once, local)
    task = loop.create_task(fail(words), name=words)
    await asyncio.wait([task])
    del task
    pending = loop.create_future()
    pending.set_exception(ValueError(words))
    del pending
    Lost(words)
    gc.collect()
    thread = threading.Thread(target=fail_at_once, args=(words,), name=words)
    thread.start()
    thread.join()
    warnings.warn(words, RuntimeWarning, stacklevel=1)
    log_carelessly(words)
    libraries_log(words)
    in_a_group(words)


SessionStore.page = page  # type: ignore[method-assign, assignment]  # it is not to work
sys.setrecursionlimit(1000)
