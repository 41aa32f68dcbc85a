"""What stands between a web page and the conversations: Host, Origin, CORS, the size of a body."""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.api.conftest import BODY_LIMIT
from tests.api.wire import connect, exchange, read_answer
from tests.server import API, Server, told
from tests.standin_thread import StandInThread

SESSIONS, STREAM = f"{API}/sessions", f"{API}/chat/stream"
JSON = ("Content-Type", "application/json")
CORS = "access-control-"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, shared_standin: StandInThread) -> Iterator[Server]:
    """A server that was told of another name and of two origins."""
    with Server(
        tmp_path_factory.mktemp("guarded"),
        shared_standin.url,
        *("--allow-host", "mochi.lan", "--allow-host", "Other.Lan:8000"),
        *("--allow-origin", "https://chat.example.org", "--allow-origin", "http://localhost:3000"),
        *("--allow-origin", "https://xn--bcher-kva.example:443/", "--allow-origin", "http://[fd00::5]:80"),
    ) as server:
        yield server


def files(server: Server) -> list[str]:
    return sorted(path.name for path in server.sessions.rglob("*.json"))


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:1", "localhost:65535", "LOCALHOST", "LocalHost:80", "localhost.", "localhost.:80"),
        *("127.0.0.1", "127.0.0.1:8000", "127.0.0.2:99", "127.255.255.254", "[::1]", "[::1]:8000"),
        *("[0:0:0:0:0:0:0:1]", "[0000::0001]:80", "localhost:", "\tlocalhost "),
        *("mochi.lan", "mochi.lan:443", "MOCHI.LAN", "mochi.lan.", "other.lan"),
    ],
)
def test_a_loopback_name_and_an_allowed_one_are_answered_on_any_port(guarded: Server, host: str) -> None:
    assert exchange(guarded.port, "GET", SESSIONS, [("Host", host)]).status_code == 200


@pytest.mark.parametrize(
    "hosts",
    [
        *((host,) for host in ("evil.com", "evil.com:8000", "localhost.evil.com", "evil.localhost.com", "xlocalhost")),
        *((host,) for host in ("127.0.0.1.evil.com", "127.0.0.1.nip.io", "mochi.lan.evil.com", "xmochi.lan", "lan")),
        *((host,) for host in ("0.0.0.0", "[::]", "[::2]", "192.168.1.5", "10.0.0.1:80", "2130706433", "0x7f000001")),  # noqa: S104 - nothing binds
        *((host,) for host in ("localhost@evil.com", "evil.com@localhost", "localhost:80@evil.com", "@localhost")),
        *((host,) for host in ("localhost:abc", "localhost:80:80", "localhost:-1", "localhost:99999", "[::1", "::1]")),
        *((host,) for host in ("localhost/", "localhost/@evil.com", "localhost?x", "localhost#evil", "localhost\\x")),
        *(
            (host,)
            for host in ("[::1]evil.com", "[::1].evil.com", "[::1%25lo]", "[localhost]", "127.1", "0177.0.0.1", "0")
        ),
        *((host,) for host in ("b\xfccher.example", "xn--bcher-kva.example", "locaIhost", "localhost..evil")),
        *((host,) for host in ("http://localhost", "//localhost", "localhost:\xb2", "*", "*.lan", "mochi.lan:80:80")),
        *((host,) for host in ("localhost evil.com", "localhost,evil.com", "localhost;", "%6cocalhost", "", ".")),
        (),
        ("localhost", "localhost"),
        ("localhost", "evil.com"),
        ("evil.com", "localhost"),
    ],
    ids=lambda hosts: " and ".join(hosts) or "none",
)
def test_any_other_host_is_misdirected_and_nothing_is_done(guarded: Server, hosts: tuple[str, ...]) -> None:
    before = files(guarded)
    headers = [("Host", host) for host in hosts]
    requests = (
        exchange(guarded.port, "GET", SESSIONS, headers),
        exchange(guarded.port, "GET", "/health", headers),
        exchange(guarded.port, "POST", SESSIONS, [*headers, JSON], b'{"model":"tiny"}'),
        exchange(guarded.port, "OPTIONS", SESSIONS, [*headers, ("Origin", "https://chat.example.org")]),
    )
    for response in requests:
        if response.status_code == 400 and len(hosts) != 1:
            continue  # the parser may refuse none and two itself
        assert told(response)[:2] == (421, "misdirected_host")
        assert not [name for name in response.headers if name.startswith(CORS)]
    assert files(guarded) == before


def ask(server: Server, kind: str, origins: list[str], host: str = "localhost") -> httpx.Response:
    """A request of this kind, as a page of these origins would make it."""
    headers = [("Host", host), *(("Origin", origin) for origin in origins)]
    body = json.dumps({"model": "tiny", "message": "hi"}).encode()
    match kind:
        case "read":
            return exchange(server.port, "GET", SESSIONS, headers)
        case "write":
            return exchange(server.port, "POST", SESSIONS, [*headers, JSON], b'{"model": "tiny"}')
        case "stream":
            return exchange(server.port, "POST", STREAM, [*headers, JSON], body)
        case _:
            asked = [("Access-Control-Request-Method", "PATCH"), ("Access-Control-Request-Headers", "content-type")]
            return exchange(server.port, "OPTIONS", f"{SESSIONS}/0123456789", [*headers, *asked])


KINDS = pytest.mark.parametrize("kind", ["read", "write", "stream", "preflight"])
STATUS = {"read": 200, "write": 201, "stream": 200, "preflight": 204}


@KINDS
@pytest.mark.parametrize(
    "origin",
    [
        *("https://chat.example.org", "http://localhost:3000", "app://", "app://mochi", "tauri://localhost"),
        *("vscode-webview://1a2b-3c", "http://tauri.localhost", "https://tauri.localhost"),
        *("https://xn--bcher-kva.example", "http://[fd00::5]"),
    ],
)
def test_an_allowed_origin_is_answered_and_named_in_the_answer(guarded: Server, kind: str, origin: str) -> None:
    response = ask(guarded, kind, [origin])
    assert response.status_code == STATUS[kind]
    assert_named(response, origin)


@KINDS
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "mochi.lan"])
def test_the_servers_own_origin_is_answered(guarded: Server, kind: str, name: str) -> None:
    host = f"{name}:{guarded.port}"
    response = ask(guarded, kind, [f"http://{host}"], host)
    assert response.status_code == STATUS[kind]
    assert_named(response, f"http://{host}")


def assert_named(response: httpx.Response, origin: str) -> None:
    assert response.headers.get_list("access-control-allow-origin") == [origin]
    assert "origin" in response.headers["vary"].lower()
    assert "access-control-allow-credentials" not in response.headers
    exposed = set(response.headers["access-control-expose-headers"].split(", "))
    assert exposed >= {"ETag", "Location", "Retry-After", "X-Correlation-Id", "X-Session-Id"}


@KINDS
@pytest.mark.parametrize(
    "origins",
    [
        *((o,) for o in ("null", "", "*", "https://evil.com", "http://localhost", "http://127.0.0.1", "file://")),
        *((o,) for o in ("http://localhost:PLUS", "http://127.0.0.1:PLUS", "https://localhost:PLUS", "localhost:PORT")),
        *((o,) for o in ("http://localhost.evil.com", "http://127.0.0.1:PORT.evil.com", "http://localhost:PORT@evil.com")),
        *((o,) for o in ("http://localhost:PORT/", "http://localhost:PORT/x", "http://localhost:PORT http://evil.com")),
        *((o,) for o in ("http://chat.example.org", "https://chat.example.org:8443", "https://chat.example.org.evil.com")),
        *((o,) for o in ("https://evil.com?https://chat.example.org", "http://localhost:30000", "https://example.org")),
        *((o,) for o in ("http://tauri.localhost.evil.com", "http://tauri.localhost:1234", "http://xtauri.localhost")),
        *((o,) for o in ("app", "app:", "app:/x", "apps://x", "http://app://x", "chrome-extension://abc", "tauri")),
        *((o,) for o in ("https://chat.example.org.", "https://chat.example.org:80", "http://localhost:03000")),
        *((o,) for o in ("https://evil.com@chat.example.org", "https://chat.example.org@evil.com")),
        *((o,) for o in ("https://b\xfccher.example", "https://xn--bcher-kva.example:80")),
        *((o,) for o in ("http://[fd00::5]:8000", "http://[FD00:0::5]", "http://fd00::5")),
        *((o,) for o in ("http://[::1]:PORT", "http://localhost:PORT\\.evil.com", "http://localhost:PORT#")),
        *((o,) for o in ("https://chat.example.org/", "https://chat.example.org\x85", "data:,x")),
        *((o,) for o in ("tauri://localhost/x", "app://x/y", "app://a@b", "xapp://mochi", "moz-extension://abc")),
        ("https://chat.example.org", "https://evil.com"),
        ("https://chat.example.org", "https://chat.example.org"),
    ],
    ids=" and ".join,
)  # fmt: skip
def test_any_other_origin_is_forbidden_and_nothing_is_done(
    guarded: Server, kind: str, origins: tuple[str, ...]
) -> None:
    before = files(guarded)
    ports = {"PORT": str(guarded.port), "PLUS": str(guarded.port + 1)}
    sent = [origin.replace("PORT", ports["PORT"]).replace("PLUS", ports["PLUS"]) for origin in origins]
    response = ask(guarded, kind, sent, f"localhost:{guarded.port}")
    assert told(response)[:2] == (403, "forbidden_origin")
    assert "--allow-origin" in response.json()["detail"]["error"]["message"]
    assert not [name for name in response.headers if name.startswith(CORS)]
    assert files(guarded) == before


def test_a_preflight_is_told_every_method_and_header_of_ours(guarded: Server) -> None:
    response = ask(guarded, "preflight", ["https://chat.example.org"])
    assert (response.status_code, response.content) == (204, b"")
    methods = set(response.headers["access-control-allow-methods"].split(", "))
    assert methods >= {"GET", "POST", "PUT", "PATCH", "DELETE"}
    headers = {name.lower() for name in response.headers["access-control-allow-headers"].split(", ")}
    assert headers >= {"content-type", "if-match", "last-event-id", "x-correlation-id", "authorization", "x-api-key"}
    assert headers >= {"idempotency-key", "x-session-id"}
    assert "*" not in methods | headers


def test_a_page_of_the_internet_may_ask_a_private_network_only_where_its_origin_is_allowed(guarded: Server) -> None:
    asked = [("Host", "localhost"), ("Access-Control-Request-Method", "POST")]
    network = ("Access-Control-Request-Private-Network", "true")
    origins = {
        "https://chat.example.org": (204, ["true"]),
        "tauri://localhost": (204, ["true"]),
        "https://evil.com": (403, []),
    }
    for origin, (status, allowed) in origins.items():
        response = exchange(guarded.port, "OPTIONS", SESSIONS, [*asked, ("Origin", origin), network])
        assert response.status_code == status
        assert response.headers.get_list("access-control-allow-private-network") == allowed
    response = exchange(guarded.port, "OPTIONS", SESSIONS, [*asked, ("Origin", "https://chat.example.org")])
    assert "access-control-allow-private-network" not in response.headers


def test_an_origin_is_the_same_in_any_case_and_with_its_own_port(guarded: Server) -> None:
    for origin in ("HTTPS://CHAT.Example.org", "https://chat.example.org:443", "http://localhost:3000"):
        response = ask(guarded, "read", [origin])
        assert response.status_code == 200
        assert_named(response, origin)
    for host in ("LOCALHOST", "localhost:80"):
        assert ask(guarded, "read", ["http://localhost"], host).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(("mode", "dest"), [("no-cors", "image"), ("no-cors", "script"), ("navigate", "iframe")])
def test_a_page_of_another_site_cannot_embed_what_a_search_finds(
    guarded: Server, site: str, mode: str, dest: str
) -> None:
    told_of = [("Host", "localhost"), ("Sec-Fetch-Mode", mode), ("Sec-Fetch-Dest", dest)]
    other = exchange(guarded.port, "GET", f"{SESSIONS}?q=secret", [*told_of, ("Sec-Fetch-Site", site)])
    assert told(other)[:2] == (403, "forbidden_origin")
    image = exchange(guarded.port, "GET", f"{API}/images/{'0' * 64}", [*told_of, ("Sec-Fetch-Site", site)])
    assert told(image)[:2] == (404, "image_not_found")
    for own in ("same-origin", "none"):
        assert exchange(guarded.port, "GET", SESSIONS, [*told_of, ("Sec-Fetch-Site", own)]).status_code == 200


def test_a_link_of_another_site_is_followed_and_an_allowed_page_asks_across_sites(guarded: Server) -> None:
    link = [("Host", "localhost"), ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")]
    assert exchange(guarded.port, "GET", "/health", [*link, ("Sec-Fetch-Dest", "document")]).status_code == 200
    page = [("Host", "localhost"), ("Sec-Fetch-Site", "cross-site"), ("Origin", "https://chat.example.org")]
    assert exchange(guarded.port, "GET", SESSIONS, page).status_code == 200


def test_an_answer_to_no_page_has_no_cors_headers_but_may_not_be_kept_for_one(guarded: Server) -> None:
    for kind in ("read", "write", "stream"):
        response = ask(guarded, kind, [])
        assert response.status_code == STATUS[kind]
        assert not [name for name in response.headers if name.startswith(CORS)]
        assert "origin" in response.headers["vary"].lower()


def test_an_error_can_be_read_by_an_allowed_page(guarded: Server) -> None:
    origin = "https://chat.example.org"
    response = exchange(guarded.port, "GET", f"{SESSIONS}/0123456789", [("Host", "localhost"), ("Origin", origin)])
    assert told(response)[0] == 404
    assert_named(response, origin)


@pytest.mark.parametrize("target", [SESSIONS, STREAM, f"{API}/chat"])
@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_request_that_a_browser_sends_without_asking_first_writes_nothing(
    guarded: Server, target: str, media_type: str
) -> None:
    before = files(guarded)
    body = b'{"model": "tiny", "message": "hi"}'
    headers = [("Host", "localhost"), ("Content-Type", media_type)]
    # As a page of another site sends it, as one of ours would, and as an old browser does, naming no origin.
    pages = (("Origin", "https://evil.com"), 403), (("Origin", "https://chat.example.org"), 415), (("X", "y"), 415)
    for page, status in pages:
        assert told(exchange(guarded.port, "POST", target, [*headers, page], body))[0] == status
    assert files(guarded) == before


def test_every_answer_forbids_guessing_its_type_and_none_names_the_software(guarded: Server) -> None:
    session = guarded.new_session()
    local = ("Host", "localhost")
    answers = [
        exchange(guarded.port, "GET", "/health", [local]),
        exchange(guarded.port, "HEAD", "/health", [local]),
        exchange(guarded.port, "GET", "/nope", [local]),
        exchange(guarded.port, "PUT", SESSIONS, [local]),
        exchange(guarded.port, "POST", SESSIONS, [local, JSON], b"{nope"),
        exchange(guarded.port, "POST", SESSIONS, [local], b"{}"),
        exchange(guarded.port, "GET", SESSIONS, [("Host", "evil.com")]),
        ask(guarded, "read", ["https://evil.com"]),
        ask(guarded, "preflight", ["https://chat.example.org"]),
        ask(guarded, "stream", []),
        exchange(guarded.port, "DELETE", f"{SESSIONS}/{session}", [local]),
    ]
    assert [a.status_code for a in answers] == [200, 200, 404, 405, 400, 415, 421, 403, 204, 200, 204]
    for answer in answers:
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
        assert len(answer.headers.get_list("x-correlation-id")) == 1
        assert "server" not in answer.headers
        assert "x-powered-by" not in answer.headers


HUGE = 8 * 1024 * 1024
HEAD = f"POST {SESSIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_a_declared_size_over_the_limit_is_refused_before_any_of_the_body(shared: Server) -> None:
    with connect(shared.port) as connection:
        connection.sendall(f"{HEAD}Content-Length: {BODY_LIMIT + 1}\r\n\r\n".encode())
        assert told(read_answer(connection))[:2] == (413, "payload_too_large")


@pytest.mark.parametrize("framing", [f"Content-Length: {HUGE}", "Transfer-Encoding: chunked"])
def test_a_client_that_is_still_sending_can_read_why_its_body_is_refused(shared: Server, framing: str) -> None:
    before = files(shared)
    piece = b"x" * BODY_LIMIT
    if "chunked" in framing:
        piece = b"%x\r\n%b\r\n" % (len(piece), piece)
    with connect(shared.port) as connection:
        connection.sendall(f"{HEAD}{framing}\r\n\r\n".encode())
        for _ in range(HUGE // BODY_LIMIT - 1):
            connection.sendall(piece)
        assert told(read_answer(connection))[:2] == (413, "payload_too_large")
    assert files(shared) == before
    assert shared.client.get("/health").status_code == 200
