"""Keys over the wire: who has one is let in, everybody else is told the same, and no key is ever shown."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from openai import AuthenticationError

from mochi_server.api.routes import OPEN_PATHS, ROUTES
from tests.api.wire import connect, exchange, read_answer
from tests.openai.clients import official
from tests.server import API, Server, told
from tests.standin_thread import StandInThread

SOON = 5.0
"""Seconds in which an answer must come while somebody else guesses."""

KEYS = ("first-Key-0123456789", "second!key~{}", "third-key-in-a-file")
ORIGIN = "https://chat.example.org"
SESSIONS = f"{API}/sessions"
Headers = list[tuple[str, str]]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, shared_standin: StandInThread) -> Iterator[Server]:
    """A server on all addresses that wants a key: two from the environment, one from a file."""
    folder = tmp_path_factory.mktemp("keyed")
    (folder / "keys").write_text(f"# of the tests\n\n  {KEYS[2]}  \n")
    (folder / "keys").chmod(0o600)
    arguments = ("--host", "0.0.0.0", "--api-key-file", str(folder / "keys"), "--allow-origin", ORIGIN)  # noqa: S104 - with keys it may
    environment = {"MOCHI_API_KEY": f"{KEYS[0]}, {KEYS[1]},", "MOCHI_MAX_BODY_BYTES": "65536"}
    with Server(folder, shared_standin.url, *arguments, environment=environment) as server:
        yield server


def get(server: Server, *headers: tuple[str, str], target: str = SESSIONS, method: str = "GET") -> httpx.Response:
    return exchange(server.port, method, target, [("Host", "localhost"), *headers])


def bearer(key: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {key}"


@pytest.mark.parametrize("key", KEYS)
def test_each_key_lets_in_however_it_is_sent(keyed: Server, key: str) -> None:
    assert get(keyed, bearer(key)).status_code == 200
    assert get(keyed, ("X-API-Key", key)).status_code == 200
    assert get(keyed, ("authorization", f"bearer   {key} ")).status_code == 200
    assert get(keyed, ("x-api-key", key), bearer(key)).status_code == 200
    assert get(keyed, ("X-API-Key", key), ("Authorization", "Basic Zm9vOmJhcg==")).status_code == 200


REFUSED: list[Headers] = [
    [],
    *([bearer(key)] for key in ("", "wrong-key", KEYS[0][:-1], KEYS[0] + "x", KEYS[0].upper(), " ".join(KEYS[:2]))),
    *([("X-API-Key", key)] for key in ("", "wrong-key", f"Bearer {KEYS[0]}", f"{KEYS[0]}, {KEYS[1]}", f'"{KEYS[0]}"')),
    *(
        [("Authorization", value)]
        for value in (KEYS[0], f"Basic {KEYS[0]}", f"Token {KEYS[0]}", f"Bearer{KEYS[0]}", "")
    ),
    [bearer(KEYS[0]), ("X-API-Key", KEYS[1])],
    [bearer(KEYS[0]), ("X-API-Key", "wrong-key")],
    [bearer(KEYS[0]), bearer("wrong-key")],
    [bearer(KEYS[0]), bearer(KEYS[1])],
    [("X-API-Key", KEYS[0]), ("X-API-Key", KEYS[1])],
    [("X-API-Key", "é" * 10)],
    [("Cookie", f"key={KEYS[0]}")],
    [("X-API-Key", "x" * 20_000)],
]


@pytest.mark.parametrize("headers", REFUSED, ids=lambda headers: " ".join(value[:30] for _, value in headers) or "none")
def test_everything_else_is_told_the_same(keyed: Server, headers: Headers) -> None:
    wanted, response = get(keyed), get(keyed, *headers)
    assert told(response) == (401, "unauthorized", {})
    assert response.headers["www-authenticate"] == "Bearer"
    for answer in (wanted, response):
        answer.headers["x-correlation-id"] = answer.headers["date"] = ""
    assert response.headers == wanted.headers
    texts = [answer.json()["detail"]["error"]["message"] for answer in (wanted, response)]
    assert texts[0] == texts[1]


def test_openais_clients_are_told_in_their_own_way(keyed: Server) -> None:
    for target, method in (("/v1/models", "GET"), ("/v1/chat/completions", "POST"), ("/v1/nowhere", "GET")):
        response = get(keyed, bearer("wrong-key"), target=target, method=method)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert set(response.json()) == {"error"}
        error = response.json()["error"]
        assert (error["type"], error["code"], error["param"]) == ("authentication_error", "invalid_api_key", None)
    with official(keyed, base_url=f"http://127.0.0.1:{keyed.port}/v1", api_key="wrong-key") as client:
        with pytest.raises(AuthenticationError):
            client.models.list()
        assert "tiny:latest" in [model.id for model in client.with_options(api_key=KEYS[1]).models.list()]


def test_a_key_in_the_address_is_none(keyed: Server) -> None:
    for name in ("key", "api_key", "access_token", "X-API-Key", "Authorization"):
        assert get(keyed, target=f"{SESSIONS}?{name}={KEYS[0]}").status_code == 401


PATHS = sorted({(route.method, route.path) for route in ROUTES})


@pytest.mark.parametrize(("method", "path"), PATHS, ids=[f"{m} {p}" for m, p in PATHS])
def test_a_key_is_needed_for_all_but_health_and_the_documents(keyed: Server, method: str, path: str) -> None:
    response = get(keyed, target=path.replace(":path", ""), method=method)
    assert (response.status_code == 401) == (path not in OPEN_PATHS)
    assert {path for path in OPEN_PATHS if "health" not in path} == {"/docs", "/openapi.json"}


@pytest.mark.parametrize(
    "target",
    [
        *("/nowhere", "/", "*", "/metrics", "/v1/models", "/v1/nowhere", "/api/v1", "/health/", "//health", "/HEALTH"),
        *(
            "/health/..",
            "/health/../api/v1/sessions",
            "/health/%2e%2e/api/v1/sessions",
            "/health%2f..%2fapi/v1/sessions",
        ),
        *("/docs/../api/v1/sessions", "/health;/api/v1/sessions", "/health%00", "/health%0a", "/health/ready/x"),
        *("/docs/", "/openapi.json/", "/api/v1/sessions?x=/health", "/api/v1/sessions#/health", "/./health"),
        *("http://localhost/api/v1/sessions", "http://localhost/health/../api/v1/sessions"),
    ],
)
def test_no_way_of_writing_a_path_opens_another(keyed: Server, target: str) -> None:
    for method in ("GET", "HEAD", "POST", "OPTIONS", "DELETE", "TRACE", "PATCH"):
        response = exchange(keyed.port, method, target, [("Host", "localhost")])
        assert response.status_code == 401, method


def test_health_is_open_however_its_path_is_written(keyed: Server) -> None:
    for target in ("/health", "/%68ealth", "/health?x", "/api/v1/health", "/health/ready", "http://any.name/health"):
        assert get(keyed, target=target).status_code == 200


def test_with_a_key_any_name_will_do_for_the_server(keyed: Server) -> None:
    for host in ("mochi.lan", "192.168.1.5:8000", "0.0.0.0", "evil.com", "[fd00::1]"):  # noqa: S104 - nothing binds
        assert exchange(keyed.port, "GET", SESSIONS, [("Host", host), bearer(KEYS[0])]).status_code == 200
        assert exchange(keyed.port, "GET", SESSIONS, [("Host", host)]).status_code == 401


def test_a_key_does_not_open_the_server_to_pages_of_other_origins(keyed: Server) -> None:
    for origin in ("https://evil.com", "null", "http://localhost:1"):
        assert told(get(keyed, bearer(KEYS[0]), ("Origin", origin)))[:2] == (403, "forbidden_origin")
        assert told(get(keyed, ("Origin", origin)))[:2] == (403, "forbidden_origin")


def test_an_allowed_page_may_ask_beforehand_without_a_key_and_can_read_that_it_needs_one(keyed: Server) -> None:
    asked = ("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization,x-api-key")
    preflight = get(keyed, ("Origin", ORIGIN), *asked, method="OPTIONS")
    assert preflight.status_code == 204
    assert "X-API-Key" in preflight.headers["access-control-allow-headers"]
    assert get(keyed, *asked, method="OPTIONS").status_code == 401
    assert get(keyed, ("Origin", ORIGIN), method="OPTIONS").status_code == 401
    response = get(keyed, ("Origin", ORIGIN))
    assert told(response)[0] == 401
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert get(keyed, ("Origin", ORIGIN), bearer(KEYS[1])).status_code == 200


def test_what_was_answered_to_a_key_is_kept_for_nobody_else(keyed: Server) -> None:
    for response in (get(keyed), get(keyed, bearer(KEYS[0]))):
        assert {name.strip() for name in response.headers["vary"].split(",")} == {
            "Origin",
            "Authorization",
            "X-API-Key",
        }


def test_checks_come_in_the_order_of_what_they_protect(keyed: Server) -> None:
    text, large = ("Content-Type", "text/plain"), ("Content-Type", "application/json")
    evil, allowed = ("Origin", "https://evil.com"), ("Origin", ORIGIN)

    def post(*headers: tuple[str, str], size: int = 10) -> int:
        return exchange(keyed.port, "POST", SESSIONS, [("Host", "localhost"), *headers], b"x" * size).status_code

    assert post(evil, text, bearer(KEYS[0])) == 403
    assert post(evil, text) == 403
    assert post(allowed, text) == 401
    assert post(allowed, large, size=70_000) == 401
    assert post(allowed, text, bearer(KEYS[0])) == 415
    assert post(allowed, text, bearer(KEYS[0]), size=70_000) == 415
    assert post(allowed, large, bearer(KEYS[0]), size=70_000) == 413
    assert post(allowed, large, bearer(KEYS[0])) == 400


def test_who_tries_many_keys_gets_none_and_slows_nobody(keyed: Server) -> None:
    def guess(first: int) -> int:
        with connect(keyed.port) as connection:
            for number in range(first, first + 100):
                connection.sendall(f"GET {SESSIONS} HTTP/1.1\r\nHost: a\r\nX-API-Key: guess-{number}\r\n\r\n".encode())
                assert read_answer(connection).status_code == 401
        return 100

    with ThreadPoolExecutor(8) as pool:
        guesses = [pool.submit(guess, first) for first in range(0, 1_600, 100)]
        waits = []
        while not all(one.done() for one in guesses):
            began = time.monotonic()
            assert get(keyed, bearer(KEYS[0])).status_code == 200
            waits.append(time.monotonic() - began)
        assert sum(one.result() for one in guesses) == 1_600
    assert max(waits) < SOON


def test_a_stream_and_an_upload_work_with_a_key(keyed: Server) -> None:
    events = keyed.events("/chat/stream", {"message": "hi", "model": "tiny"}, X_API_Key=KEYS[2])
    assert events[-1].name == "done"
    assert keyed.error("POST", "/chat/stream", {"message": "hi"})[:2] == (401, "unauthorized")


def test_no_key_is_in_the_log_or_in_what_anybody_else_can_see(keyed: Server) -> None:
    command = " ".join(str(argument) for argument in keyed.process.args)  # type: ignore[union-attr]  # they are a list
    text = keyed.log.read_text()
    assert '"status":401' in text.replace(" ", "")
    for key in KEYS:
        assert key not in text + command
