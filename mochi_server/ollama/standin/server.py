"""The stand-in itself: connections in, answers out."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Self

import msgspec

from mochi_server.ollama.standin.http import (
    HEAD_LIMIT,
    Answer,
    BadRequest,
    Request,
    read_request,
    reads_until_gone,
)
from mochi_server.ollama.standin.protocol import (
    JSON,
    ChatCall,
    Line,
    Model,
    Refused,
    Reply,
    Said,
    Speech,
    TooLong,
    decode,
    encode,
    fit,
    full_name,
    read_chat,
    refuse_unable,
    speech_limit,
    window_of,
)
from mochi_server.ollama.standin.reply import Turn, rfc3339, say
from mochi_server.ollama.standin.script import LOADING, Behaviour, Gate

_DEFAULT_WINDOW = 4096
_FOR_EVER = 290 * 365 * 86_400.0  # how Ollama shows a model that it keeps until told otherwise


class Recorded(msgspec.Struct, frozen=True):
    """One request that reached the stand-in; `json` is its body decoded, `None` if that was no JSON."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    json: Any


class _Residence(msgspec.Struct):
    """One model in memory: the name that it was loaded under, the window asked for and the one in force (0 while not
    loaded), how many replies use it, and until when it stays (seconds since the epoch).
    """

    name: str = ""
    asked: int = 0
    window: int = 0
    running: int = 0
    expires: float = 0.0

    def keep(self, seconds: float) -> None:
        self.expires = time.time() + (min(seconds, _FOR_EVER) if seconds >= 0 else _FOR_EVER)


class StandIn:
    """Ollama's chat and model calls, answered by `models` as they are told to.

    Every call but `start` and `close` may come from any thread. Requests that are refused, and those without messages
    that load or unload a model, take nothing from the script.
    """

    def __init__(self, models: Sequence[Model], version: str = "0.24.0", window: int = _DEFAULT_WINDOW) -> None:
        self.requests: list[Recorded] = []
        self.loads: list[tuple[str, int]] = []
        """Each time that a model was loaded: its name, and the window that it was loaded with."""
        self.active = 0
        """Chat replies that are running now, those that wait for their model included."""
        self.abandoned = 0
        """Chat replies whose client left before their end."""
        self.url = ""
        """`http://host:port`, once started."""
        self.ps_status = 200
        """Anything else is what `/api/ps` fails with."""
        self.ps_delay = 0.0
        """Seconds that `/api/ps` takes."""
        self._models = {full_name(model.name): model for model in models}
        self._version = version
        self._default_window = window
        """The window in tokens of requests that name none."""
        self._script: deque[Behaviour] = deque()
        self._residences = self._nothing_loaded()
        self._changes = threading.Condition()
        self._reply_ended = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 picks a free one. Raises `OSError` if it cannot. May follow a `close`."""
        self._reply_ended = asyncio.Event()
        self._server = await asyncio.start_server(self._connected, host, port, limit=HEAD_LIMIT)
        bound_host, bound_port = self._server.sockets[0].getsockname()[:2]
        self.url = f"http://{bound_host}:{bound_port}"

    async def close(self) -> None:
        """Stop listening and break every connection, as a killed Ollama would; nothing stays loaded."""
        server, self._server = self._server, None
        if server is None:
            return
        for listener in server.sockets:
            # Python 3.11 loses a connection that it accepts while a server is closed: it stays open for ever.
            asyncio.get_running_loop().remove_reader(listener.fileno())
        for _ in range(3):
            await asyncio.sleep(0)
        server.close()
        for task, writer in self._connections.items():
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await server.wait_closed()
        self._residences = self._nothing_loaded()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def script(self, *behaviours: Behaviour) -> None:
        """Queue how the coming chat replies go, one for each."""
        self._script.extend(behaviours)

    def wait_until(self, predicate: Callable[[], bool], limit: float = 5.0) -> None:
        """Block, in another thread, until the predicate over `requests`, `active` and `abandoned` holds.

        Raises `TimeoutError` after `limit` seconds.
        """
        with self._changes:
            if not self._changes.wait_for(predicate, limit):
                raise TimeoutError(f"not so within {limit} s: {self.active} active, {self.abandoned} abandoned")

    def _nothing_loaded(self) -> dict[str, _Residence]:
        """By digest: what shares its weights with another is loaded once, and shown under the name that loaded it."""
        return {model.digest: _Residence() for model in self._models.values()}

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._connections.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = Answer(writer)
        try:
            if request := await read_request(reader):
                await self._answer_while_there(request, reader, answer)
        except BadRequest as error:
            await answer.send(400, "text/plain; charset=utf-8", f"400 Bad Request: {error}".encode())
        except ConnectionError:
            pass  # the client has gone
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer_while_there(self, request: Request, reader: asyncio.StreamReader, answer: Answer) -> None:
        work = asyncio.create_task(self._respond(request, answer))
        gone = asyncio.create_task(reads_until_gone(reader))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            work.cancel()  # does nothing to one that is done
            await asyncio.wait({work, gone})
        if not work.cancelled():
            work.result()

    async def _respond(self, request: Request, answer: Answer) -> None:
        self._record(request)
        routes = {
            "/": ("GET", self._root),
            "/api/version": ("GET", self._tell_version),
            "/api/tags": ("GET", self._tags),
            "/api/ps": ("GET", self._ps),
            "/api/show": ("POST", self._show),
            "/api/chat": ("POST", self._chat),
        }
        answer.head_only = request.method == "HEAD"
        if request.path not in routes:
            await answer.send(404, "text/plain", b"404 page not found")
            return
        method, handle = routes[request.path]
        if request.method != method and not (answer.head_only and method == "GET"):
            await answer.send(405, "text/plain", b"405 method not allowed", {"Allow": method})
            return
        try:
            await handle(request, answer)
        except Refused as refused:
            body = encode({"error": refused.error})
            await answer.send(refused.status, "application/json" if refused.late else JSON, body, chunked=refused.late)

    def _record(self, request: Request) -> None:
        try:
            value = msgspec.json.decode(request.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            value = None
        with self._changes:
            self.requests.append(Recorded(request.method, request.path, request.headers, request.body, value))
            self._changes.notify_all()

    async def _root(self, _request: Request, answer: Answer) -> None:
        await answer.send(200, "text/plain; charset=utf-8", b"Ollama is running")

    async def _tell_version(self, _request: Request, answer: Answer) -> None:
        await answer.send(200, JSON, encode({"version": self._version}))

    async def _tags(self, _request: Request, answer: Answer) -> None:
        models = [
            {
                "name": model.name,
                "model": model.name,
                "modified_at": model.modified_at,
                "size": model.size,
                "digest": model.digest,
                "details": _details(model),
            }
            for model in self._models.values()
        ]
        await answer.send(200, JSON, encode({"models": models}))

    async def _ps(self, _request: Request, answer: Answer) -> None:
        await asyncio.sleep(self.ps_delay)
        if self.ps_status != 200:
            raise Refused(self.ps_status, "something went wrong")
        now = time.time()
        models = [
            {
                "name": residence.name,
                "model": residence.name,
                "size": self._models[residence.name].size,
                "digest": digest,
                "details": _details(self._models[residence.name]),
                "expires_at": rfc3339(int(residence.expires * 1e9)),
                "size_vram": 0,
                "context_length": residence.window,
            }
            for digest, residence in self._residences.items()
            if residence.window and (residence.running or residence.expires > now)
        ]
        await answer.send(200, JSON, encode({"models": models}))

    async def _show(self, request: Request, answer: Answer) -> None:
        body = decode(request.body)
        name = body.get("model") or body.get("name") if isinstance(body, dict) else ""
        model = self._model(name if isinstance(name, str) else "")
        shown = {
            "details": _details(model),
            "model_info": {
                "general.architecture": model.family,
                f"{model.family}.context_length": model.context_length,
            },
            "capabilities": model.capabilities,
            "modified_at": model.modified_at,
        }
        await answer.send(200, JSON, encode(shown))

    def _model(self, name: str) -> Model:
        if model := self._models.get(full_name(name)):
            return model
        raise Refused(404, f"model '{name}' not found")

    async def _chat(self, request: Request, answer: Answer) -> None:
        began = time.perf_counter_ns()
        call = read_chat(request.body)
        model = self._model(call.model)
        if not call.messages:
            await self._load_or_unload(call, model, answer)
            return
        try:
            turn = self._turn(call, model, began)
        except TooLong:
            async with self._residing(model, call, None):
                raise  # a real one has the model loaded before it counts
        with self._counted(turn):
            async with self._residing(model, call, turn.behaviour.gate):
                turn.loaded = time.perf_counter_ns()
                await say(turn, answer)

    def _turn(self, call: ChatCall, model: Model, began: int) -> Turn:
        window = window_of(model, self._asked_window(call))
        try:
            refuse_unable(model, call)
            seen, prompt_tokens = fit(model, call, window)
        except Refused as refused:
            refused.late = refused.late and call.stream
            raise
        behaviour = self._script.popleft() if self._script else Behaviour()
        reply = model.reply(seen) if behaviour.pieces is None else Reply(pieces=behaviour.pieces)
        if behaviour.thinking:
            reply = msgspec.structs.replace(reply, thinking=behaviour.thinking)
        stops = tuple(map(str, call.options.get("stop", ())))
        speech = Speech(reply, speech_limit(call, prompt_tokens, window), stops)
        return Turn(call, behaviour, speech, prompt_tokens, began)

    @contextmanager
    def _counted(self, turn: Turn) -> Iterator[None]:
        with self._changes:
            self.active += 1
            self._changes.notify_all()
        left = False
        try:
            yield
        except (asyncio.CancelledError, ConnectionError):
            left = self._server is not None and not turn.complete
            raise
        finally:
            with self._changes:
                self.active -= 1
                self.abandoned += left
                self._changes.notify_all()

    @asynccontextmanager
    async def _residing(self, model: Model, call: ChatCall, gate: Gate | None) -> AsyncIterator[None]:
        """Have the model loaded as the call asks: once no running reply needs it loaded otherwise."""
        home, asked = self._residences[model.digest], self._asked_window(call)
        while home.running and home.asked != asked:
            await self._reply_ended.wait()
        if home.asked != asked or home.expires <= time.time():
            home.name, home.asked, home.window = model.name, asked, 0
            self.loads.append((model.name, window_of(model, asked)))
        home.running += 1
        try:
            if gate:
                await gate.passed(LOADING)
            home.window = window_of(model, asked)
            home.keep(call.seconds_kept or 1.0)
            yield
        finally:
            home.running -= 1
            home.keep(call.seconds_kept)
            self._reply_ended.set()
            self._reply_ended = asyncio.Event()

    def _asked_window(self, call: ChatCall) -> int:
        return int(call.options.get("num_ctx", self._default_window))

    async def _load_or_unload(self, call: ChatCall, model: Model, answer: Answer) -> None:
        if call.seconds_kept:
            refuse_unable(model, call)
            async with self._residing(model, call, None):
                reason = "load"
        else:
            self._residences[model.digest].keep(0.0)
            reason = "unload"
        said = Said(role="assistant", content="")
        line = Line(model=call.model, created_at=rfc3339(time.time_ns()), message=said, done=True, done_reason=reason)
        await answer.send(200, JSON, encode(line))


def _details(model: Model) -> dict[str, object]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.family,
        "families": [model.family],
        "parameter_size": model.parameter_size,
        "quantization_level": model.quantization_level,
    }
