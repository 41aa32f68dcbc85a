"""Starts the server as its command does, and tells from inside of it what cannot be seen from without.

A test gives this file as the `through` of its `Server`, and asks it over a port of its own: what runs on the event
loop, which objects there are, and how often JSON was made and read. Only names of libraries are hooked, none of the
server's.
"""

import asyncio
import gc
import json
import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import orjson
import uvicorn

LIMIT = 20.0
"""Seconds that an answer may take."""

_COUNTS, _ALL = b"counts\n", b"all\n"


class Inside(NamedTuple):
    """What a server tells of itself, each by name with how often."""

    encoded: dict[str, int]
    """Values that JSON was made of since the start, by their types."""
    decoded: dict[str, int]
    """Values that were read from JSON, by their types."""
    tasks: dict[str, int]
    threads: dict[str, int]
    """By name, numbers at the end left out."""
    blocks: int
    """Pieces of memory that Python's own allocator has given out."""
    objects: dict[str, int]
    """What the collector keeps track of, by type. Only where it was asked for, and garbage is then collected before."""


class Instrument:
    """A server's other side: how to start it so that it tells, and how to ask it."""

    def __init__(self, folder: Path) -> None:
        self._port = folder / "inside.port"
        # -P: the folder of this file has packages with the names of libraries.
        self.through = (sys.executable, "-P", __file__, str(self._port))

    def counts(self) -> Inside:
        """What it has done so far, and what runs."""
        return self._asked(_COUNTS)

    def all(self) -> Inside:
        """As `counts`, and which objects there are: it collects its garbage for that, which takes a while."""
        return self._asked(_ALL)

    def _asked(self, what: bytes) -> Inside:
        with socket.create_connection(("127.0.0.1", int(self._port.read_text())), LIMIT) as connection:
            connection.sendall(what)
            with connection.makefile("rb") as answer:
                return Inside(**json.load(answer))


_encoded, _decoded = Counter[str](), Counter[str]()


class _Encoder:
    """msgspec's, counted: its own can be no base."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._encoder = _own_encoder(*args, **kwargs)

    def encode(self, value: object) -> bytes:
        _encoded[type(value).__name__] += 1
        return self._encoder.encode(value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)


class _Decoder:
    """msgspec's, counted."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._decoder = _own_decoder(*args, **kwargs)

    def __class_getitem__(cls, _item: object) -> type:
        return cls

    def decode(self, data: Any, **kwargs: Any) -> Any:
        value = self._decoder.decode(data, **kwargs)
        _decoded[type(value).__name__] += 1
        return value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)


_own_encoder, _own_decoder = msgspec.json.Encoder, msgspec.json.Decoder


def _counted(encode: Callable[..., bytes]) -> Callable[..., bytes]:
    def counting(value: object, *args: Any, **kwargs: Any) -> bytes:
        _encoded[type(value).__name__] += 1
        return encode(value, *args, **kwargs)

    return counting


def _count() -> None:
    """Before anything of the server is read in: it makes its encoders then."""
    msgspec.json.Encoder = _Encoder  # type: ignore[misc,assignment]
    msgspec.json.Decoder = _Decoder  # type: ignore[misc,assignment]
    msgspec.json.encode = _counted(msgspec.json.encode)
    orjson.dumps = _counted(orjson.dumps)


class _Telling(asyncio.Protocol):
    """One question. It has no task, which would count itself."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        if data == _ALL:
            gc.collect()
        blocks = sys.getallocatedblocks()
        objects = _objects() if data == _ALL else {}
        told = Inside(dict(_encoded), dict(_decoded), _tasks(), _threads(), blocks, objects)
        self._transport.write(json.dumps(told._asdict()).encode())
        self._transport.close()


def _tasks() -> dict[str, int]:
    return Counter(getattr(task.get_coro(), "__qualname__", "?") for task in asyncio.all_tasks())


def _threads() -> dict[str, int]:
    return Counter(thread.name.rstrip("0123456789") for thread in threading.enumerate())


def _objects() -> dict[str, int]:
    return Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())


def _tell(port: Path) -> None:
    """Answer from the moment on at which the server runs."""
    startup = uvicorn.Server.startup

    async def telling(self: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        listener = await asyncio.get_running_loop().create_server(_Telling, "127.0.0.1", 0)
        port.write_text(str(listener.sockets[0].getsockname()[1]))
        await startup(self, sockets)

    uvicorn.Server.startup = telling  # type: ignore[method-assign]


def main() -> None:
    """Behind this file stand a file for the port, and the command that is to be started: Python, -m, mochi_server."""
    port, _python, _m, _module, *arguments = sys.argv[1:]
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # a Ctrl-C is for whoever started it, who ends it then
    _count()
    _tell(Path(port))
    from mochi_server.__main__ import main as serve  # noqa: PLC0415 - what it reads in must find the counters

    serve(arguments)


if __name__ == "__main__":
    main()
