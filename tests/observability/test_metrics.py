"""`/metrics` has exactly what happened in a known sequence of requests, under labels that nobody can make more of."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from mochi_server.api.routes import ROUTES
from mochi_server.observability.metrics import Metrics
from mochi_server.ollama.standin import Behaviour, Gate
from tests.api.wire import exchange
from tests.chat.clients import eventually
from tests.faults.injected import RENAME, injected, why_not
from tests.server import API, Server
from tests.standin_thread import StandInThread

Samples = dict[str, float]
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, standin: StandInThread) -> Iterator[Server]:
    environment = {"MOCHI_MAX_CONCURRENT": "1", "MOCHI_DISCONNECT_GRACE": "0", "MOCHI_MAX_QUEUE": "1"}
    with Server(tmp_path_factory.mktemp("server"), standin.url, environment=environment) as server:
        yield server


def samples(server: Server) -> Samples:
    """All that is counted by now, as Prometheus reads it: `name{label="value",...}` and the number."""
    answer = server.client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    told = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    return {sample.name + labelled(sample.labels): sample.value for sample in told}


def labelled(labels: dict[str, str]) -> str:
    """Labels as the text has them."""
    told = ",".join(f'{name}="{labels[name]}"' for name in sorted(labels))
    return f"{{{told}}}" if told else ""


def changes(server: Server, before: Samples) -> Samples:
    """What has been counted since, but for the asking itself, the process, and how long things took."""
    aside = re.compile(r'process_|python_|.*(_bucket|_sum)(\{|\Z)|.*route="/metrics"')
    now = samples(server)
    return {
        name: value - before.get(name, 0)
        for name, value in now.items()
        if value != before.get(name, 0) and not aside.match(name)
    }


def families(text: str) -> list[str]:
    """The names in a text of OpenMetrics' form."""
    return [family.name for family in open_metrics(text)]  # type: ignore[no-untyped-call]  # its type was left out


def requests(method: str, route: str, status: str, count: int = 1) -> Samples:
    """The counts of that many requests."""
    return {
        f'mochi_http_requests_total{{method="{method}",route="{route}",status="{status}"}}': count,
        f'mochi_http_request_duration_seconds_count{{method="{method}",route="{route}"}}': count,
    }


def check(server: Server, before: Samples, *expected: Samples) -> None:
    """Exactly that is counted, as soon as the last answer's end is."""
    wanted = {name: value for part in expected for name, value in part.items()}
    with contextlib.suppress(AssertionError):
        eventually(lambda: changes(server, before) == wanted or None)
    assert changes(server, before) == wanted


def test_replies_are_counted_with_their_tokens_and_durations(server: Server, standin: StandInThread) -> None:
    before = samples(server)
    session = server.new_session()
    standin.script(
        Behaviour(pieces=("a", "b"), prompt_eval_count=11, eval_count=2),
        Behaviour(pieces=("c",), prompt_eval_count=20, eval_count=1),
    )
    server.events(f"/chat/{session}/stream", {"message": "hi"})
    server.ok("POST", f"/chat/{session}", {"message": "hi"})
    check(
        server,
        before,
        requests("POST", f"{API}/sessions", "2xx"),
        requests("POST", f"{API}/chat/{{session_id}}/stream", "2xx"),
        requests("POST", f"{API}/chat/{{session_id}}", "2xx"),
        {
            'mochi_generations_total{outcome="complete"}': 2,
            "mochi_generation_duration_seconds_count": 2,
            "mochi_first_token_seconds_count": 2,
            "mochi_tokens_per_second_count": 2,
            'mochi_tokens_total{kind="prompt"}': 31,
            'mochi_tokens_total{kind="reply"}': 3,
            "mochi_save_duration_seconds_count": 5,
            "mochi_sessions": 1,
        },
    )


def test_replies_that_end_otherwise_are_counted_by_how(server: Server, standin: StandInThread) -> None:
    session, gate = server.new_session(), Gate(1)
    before = samples(server)
    standin.script(
        Behaviour(pieces=("a", "b"), fault="error_line", after=1),
        Behaviour(fault="status", status=400, error="no"),
        Behaviour(pieces=("a", "b"), gate=gate),
    )
    server.events(f"/chat/{session}/stream", {"message": "hi"})
    server.call("POST", f"/chat/{session}", {"message": "hi"})
    with server.stream(f"/chat/{session}/stream", {"message": "hi"}) as events:
        next(events)
        server.ok("POST", f"/chat/{session}/stop")
        gate.open()
        assert list(events)[-1].name == "done"
    check(
        server,
        before,
        requests("POST", f"{API}/chat/{{session_id}}/stream", "2xx", 2),
        requests("POST", f"{API}/chat/{{session_id}}", "4xx"),
        requests("POST", f"{API}/chat/{{session_id}}/stop", "2xx"),
        {
            'mochi_generations_total{outcome="ollama_error"}': 1,
            'mochi_generations_total{outcome="ollama_rejected"}': 1,
            'mochi_generations_total{outcome="interrupted"}': 1,
            'mochi_ollama_errors_total{code="ollama_error"}': 1,
            'mochi_ollama_errors_total{code="ollama_rejected"}': 1,
            "mochi_generation_duration_seconds_count": 3,
            "mochi_first_token_seconds_count": 2,
            # Two replies and three questions, one of which was the same once more.
            "mochi_save_duration_seconds_count": 4,
        },
    )


def test_what_runs_what_waits_and_who_listens_is_told_as_it_is(server: Server, standin: StandInThread) -> None:
    first, second, gate = server.new_session(), server.new_session(), Gate(1)
    standin.script(Behaviour(pieces=("a", "b"), gate=gate), Behaviour(pieces=("c",)))
    now = ("mochi_generations_running", "mochi_generations_queued", "mochi_streams")
    assert [samples(server)[name] for name in now] == [0, 0, 0]
    with server.stream(f"/chat/{first}/stream", {"message": "hi"}) as running:
        next(running)
        with server.stream(f"/chat/{second}/stream", {"message": "hi"}) as waiting:
            assert [samples(server)[name] for name in now] == [1, 1, 2]
            gate.open()
            assert (list(running)[-1].name, list(waiting)[-1].name) == ("done", "done")
    eventually(lambda: [samples(server)[name] for name in now] == [0, 0, 0] or None)


def test_paths_and_methods_that_nobody_knows_are_one_line(server: Server) -> None:
    before = samples(server)
    for number in range(20):
        server.client.get(f"/nothing/{number}")
        server.client.request("TRACE", f"{API}/sessions/{number:010x}")
        server.client.delete("/health")
        server.call("GET", f"/sessions/{number:010x}")
        server.call("GET", f"/models/a/{number}")
        assert exchange(server.port, "M-SEARCH", f"/{number}").status_code == 404
        assert exchange(server.port, "GET", "/health", [("Host", f"{number}.example")]).status_code == 421
    check(
        server,
        before,
        requests("GET", "unmatched", "4xx", 40),
        requests("other", "unmatched", "4xx", 20),
        requests("other", f"{API}/sessions/{{session_id}}", "4xx", 20),
        requests("other", "/health", "4xx", 20),
        requests("GET", f"{API}/sessions/{{session_id}}", "4xx", 20),
        requests("GET", f"{API}/models/{{name}}", "4xx", 20),
    )


def test_what_is_no_request_is_counted_as_a_connection_that_was_refused(server: Server) -> None:
    before = samples(server)
    assert exchange(server.port, "GET", "/health", [("Host", "localhost"), ("Bad header", "x")]).status_code == 400
    check(server, before, {'mochi_connections_refused_total{code="bad_request"}': 1})
    line = server.logged(lambda line: line["event"] == "refused")
    assert (line["status"], line["code"], "correlation_id" in line) == (400, "bad_request", False)


def test_an_ollama_that_is_not_there_is_counted_under_its_code(tmp_path: Path) -> None:
    with Server(tmp_path, "127.0.0.1:9") as server:
        session = server.new_session()
        before = samples(server)
        assert server.error("POST", f"/chat/{session}", {"message": "hi"})[1] == "ollama_unreachable"
        told = changes(server, before)
    assert told['mochi_generations_total{outcome="ollama_unreachable"}'] == 1
    assert told['mochi_ollama_errors_total{code="ollama_unreachable"}'] >= 1


def test_saves_that_fail_and_files_that_are_damaged_are_counted(server: Server, tmp_path: Path) -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    session = server.new_session()
    before = samples(server)
    with injected(server.process.pid, tmp_path, RENAME, "ENOSPC"):
        assert server.error("PATCH", f"/sessions/{session}", {"title": "new"})[0] == 507
    (server.sessions / f"{session}.json").write_text("{")
    assert server.error("PATCH", f"/sessions/{session}", {"title": "new"})[0] == 409
    check(
        server,
        before,
        requests("PATCH", f"{API}/sessions/{{session_id}}", "4xx"),
        requests("PATCH", f"{API}/sessions/{{session_id}}", "5xx"),
        {f'mochi_http_request_duration_seconds_count{{method="PATCH",route="{API}/sessions/{{session_id}}"}}': 2},
        {'mochi_save_failures_total{code="storage_full"}': 1, "mochi_sessions": -1, "mochi_sessions_damaged": 1},
    )


def test_a_change_that_changes_nothing_is_no_save(server: Server, standin: StandInThread) -> None:
    session = server.new_session()
    standin.script(Behaviour(fault="status"), Behaviour(fault="status"))
    server.call("POST", f"/chat/{session}", {"message": "hi"})
    before = samples(server)
    server.call("POST", f"/chat/{session}", {"message": "hi"})
    assert "mochi_save_duration_seconds_count" not in changes(server, before)


def test_the_same_checks_stand_before_it_as_before_all_else(server: Server) -> None:
    assert exchange(server.port, "GET", "/metrics", [("Host", "evil.example")]).status_code == 421
    assert server.client.get("/metrics", headers={"Origin": "http://evil.example"}).status_code == 403
    assert server.client.post("/metrics").status_code == 405


@pytest.mark.parametrize(
    ("accept", "opened"),
    [
        (f"{OPEN_METRICS};q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", True),
        ("application/openmetrics-text; version=nonsense", True),
        ("text/plain; version=nonsense", False),
        ("application/json", False),
    ],
)
def test_it_is_open_metrics_where_that_is_asked_for(server: Server, accept: str, opened: bool) -> None:
    answer = server.client.get("/metrics", headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/openmetrics-text" if opened else "text/plain")
    assert answer.text.endswith("# EOF\n") == opened
    if opened:
        assert {"mochi_http_requests", "mochi_streams"} <= set(families(answer.text))


def test_the_process_is_told_of(server: Server) -> None:
    told = samples(server)
    assert told["process_resident_memory_bytes"] > 10_000_000
    assert told["process_open_fds"] > 0
    assert told["process_cpu_seconds_total"] > 0


def test_two_applications_in_a_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.request("GET", "/health", 200, 0.1)
    series = b'mochi_http_requests_total{method="GET",route="/health",status="2xx"} 1.0'
    assert series in one.text("")[0]
    assert series not in other.text("")[0]


def test_the_number_of_series_has_a_limit() -> None:
    metrics = Metrics()
    routes = {route.shown_path for route in ROUTES}
    for route in (*routes, "unmatched"):
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"):
            for status in (0, 200, 204, 404, 405, 503):
                metrics.request(method, route, status, 0.1)
    # All that could ever be asked of every path; what its routes have is a tenth of it.
    assert metrics.text("")[0].count(b"\n") < 200 * len(routes) + 500
