"""OllamaClient: the chat stream over our own reader, the model calls over the `ollama` package.

No redirect is followed and no proxy variable obeyed: conversations go to the address that was named, and nowhere
else.
"""

import asyncio
import ssl
from collections.abc import Awaitable
from typing import TypeVar

import httpx
import msgspec
import ollama

from mochi_server import __version__
from mochi_server.errors import MochiError
from mochi_server.observability.metrics import Metrics
from mochi_server.ollama import failures
from mochi_server.ollama.address import Address
from mochi_server.ollama.shared import SharedCall
from mochi_server.ollama.stream import ChatStream, Sink
from mochi_server.ollama.wire import ChatRequest, encode_request

_T = TypeVar("_T")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long Ollama may take, in seconds: to connect, to its first token, from token to token, for a model call."""

    connect: float
    first_token: float
    token: float
    call: float = 10.0


class _Version(msgspec.Struct):
    version: str


class OllamaClient:
    """The Ollama at one address. Every failure is a MochiError."""

    def __init__(self, address: Address, limits: Limits, metrics: Metrics) -> None:
        self.address = address
        self._metrics = metrics
        self._limits = limits
        self._tls = ssl.create_default_context() if address.scheme == "https" else None
        headers = {"Authorization": address.authorization} if address.authorization else {}
        timeout = httpx.Timeout(limits.call, connect=limits.connect)
        # Over plain http there is nothing to verify, and loading the certificates takes 20 ms of the start.
        verify = self._tls or False
        self._calls = ollama.AsyncClient(
            host=address.shown, headers=headers, timeout=timeout, verify=verify, follow_redirects=False, trust_env=False
        )
        self._http = httpx.AsyncClient(headers=headers, timeout=timeout, verify=verify, trust_env=False)
        self._version = SharedCall(self._ask_version)

    async def close(self) -> None:
        """Close what is kept open between calls."""
        await self._calls.close()  # type: ignore[no-untyped-call]  # the package left its type out
        await self._http.aclose()

    async def chat(self, request: ChatRequest, sink: Sink) -> None:
        """Ask for a reply and hand its chunks to `sink` as they come; return after the last one.

        To cancel it is to close the connection, which stops the generation. Raises OllamaUnreachable, OllamaTimeout,
        and what Ollama answers in place of a reply, or breaks it off with.
        """
        limits = self._limits
        stream = ChatStream(
            self._http_request("/api/chat", encode_request(request)),
            request.model,
            sink,
            first_token_timeout=limits.first_token,
            token_timeout=limits.token,
        )
        del request  # with images it is large, and a reply may take long
        try:
            await self._connect(stream)
            await stream.ended()
        except MochiError as error:
            self._metrics.ollama_failed(error.code)
            raise
        finally:
            stream.close()

    async def version(self) -> str:
        """Ollama's version."""
        return await self._version()

    async def tags(self) -> ollama.ListResponse:
        """The models that Ollama has."""
        return await self._call(self._calls.list())

    async def show(self, model: str) -> ollama.ShowResponse:
        """What one model is and can do. Raises ModelNotFound too."""
        return await self._call(self._calls.show(model), model)

    async def running(self) -> ollama.ProcessResponse:
        """The models that are loaded, with the window that each has."""
        return await self._call(self._calls.ps())

    async def _ask_version(self) -> str:
        return await self._call(self._get_version())

    async def _get_version(self) -> str:
        # The `ollama` package has no call for it.
        answer = await self._http.get(f"{self.address.shown}/api/version")
        if answer.status_code != 200:
            raise ollama.ResponseError(answer.text, answer.status_code)
        return msgspec.json.decode(answer.content, type=_Version).version

    async def _call(self, call: Awaitable[_T], model: str = "") -> _T:
        try:
            return await call
        except (ollama.ResponseError, httpx.HTTPError, OSError, ValueError) as error:
            failure = failures.failed_call(error, self.address.shown, model)
            self._metrics.ollama_failed(failure.code)
            raise failure from error

    async def _connect(self, stream: ChatStream) -> None:
        loop = asyncio.get_running_loop()
        address = self.address
        try:
            async with asyncio.timeout(self._limits.connect):
                await loop.create_connection(lambda: stream, address.host, address.port, ssl=self._tls)
        except TimeoutError:
            raise failures.timed_out("take our connection", self._limits.connect, "MOCHI_CONNECT_TIMEOUT") from None
        except ssl.SSLError:
            raise failures.no_tls(address.shown) from None
        except (OSError, UnicodeError):
            raise failures.unreachable(address.shown) from None

    def _http_request(self, path: str, body: list[bytes]) -> list[bytes]:
        address = self.address
        head = [
            f"POST {address.path}{path} HTTP/1.1",
            f"Host: {address.netloc}",
            f"User-Agent: mochi-server/{__version__}",
            "Accept: application/x-ndjson",
            "Content-Type: application/json",
            f"Content-Length: {sum(map(len, body))}",
            "Connection: close",
        ]
        if address.authorization:
            head.append(f"Authorization: {address.authorization}")
        return ["\r\n".join([*head, "", ""]).encode("latin-1"), *body]
