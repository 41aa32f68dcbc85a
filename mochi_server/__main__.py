"""The command line: settings, a socket, and uvicorn."""

try:
    import asyncio
    import contextlib
    import errno
    import logging
    import math
    import socket
    import sys
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import FrameType
    from typing import cast

    import uvicorn

    from mochi_server import __version__, migrate_command
    from mochi_server.api.http import State
    from mochi_server.app import create_app, require_model
    from mochi_server.chat.generations import Generations
    from mochi_server.command_line import read_settings
    from mochi_server.connections.connection import Connections
    from mochi_server.errors import MochiError
    from mochi_server.keys import is_readable_by_others
    from mochi_server.observability.logs import configure, log
    from mochi_server.observability.metrics import Metrics
    from mochi_server.settings import Settings, SettingsError
    from mochi_server.store.files import FolderInUse
    from mochi_server.store.prompts import check_folder
    from mochi_server.store.sessions import SessionStore
except KeyboardInterrupt:
    # Reading all this in takes a third of a second, in which people change their minds.
    raise SystemExit(130) from None

if sys.platform != "win32":
    import resource

logger = logging.getLogger("mochi_server.start")

BACKLOG = 2048
OTHER_DESCRIPTORS = 128
"""Files and sockets that a server has open beside its connections and its replies."""

PEER_SECONDS = 90
"""How long a client may be silent on the level of TCP; a stream's heartbeats are acknowledged by who is there."""

TICK_SECONDS = 0.25
"""So late is a signal noticed at most."""

LAST_WORDS = 0.5
"""Seconds in which answers may still go out once there is no more waiting."""


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
            if hint := migrate_command.earlier_sessions(self._settings.sessions_folder):
                print(hint, flush=True)  # noqa: T201 - for people

    async def main_loop(self) -> None:
        """Wait for the end. uvicorn's own looks ten times a second, which is most of what an idle server does."""
        # Each look brings the `Date` of answers up to date, too.
        while not await self.on_tick(0):  # noqa: ASYNC110 - a signal's handler can set no event
            await asyncio.sleep(TICK_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the doors, end the running replies in time for their streams to end too."""
        generations = cast("State", self.lifespan.state)["generations"]
        draining = asyncio.create_task(generations.drain(max(self._settings.shutdown_seconds - 1, 0)))
        hurrying = asyncio.create_task(self._end_all_when_forced(generations))
        await super().shutdown(sockets)
        await draining
        hurrying.cancel()
        if self.force_exit:
            # Both are left out by uvicorn then, and what was left running would end as a stack in the log.
            await self._hang_up()
            await self.lifespan.shutdown()

    async def _end_all_when_forced(self, generations: Generations) -> None:
        """In a hurry, but what was shown is kept."""
        while not self.force_exit:  # noqa: ASYNC110 - a signal's handler can set no event; uvicorn looks as often
            await asyncio.sleep(0.1)
        generations.end_all()

    async def _hang_up(self) -> None:
        """Let the last words out, then leave those who do not listen."""
        tasks = set(self.server_state.tasks)
        if not tasks:
            return
        _, unfinished = await asyncio.wait(tasks, timeout=LAST_WORDS)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished, timeout=LAST_WORDS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the server until it is told to stop. Exit code 2: it could not start, and said why in one line.

    Exit code 130: Ctrl-C came before there was anything to stop in order.
    """
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        sys.exit(130)


def _run(arguments: Sequence[str]) -> None:
    if arguments and arguments[0] == "migrate":
        sys.exit(migrate_command.main(arguments[1:]))
    try:
        settings = read_settings(arguments)
        if settings.require_model:
            _require_model(settings)
        listener = _listen(settings)
        metrics = Metrics()
        store = _take_folder(settings, metrics)
        _check_prompts_folder(settings)
    except SettingsError as error:
        print(f"mochi-server: {error}", file=sys.stderr)  # noqa: T201 - there is no log yet
        sys.exit(2)
    configure(settings.log_level, settings.log_format or ("console" if sys.stderr.isatty() else "json"))
    if settings.api_key_file is not None and is_readable_by_others(Path(settings.api_key_file).expanduser()):
        log(logger, logging.WARNING, "other users of this machine can read the API key file; chmod 600 prevents it")
    Server(_config(settings, store, metrics), settings, _address(settings, listener)).run(sockets=[listener])


def _require_model(settings: Settings) -> None:
    try:
        asyncio.run(require_model(settings))
    except MochiError as error:
        # Some of it may be Ollama's own words.
        line = " ".join("".join(c if c.isprintable() else " " for c in error.message).split())
        raise SettingsError(f"--require-model (MOCHI_REQUIRE_MODEL): {line}") from None


def _listen(settings: Settings) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host.strip("[]"), settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        if sys.platform != "win32":
            # There it would let two servers share the port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _notice_dead_peers(listener)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            reason = "it is in use; choose another with --port"
        raise SettingsError(f"cannot listen on {settings.host} port {settings.port}: {reason}") from None
    return listener


def _notice_dead_peers(listener: socket.socket) -> None:
    """Have the system end connections whose other side is gone without a word; accepted ones inherit it.

    Who is there but reads nothing is waited for as long.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {"TCP_KEEPIDLE": PEER_SECONDS, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
    options["TCP_USER_TIMEOUT"] = PEER_SECONDS * 1000  # of what was sent and not acknowledged
    for name, value in options.items():
        if (option := getattr(socket, name, None)) is not None:  # each system has others of them
            listener.setsockopt(socket.IPPROTO_TCP, option, value)


def _take_folder(settings: Settings, metrics: Metrics) -> SessionStore:
    with _told(settings, "sessions", settings.sessions_dir, "--sessions-dir"):
        store = SessionStore(settings.sessions_folder, metrics)
        store.take()
    return store


def _check_prompts_folder(settings: Settings) -> None:
    with _told(settings, "system prompts", settings.system_prompts_dir, "--system-prompts-dir"):
        check_folder(settings.system_prompts_folder)


@contextlib.contextmanager
def _told(settings: Settings, what: str, folder: str, flag: str) -> Iterator[None]:
    """Why a folder cannot be had, as a SettingsError."""
    try:
        yield
    except FolderInUse as error:
        reason = f"is in use by {error}"
    except OSError as error:
        reason = f"cannot be used: {error.strerror or error}"
    except (RuntimeError, ValueError) as error:
        # No home folder for `~`, or a character that no path may have.
        reason = f"is none: {str(error).rstrip('.')}"
    else:
        return
    shown = str(Path(settings.data_dir) / folder)
    raise SettingsError(f"the {what} folder {shown!r} {reason}; choose another with --data-dir or {flag}")


def _config(settings: Settings, store: SessionStore, metrics: Metrics) -> uvicorn.Config:
    config = uvicorn.Config(
        create_app(settings, store, metrics),
        http=cast("type[asyncio.Protocol]", Connections(settings, _connections(settings), metrics).connect),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_seconds),
    )
    # Reads in the loop's library here, where Ctrl-C leaves nothing half begun.
    config.get_loop_factory()
    return config


def _connections(settings: Settings) -> int:
    """How many connections there may be: what the settings say, or what the system has descriptors for."""
    if sys.platform == "win32":
        return settings.max_connections
    # Each reply has a journal, and one to Ollama.
    others = OTHER_DESCRIPTORS + 2 * (settings.max_concurrent + settings.max_queue)
    wanted = settings.max_connections + others
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return settings.max_connections
    more = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
        soft = more
    if soft >= wanted:
        return settings.max_connections
    fitting = max(soft - others, soft // 2)
    log(logger, logging.WARNING, "fewer connections than configured: no more files may be open", limit=fitting)
    return fitting


def _address(settings: Settings, listener: socket.socket) -> str:
    host = settings.host.strip("[]")
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{listener.getsockname()[1]}"


if __name__ == "__main__":
    main()
