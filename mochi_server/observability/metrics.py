"""What is counted, for Prometheus. Every label has few values: no ids, no paths, no names that anybody chooses.

Nothing here is called for a token: a reply is counted once, at its end, from what is then known of it.
"""

import contextlib
from collections.abc import Callable, Sequence

import msgspec
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    exposition,
)
from prometheus_client.openmetrics import exposition as openmetrics

from mochi_server import __version__
from mochi_server.errors import (
    OllamaBusy,
    OllamaFailed,
    OllamaRejected,
    OllamaTimeout,
    OllamaUnreachable,
    StorageFull,
    StorageUnavailable,
)

UNMATCHED = "unmatched"
"""The route of requests that reached none: unknown paths, and what was refused before."""

_OPEN_METRICS = "application/openmetrics-text"

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_SAVE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
_REPLY_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
_TOKENS_PER_SECOND = (1, 2, 5, 10, 15, 20, 30, 50, 75, 100, 150, 200, 500)


Now = Callable[[], float]


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A reply that has ended. Counts and durations are None where they are not known; `outcome` is one of few."""

    outcome: str
    total_ms: float
    prompt_tokens: int | None = None
    reply_tokens: int | None = None
    ttft_ms: float | None = None
    tokens_per_second: float | None = None


class Metrics:
    """The counts of one application, in a registry of their own."""

    def __init__(self) -> None:
        # Four more lines for each series, of moments that nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # its type was left out
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._gauge("mochi_build_info", "The version that runs; always 1.", "version").labels(__version__).set(1)
        self._requests = self._counter("mochi_http_requests", "Requests answered.", "method", "route", "status")
        self._request_seconds = self._histogram(
            "mochi_http_request_duration_seconds",
            "From a request's head to the end of its answer; a stream's is as long as the stream.",
            _REQUEST_SECONDS,
            "method",
            "route",
        )
        self._refused = self._counter(
            "mochi_connections_refused", "Connections refused before there was a request, by the code told.", "code"
        )
        self._streams = self._gauge("mochi_streams", "Streams that are being sent.")
        self._running = self._gauge("mochi_generations_running", "Replies that Ollama is asked for.")
        self._queued = self._gauge("mochi_generations_queued", "Replies that wait for their turn.")
        self._replies = self._counter("mochi_generations", "Replies that have ended.", "outcome")
        self._reply_seconds = self._histogram(
            "mochi_generation_duration_seconds", "From a reply's request to its end, waiting included.", _REPLY_SECONDS
        )
        self._first_token = self._histogram(
            "mochi_first_token_seconds", "From a reply's request to its first token, waiting included.", _REPLY_SECONDS
        )
        self._tokens = self._counter("mochi_tokens", "Tokens as Ollama counts them.", "kind")
        self._speed = self._histogram(
            "mochi_tokens_per_second", "How fast Ollama made a reply, by its own clock.", _TOKENS_PER_SECOND
        )
        self._ollama_errors = self._counter(
            "mochi_ollama_errors", "Calls of Ollama that failed, by the code that clients are told.", "code"
        )
        self._save_seconds = self._histogram(
            "mochi_save_duration_seconds", "Durable saves of a session's file.", _SAVE_SECONDS
        )
        self._save_failures = self._counter(
            "mochi_save_failures", "Saves and deletions of sessions that failed, by the code that is told.", "code"
        )
        self._sessions = self._gauge("mochi_sessions", "Sessions that can be read.")
        self._damaged = self._gauge("mochi_sessions_damaged", "Session files that cannot be read.")
        self._begin()

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self._registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(name, meaning, labels, registry=self._registry)

    def _histogram(self, name: str, meaning: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(name, meaning, labels, buckets=buckets, registry=self._registry)

    def _begin(self) -> None:
        """Show what is certain to be looked for before it has happened: a first failure is then an increase, too."""
        for outcome in ("complete", "interrupted"):
            self._replies.labels(outcome)
        for kind in ("prompt", "reply"):
            self._tokens.labels(kind)
        for failure in (OllamaRejected, OllamaUnreachable, OllamaBusy, OllamaFailed, OllamaTimeout):
            self._ollama_errors.labels(failure.code)
        for failed_save in (StorageFull, StorageUnavailable):
            self._save_failures.labels(failed_save.code)

    def watch(self, *, running: Now, queued: Now, sessions: Now, damaged: Now) -> None:
        """Take what others know from them, each time when it is asked for."""
        self._running.set_function(running)
        self._queued.set_function(queued)
        self._sessions.set_function(sessions)
        self._damaged.set_function(damaged)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request has been answered. `route` is its template; status 0: its client left before the answer."""
        # A route's own methods are few, others that are tried there need not be.
        method = method if method in METHODS and status != 405 else "other"
        self._requests.labels(method, route, f"{status // 100}xx" if status else "none").inc()
        self._request_seconds.labels(method, route).observe(seconds)

    def refused(self, code: str) -> None:
        """A connection was refused before there was a request."""
        self._refused.labels(code).inc()

    def stream(self) -> contextlib.AbstractContextManager[None]:
        """A stream is being sent as long as the context lasts."""
        return self._streams.track_inprogress()

    def reply(self, reply: Reply) -> None:
        """A reply has ended."""
        self._replies.labels(reply.outcome).inc()
        self._reply_seconds.observe(reply.total_ms / 1000)
        self._tokens.labels("prompt").inc(reply.prompt_tokens or 0)
        self._tokens.labels("reply").inc(reply.reply_tokens or 0)
        if reply.ttft_ms is not None:
            self._first_token.observe(reply.ttft_ms / 1000)
        if reply.tokens_per_second is not None:
            self._speed.observe(reply.tokens_per_second)

    def ollama_failed(self, code: str) -> None:
        """Ollama refused, failed or could not be reached."""
        self._ollama_errors.labels(code).inc()

    def saved(self, seconds: float) -> None:
        """A session was saved."""
        self._save_seconds.observe(seconds)

    def save_failed(self, code: str) -> None:
        """A session could not be saved."""
        self._save_failures.labels(code).inc()

    def text(self, accept: str) -> tuple[bytes, str]:
        """All of it as text, and that text's media type: OpenMetrics where an `Accept` header has it.

        The library's own choice fails on versions that are none, and repeats what it was sent.
        """
        if _OPEN_METRICS in {part.partition(";")[0].strip().lower() for part in accept.split(",")}:
            text: bytes = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]  # as above
            return text, openmetrics.CONTENT_TYPE_LATEST
        return exposition.generate_latest(self._registry), exposition.CONTENT_TYPE_PLAIN_0_0_4
