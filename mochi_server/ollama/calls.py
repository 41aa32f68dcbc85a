"""The model calls, over the `ollama` package. To read that in is a third of a start, so it is done behind it."""

import ssl
from collections.abc import Awaitable
from typing import Literal, TypeVar

import httpx
import ollama

from mochi_server.ollama import failures
from mochi_server.ollama.address import Address

_T = TypeVar("_T")


class Calls:
    """Asks the Ollama at one address. Raises what it refuses as a MochiError, and what its transport raises."""

    def __init__(
        self, address: Address, headers: dict[str, str], timeout: httpx.Timeout, verify: ssl.SSLContext | Literal[False]
    ) -> None:
        self._client = ollama.AsyncClient(
            host=address.shown, headers=headers, timeout=timeout, verify=verify, follow_redirects=False, trust_env=False
        )

    async def close(self) -> None:
        """Close what is kept open between calls."""
        await self._client.close()  # type: ignore[no-untyped-call]  # the package left its type out

    async def tags(self) -> ollama.ListResponse:
        """The models that Ollama has."""
        return await _answered(self._client.list())

    async def show(self, model: str) -> ollama.ShowResponse:
        """What one model is and can do. Raises ModelNotFound, too."""
        return await _answered(self._client.show(model), model)

    async def running(self) -> ollama.ProcessResponse:
        """The models that are loaded, with the window that each has."""
        return await _answered(self._client.ps())


async def _answered(call: Awaitable[_T], model: str = "") -> _T:
    try:
        return await call
    except ollama.ResponseError as error:
        raise failures.refusal(error.status_code, error.error, model) from error
