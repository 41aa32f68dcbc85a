"""The command line: settings, a socket, and uvicorn."""

import asyncio
import errno
import math
import socket
import sys
from collections.abc import Sequence
from types import FrameType
from typing import cast

import uvicorn

from mochi_server import __version__
from mochi_server.api.http import State
from mochi_server.app import create_app
from mochi_server.observability.logs import configure
from mochi_server.settings import Settings, SettingsError, read_settings
from mochi_server.store.files import FolderInUse
from mochi_server.store.sessions import SessionStore

BACKLOG = 2048


class Server(uvicorn.Server):
    """uvicorn's server, told how to stop: replies are saved, streams get their `done`, and the exit code is 0."""

    def __init__(self, config: uvicorn.Config, settings: Settings, address: str) -> None:
        super().__init__(config)
        self._settings = settings
        self._address = address

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signal's own signature
        """Stop in order at the first signal, at once at the second.

        uvicorn's own raises the signal again after a clean stop, which makes the exit code that of a kill.
        """
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say where."""
        await super().startup(sockets)
        if self.started:
            print(f"mochi-server {__version__} listens on {self._address}", flush=True)  # noqa: T201 - for people

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the doors, end the running replies in time for their streams to end too."""
        state = cast("State", self.lifespan.state)
        seconds = max(self._settings.shutdown_seconds - 1, 0)
        draining = asyncio.create_task(state["generations"].drain(seconds))
        await super().shutdown(sockets)
        if self.force_exit:
            # In a hurry, but what was shown is kept.
            state["generations"].end_all()
        await draining


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the server until it is told to stop. Exit code 2: it could not start, and said why in one line."""
    try:
        settings = read_settings(sys.argv[1:] if arguments is None else arguments)
        listener = _listen(settings)
        store = _take_folder(settings)
    except SettingsError as error:
        print(f"mochi-server: {error}", file=sys.stderr)  # noqa: T201 - there is no log yet
        sys.exit(2)
    configure(settings.log_level, settings.log_format or ("console" if sys.stderr.isatty() else "json"))
    Server(_config(settings, store), settings, _address(settings, listener)).run(sockets=[listener])


def _listen(settings: Settings) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host.strip("[]"), settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        if sys.platform != "win32":
            # There it would let two servers share the port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            reason = "it is in use; choose another with --port"
        raise SettingsError(f"cannot listen on {settings.host} port {settings.port}: {reason}") from None
    return listener


def _take_folder(settings: Settings) -> SessionStore:
    store = SessionStore(settings.sessions_folder)
    try:
        store.take()
    except FolderInUse as error:
        raise SettingsError(
            f"the sessions folder {settings.sessions_folder} is in use by {error}; choose another with --sessions-dir"
        ) from None
    except OSError as error:
        raise SettingsError(
            f"the sessions folder {settings.sessions_folder} cannot be used: {error.strerror}"
        ) from None
    return store


def _config(settings: Settings, store: SessionStore) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(settings, store),
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_seconds),
    )


def _address(settings: Settings, listener: socket.socket) -> str:
    host = settings.host.strip("[]")
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{listener.getsockname()[1]}"


if __name__ == "__main__":
    main()
