"""Every way in which Ollama can fail, mapped to one of ours.

The words are those of a real Ollama (`tests/recordings`); where the status alone does not tell, they decide.
"""

import re

import httpx
import ollama

from mochi_server.errors import (
    CapabilityMissing,
    ContextOverflow,
    MochiError,
    ModelNotFound,
    OllamaBusy,
    OllamaFailed,
    OllamaRejected,
    OllamaTimeout,
    OllamaUnreachable,
)

WORDS_KEPT = 500
"""How many characters of Ollama's own words go into a message."""

_INCAPABLE = re.compile(r"does not support (thinking|vision|tools)")
_POSSIBLE_NAME = re.compile(r"[\w.:/-]{1,200}\Z", re.ASCII)
_NO_MODEL = re.compile(r"model .* not found", re.DOTALL)
_REFUSALS_UNDER_500 = ("invalid format", "invalid JSON schema", 'option "')


def refusal(status: int, words: str, model: str, retry_after: str | None = None) -> MochiError:
    """An answer with this status and these words, in place of a reply."""
    words = words.strip()[:WORDS_KEPT]
    told = {"ollama": words, "ollama_status": status}
    if status == 404 and _NO_MODEL.search(words):
        return model_not_found(model)
    if status == 503:
        return OllamaBusy(
            f"Ollama is busy ({words}). Try again in a moment.", told, {"Retry-After": _seconds(retry_after)}
        )
    if status == 400 and "exceeds the context length" in words:
        return ContextOverflow(
            "The history does not fit the model's context window, and nothing is ever cut from it in silence.",
            {"ollama": words},
        )
    if status == 400 and (incapable := _INCAPABLE.search(words)):
        return capability_missing(model, incapable[1])
    if status == 400 or (status == 500 and words.startswith(_REFUSALS_UNDER_500)):
        return OllamaRejected(f"Ollama refused the request: {words}. Change what it names, and try again.", told)
    return OllamaFailed(
        f"Ollama answered with status {status}: {words or 'no words'}. Its log may say more; try again.", told
    )


def broken_off(words: str) -> MochiError:
    """A reply that ended before its end, in these words."""
    words = words.strip()[:WORDS_KEPT]
    return OllamaFailed(f"Ollama broke the reply off: {words}. Try again.", {"ollama": words})


def model_not_found(model: str) -> ModelNotFound:
    """Ollama does not have this model."""
    name = model if _POSSIBLE_NAME.match(model) else "NAME"
    return ModelNotFound(f"Ollama does not have the model {model!r}. Get it with: ollama pull {name}", {"model": model})


def model_not_allowed(model: str) -> ModelNotFound:
    """The model is not one of those that this server is to use."""
    return ModelNotFound(
        f"The model {model!r} is not allowed on this server. Choose one that is: GET /api/v1/models lists them.",
        {"model": model},
    )


def capability_missing(model: str, capability: str) -> CapabilityMissing:
    """The model cannot do this, in Ollama's word for it."""
    return CapabilityMissing(
        f"The model {model!r} does not support {capability}. Leave it out of the request, or choose a model that "
        "does: GET /api/v1/models lists what each can do.",
        {"capability": capability, "model": model},
    )


def unreachable(host: str) -> OllamaUnreachable:
    """No connection to the Ollama at this address."""
    return OllamaUnreachable(
        f"Ollama cannot be reached at {host}. Is it running? Start it with: ollama serve", {"ollama_host": host}
    )


def no_tls(host: str) -> OllamaUnreachable:
    """Something answers there, but not over TLS, or with a certificate that is not trusted."""
    return OllamaUnreachable(
        f"No secure connection to {host} could be made. Is its certificate valid, or should it be http://?",
        {"ollama_host": host},
    )


def timed_out(what: str, seconds: float, setting: str) -> OllamaTimeout:
    """Ollama did not do `what` within the limit that `setting` sets."""
    return OllamaTimeout(
        f"Ollama did not {what} within {seconds:g} s. Try again, or raise {setting}.", {"limit_seconds": seconds}
    )


Failed = ollama.ResponseError | httpx.HTTPError | OSError | ValueError


def failed_call(error: Failed, host: str, model: str = "") -> MochiError:
    """What an exception of the `ollama` package, or of what it stands on, means."""
    match error:
        case ollama.ResponseError():
            return refusal(error.status_code, error.error, model)
        case httpx.TimeoutException() | TimeoutError():
            return OllamaTimeout(f"Ollama at {host} did not answer in time. Try again.", {"ollama_host": host})
        case httpx.ConnectError() if "SSL" in str(error):
            return no_tls(host)
        case httpx.ConnectError() | OSError():
            return unreachable(host)
        case _:
            return OllamaFailed(
                f"What answers at {host} does not speak Ollama's protocol. Is it the right address?",
                {"ollama_host": host},
            )


def _seconds(retry_after: str | None) -> str:
    return retry_after if retry_after is not None and retry_after.isdecimal() else "2"
