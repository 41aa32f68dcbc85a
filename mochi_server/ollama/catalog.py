"""The models that Ollama has, and what each can do.

`/api/tags` says which there are, `/api/show` what one can do. The latter is asked once for each digest, so a list
that has not changed costs one call.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterable
from datetime import UTC, datetime

import anyio
import msgspec
import ollama

from mochi_server.errors import MochiError, ModelNotFound, OllamaTimeout, OllamaUnreachable
from mochi_server.ollama import failures
from mochi_server.ollama.client import OllamaClient
from mochi_server.ollama.shared import SharedCall

SHOWN_AT_ONCE = 8
REFRESH_SECONDS = 30.0
"""What is known may be so old before it is asked for anew while nobody waits for it."""

_BEGINNING = datetime.min.replace(tzinfo=UTC)


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model. `context_length` is the model's own limit in tokens.

    Both it and `capabilities` are None where Ollama did not say.
    """

    name: str
    size_mb: float
    format: str
    family: str
    parameter_size: str
    quantization_level: str
    capabilities: tuple[str, ...] | None
    context_length: int | None
    digest: str = ""
    modified_at: datetime = _BEGINNING


class Loaded(msgspec.Struct, frozen=True):
    """A model that Ollama has in memory, under each name that it has, and the window in tokens (None: not told)."""

    names: frozenset[str]
    window: int | None

    def is_called(self, name: str) -> bool:
        """Whether that is one of its names."""
        return full_name(name) in self.names


class _Shown(msgspec.Struct, frozen=True):
    capabilities: tuple[str, ...] | None
    context_length: int | None


class Catalog:
    """What is known of Ollama's models, brought up to date when somebody asks.

    `allowed` are the names of those that may be used; empty: all of them.
    """

    def __init__(self, client: OllamaClient, default_model: str | None, allowed: Iterable[str] = ()) -> None:
        self._client = client
        self._default = default_model
        self._allowed = frozenset(full_name(name) for name in allowed)
        self._shown: dict[str, _Shown] = {}
        self._models: dict[str, Model] = {}
        self._refresh = SharedCall(self._look)
        self._refreshed = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None

    def refresh_soon(self) -> None:
        """Have what is known brought up to date in the background, if it is not fresh."""
        fresh = time.monotonic() - self._refreshed < REFRESH_SECONDS
        if not fresh and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh_quietly())

    def close(self) -> None:
        """Ask no more in the background."""
        if self._refreshing is not None:
            self._refreshing.cancel()

    async def _refresh_quietly(self) -> None:
        with contextlib.suppress(MochiError):
            await self._refresh()

    def known(self, name: str) -> Model | None:
        """The model as it was last seen, without asking."""
        return self._models.get(full_name(name))

    @property
    def restricted(self) -> bool:
        """Whether some models are not allowed."""
        return bool(self._allowed)

    async def check_allowed(self, name: str) -> None:
        """Raise ModelNotFound where the model is not allowed, listing those that are and that Ollama has."""
        if self._allows(name):
            return
        with contextlib.suppress(MochiError):
            await self._refresh()
        raise self._missing(name)

    async def models(self) -> list[Model]:
        """The completion-capable models that are allowed, newest first, as Ollama has them now."""
        await self._refresh()
        allowed = [m for m in self._models.values() if self._allows(m.name)]
        able = [m for m in allowed if m.capabilities is None or "completion" in m.capabilities]
        return sorted(able, key=lambda m: (m.modified_at, m.name), reverse=True)

    async def find(self, name: str) -> Model:
        """The model, as Ollama has it now. Raises ModelNotFound, which lists what there is, and what asking raises."""
        await self.check_allowed(name)
        await self._refresh()
        if (model := self.known(name)) is not None:
            return model
        raise self._missing(name)

    async def choose(self, name: str | None) -> str:
        """The model for a new session: the one named, else the configured one, else the newest.

        While Ollama cannot be reached a name is taken on trust. Raises ModelNotFound, and what asking raises.
        """
        name = name or self._default
        try:
            if name is not None:
                await self.find(name)
                return name
            models = await self.models()
        except (OllamaUnreachable, OllamaTimeout):
            if name is None:
                raise
            return name
        if not models:
            raise self._nothing_to_choose()
        return models[0].name

    async def require(self, name: str, capability: str) -> None:
        """Make sure that the model can do this. Raises CapabilityMissing.

        Asks Ollama only when what is known says no, or nothing is known. Where Ollama cannot tell, it is left to
        Ollama to refuse.
        """
        model = self.known(name)
        if model is None or model.capabilities is None or capability not in model.capabilities:
            try:
                model = await self.find(name)
            except MochiError:
                return
        if model.capabilities is not None and capability not in model.capabilities:
            raise failures.capability_missing(name, capability)

    async def loaded(self) -> list[Loaded]:
        """The models that Ollama has in memory. Those that share weights are named by the one that loaded them only."""
        answer = await self._client.running()
        return [Loaded(self._names(str(one.model), one.digest), one.context_length or None) for one in answer.models]

    def _names(self, name: str, digest: str | None) -> frozenset[str]:
        same = {model.name for model in self._models.values() if digest and model.digest == digest}
        return frozenset({full_name(name), *(full_name(other) for other in same)})

    async def explained(self, error: ModelNotFound) -> ModelNotFound:
        """The same error, with the models that there are."""
        try:
            await self._refresh()
        except MochiError:
            return error
        return self._missing(str(error.details.get("model", "")))

    def _allows(self, name: str) -> bool:
        return not self._allowed or full_name(name) in self._allowed

    def _missing(self, name: str) -> ModelNotFound:
        error = (failures.model_not_found if self._allows(name) else failures.model_not_allowed)(name[:200])
        error.details["available"] = sorted(name for name in self._models if self._allows(name))
        return error

    def _nothing_to_choose(self) -> ModelNotFound:
        which = " and is allowed on this server (MOCHI_ALLOWED_MODELS)" if self._allowed else ""
        example = min(self._allowed, default="llama3.2")
        return ModelNotFound(
            f"Ollama has no model that can chat{which}. Get one, for instance with: ollama pull {example}",
            {"available": []},
        )

    async def _look(self) -> None:
        tags = [tag for tag in (await self._client.tags()).models if tag.model]
        shown: dict[str, _Shown | None] = {}
        limiter = anyio.CapacityLimiter(SHOWN_AT_ONCE)

        async def look(tag: ollama.ListResponse.Model) -> None:
            async with limiter:
                shown[_key(tag)] = await self._show(tag)

        async with anyio.create_task_group() as group:
            for tag in tags:
                group.start_soon(look, tag)
        # Only what is there now, and only answers: a model that could not be looked at is asked for again.
        self._shown = {key: seen for key, seen in shown.items() if seen is not None}
        self._models = {str(tag.model): _model(tag, shown[_key(tag)]) for tag in tags}
        self._refreshed = time.monotonic()

    async def _show(self, tag: ollama.ListResponse.Model) -> _Shown | None:
        if (known := self._shown.get(_key(tag))) is not None:
            return known
        try:
            answer = await self._client.show(str(tag.model))
        except MochiError:
            # Removed meanwhile, or a hiccup. Ollama lists it, so it is not hidden; what it can do is not known.
            return None
        info = answer.modelinfo or {}
        length = info.get(f"{info.get('general.architecture')}.context_length")
        # Servers from before capabilities were told had no other kind that could be listed apart.
        capabilities = ("completion",) if answer.capabilities is None else tuple(answer.capabilities)
        return _Shown(capabilities, length if isinstance(length, int) else None)


def full_name(name: str) -> str:
    """The name with its tag: Ollama's default tag is `latest`."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _key(tag: ollama.ListResponse.Model) -> str:
    return f"{tag.model} {tag.digest}"


def _model(tag: ollama.ListResponse.Model, shown: _Shown | None) -> Model:
    details = tag.details
    return Model(
        name=str(tag.model),
        size_mb=round(int(tag.size or 0) / 1_000_000, 1),
        format=(details and details.format) or "",
        family=(details and details.family) or "",
        parameter_size=(details and details.parameter_size) or "",
        quantization_level=(details and details.quantization_level) or "",
        capabilities=shown.capabilities if shown else None,
        context_length=shown.context_length if shown else None,
        digest=tag.digest or "",
        modified_at=tag.modified_at or _BEGINNING,
    )
