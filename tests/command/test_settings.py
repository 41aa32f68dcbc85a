"""The settings: read from flags, environment, `.env` and defaults, in this order, or refused in one line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mochi_server import __version__
from mochi_server.command_line import read_settings
from mochi_server.ollama.address import parse_address
from mochi_server.settings import SETTINGS, Settings, SettingsError, is_loopback

FLAGS = {setting.flag: setting for setting in SETTINGS if setting.flag is not None}
TABLE = [
    ("host", "--host", "MOCHI_HOST", "127.0.0.1"),
    ("port", "--port", "MOCHI_PORT", 8000),
    ("ollama_host", "--ollama-host", "MOCHI_OLLAMA_HOST", ""),
    ("demo", "--demo", "MOCHI_DEMO", False),
    ("data_dir", "--data-dir", "MOCHI_DATA_DIR", "."),
    ("sessions_dir", "--sessions-dir", "MOCHI_SESSIONS_DIR", "sessions"),
    ("system_prompts_dir", "--system-prompts-dir", "MOCHI_SYSTEM_PROMPTS_DIR", "system_prompts"),
    ("model", "--model", "MOCHI_DEFAULT_MODEL", None),
    ("allowed_models", None, "MOCHI_ALLOWED_MODELS", ()),
    ("require_model", "--require-model", "MOCHI_REQUIRE_MODEL", False),
    ("allow_host", "--allow-host", "MOCHI_ALLOWED_HOSTS", ()),
    ("allow_origin", "--allow-origin", "MOCHI_ALLOWED_ORIGINS", ()),
    ("api_key", None, "MOCHI_API_KEY", ()),
    ("api_key_file", "--api-key-file", "MOCHI_API_KEY_FILE", None),
    ("max_connections", None, "MOCHI_MAX_CONNECTIONS", 2000),
    ("header_timeout", None, "MOCHI_HEADER_TIMEOUT", 10),
    ("body_timeout", None, "MOCHI_BODY_TIMEOUT", 30),
    ("keep_alive_timeout", None, "MOCHI_KEEP_ALIVE_TIMEOUT", 75),
    ("max_header_bytes", None, "MOCHI_MAX_HEADER_BYTES", 32 * 1024),
    ("connect_timeout", None, "MOCHI_CONNECT_TIMEOUT", 5),
    ("first_token_timeout", None, "MOCHI_FIRST_TOKEN_TIMEOUT", 300),
    ("token_timeout", None, "MOCHI_TOKEN_TIMEOUT", 60),
    ("max_body_bytes", None, "MOCHI_MAX_BODY_BYTES", 32 * 1024 * 1024),
    ("max_message_chars", None, "MOCHI_MAX_MESSAGE_CHARS", 1_000_000),
    ("max_image_bytes", None, "MOCHI_MAX_IMAGE_BYTES", 20 * 1024 * 1024),
    ("on_disconnect", None, "MOCHI_ON_DISCONNECT", "cancel"),
    ("max_reply_chars", None, "MOCHI_MAX_REPLY_CHARS", 4_000_000),
    ("max_reply_seconds", None, "MOCHI_MAX_REPLY_SECONDS", 3600),
    ("heartbeat_seconds", None, "MOCHI_HEARTBEAT_SECONDS", 15),
    ("disconnect_grace", None, "MOCHI_DISCONNECT_GRACE", 5),
    ("shutdown_seconds", None, "MOCHI_SHUTDOWN_SECONDS", 5),
    ("log_level", "--log-level", "MOCHI_LOG_LEVEL", "info"),
    ("log_format", "--log-format", "MOCHI_LOG_FORMAT", None),
]


def read(*arguments: str, folder: Path = Path("/nowhere"), **environment: str) -> Settings:
    return read_settings(arguments, environment, folder)


def refusal(*arguments: str, environment: Mapping[str, str] | None = None, folder: Path = Path("/nowhere")) -> str:
    """The one line that a bad setting is refused with."""
    with pytest.raises(SettingsError) as caught:
        read_settings(arguments, environment or {}, folder)
    line = str(caught.value)
    assert line.strip()
    assert line.isprintable()  # so it is one line
    return line


@pytest.mark.parametrize(("field", "flag", "variable", "default"), TABLE, ids=[row[0] for row in TABLE])
def test_each_setting_has_the_flag_the_variable_and_the_default_of_the_contract(
    field: str, flag: str | None, variable: str, default: Any
) -> None:
    (setting,) = [s for s in SETTINGS if s.field == field]
    assert (setting.flag, setting.variable) == (flag, variable)
    assert getattr(read(), field) == default


@pytest.mark.parametrize(
    ("flag", "variable", "values"),
    [
        ("--host", "MOCHI_HOST", ("::1", "127.0.0.2", "localhost")),
        ("--port", "MOCHI_PORT", ("1", "2", "3")),
        ("--ollama-host", "MOCHI_OLLAMA_HOST", ("http://a:1", "b:2", "c")),
        ("--data-dir", "MOCHI_DATA_DIR", ("a", "b", "c")),
        ("--sessions-dir", "MOCHI_SESSIONS_DIR", ("a", "b", "c")),
        ("--system-prompts-dir", "MOCHI_SYSTEM_PROMPTS_DIR", ("a", "b", "c")),
        ("--model", "MOCHI_DEFAULT_MODEL", ("a", "b", "c")),
        ("--log-level", "MOCHI_LOG_LEVEL", ("debug", "warning", "error")),
        ("--log-format", "MOCHI_LOG_FORMAT", ("json", "console", "json")),
    ],
)
def test_a_flag_wins_over_the_environment_that_over_the_file_that_over_the_default(
    tmp_path: Path, flag: str, variable: str, values: tuple[str, str, str]
) -> None:
    by_flag, by_environment, by_file = values
    field = FLAGS[flag].field
    (tmp_path / ".env").write_text(f"# mine\n{variable}={by_file}\n")
    given = str(getattr(read_settings([], {}, tmp_path), field))
    assert given == by_file
    given = str(getattr(read_settings([], {variable: by_environment}, tmp_path), field))
    assert given == by_environment
    given = str(getattr(read_settings([flag, by_flag], {variable: by_environment}, tmp_path), field))
    assert given == by_flag
    assert getattr(read_settings([], {variable: "  "}, tmp_path.parent), field) == getattr(Settings(), field)


def test_lists_are_repeated_flags_or_separated_by_commas() -> None:
    assert read("--allow-host", "a", "--allow-host", "b", MOCHI_ALLOWED_HOSTS="c").allow_host == ("a", "b")
    assert read(MOCHI_ALLOWED_HOSTS=" a.lan, b.lan ,,").allow_host == ("a.lan", "b.lan")
    origins = read(MOCHI_ALLOWED_ORIGINS="https://a.example,http://localhost:3000").allow_origin
    assert origins == ("https://a.example", "http://localhost:3000")
    assert read(MOCHI_ALLOWED_MODELS=" llama3.2, hf.co/a/b:Q4 ,").allowed_models == ("llama3.2", "hf.co/a/b:Q4")


@pytest.mark.parametrize(("text", "expected"), [("1", True), ("true", True), ("YES", True), ("on", True), ("0", False),
                                                ("false", False), ("No", False), ("off", False)])  # fmt: skip
def test_a_switch_takes_the_usual_words(text: str, expected: bool) -> None:
    assert read(MOCHI_DEMO=text).demo is expected
    assert read("--demo", MOCHI_DEMO=text).demo is True
    assert read(MOCHI_REQUIRE_MODEL=text).require_model is expected
    assert read("--require-model", MOCHI_REQUIRE_MODEL=text).require_model is True


@pytest.mark.parametrize("allowed", ["llama3.2", "other,llama3.2:latest"])
def test_a_default_model_must_be_an_allowed_one(allowed: str) -> None:
    for name in ("llama3.2", "llama3.2:latest"):
        assert read("--model", name, MOCHI_ALLOWED_MODELS=allowed).model == name
    for name in ("llama3.2:7b", "llama3", "x/llama3.2"):
        line = refusal("--model", name, environment={"MOCHI_ALLOWED_MODELS": allowed})
        assert line.startswith("--model (MOCHI_DEFAULT_MODEL): ")
        assert "MOCHI_ALLOWED_MODELS" in line
        assert name in line


def test_ollama_host_is_ollamas_own_variable_unless_ours_says_otherwise() -> None:
    assert read(OLLAMA_HOST="http://a:1").ollama.shown == "http://a:1"
    assert read(OLLAMA_HOST="http://a:1", MOCHI_OLLAMA_HOST="b:2").ollama.shown == "http://b:2"
    assert read("--ollama-host", "c", OLLAMA_HOST="http://a:1").ollama.shown == "http://c:11434"
    assert read().ollama.shown == "http://127.0.0.1:11434"


def test_folders_lie_in_the_data_folder_unless_they_are_absolute() -> None:
    assert read("--data-dir", "/data").sessions_folder == Path("/data/sessions")
    assert read("--data-dir", "/data", "--sessions-dir", "/else/where").sessions_folder == Path("/else/where")
    assert read("--data-dir", "~/x").sessions_folder == Path.home() / "x" / "sessions"
    assert read("--data-dir", "/data").system_prompts_folder == Path("/data/system_prompts")
    assert read("--system-prompts-dir", "/else/where").system_prompts_folder == Path("/else/where")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("--port", value) for value in ("", "abc", "-1", "65536", "1.5", "8000 9000", "\uff19")),
        *(("--host", value) for value in ("", "0.0.0.0", "::", "192.168.1.5", "example.org", "localhost.evil.com")),  # noqa: S104 - it is refused
        *(("--ollama-host", value) for value in ("ftp://x", "http://x:y", "x:0", "x:99999", "a b", "http://a b:1")),
        *(("--allow-origin", value) for value in ("", "*", "null", "chat.example.org", "https://", "://x")),
        *(("--allow-origin", value) for value in ("https://*.x.org", "https://x.org/path")),
        *(("--allow-host", value) for value in ("", "https://mochi.lan", "*", "a b", "mochi.lan/x", "me@mochi.lan")),
        *(("--log-level", value) for value in ("", "loud", "INFO WARNING", "10")),
        *(("--log-format", value) for value in ("", "xml")),
        *((flag, "") for flag in ("--data-dir", "--sessions-dir", "--system-prompts-dir", "--model")),
        ("--data-dir", "x" * 5000),
    ],
)
def test_a_flag_that_makes_no_sense_is_refused_by_name(setting: str, value: str) -> None:
    assert setting in refusal(f"{setting}={value}")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        *(("MOCHI_PORT", value) for value in ("abc", "-1", "65536", "80 81")),
        *(("MOCHI_DEMO", value) for value in ("maybe", "2", "demo")),
        *(("OLLAMA_HOST", value) for value in ("ftp://x", "x:y")),
        *(("MOCHI_OLLAMA_HOST", value) for value in ("ftp://x", "x:y")),
        *(("MOCHI_CONNECT_TIMEOUT", value) for value in ("0", "-1", "nan", "inf", "1e9", "5s", "soon")),
        *((f"MOCHI_{name}_TIMEOUT", "0") for name in ("FIRST_TOKEN", "TOKEN", "HEADER", "BODY", "KEEP_ALIVE")),
        *(("MOCHI_MAX_CONNECTIONS", value) for value in ("0", "-1", "many")),
        *(("MOCHI_MAX_HEADER_BYTES", value) for value in ("0", "100", "9999999")),
        *(("MOCHI_MAX_BODY_BYTES", value) for value in ("0", "-1", "1.5", "32MB", "9" * 400)),
        *((f"MOCHI_MAX_{name}", "0") for name in ("MESSAGE_CHARS", "REPLY_CHARS", "REPLY_SECONDS")),
        *((f"MOCHI_{name}", "-1") for name in ("HEARTBEAT_SECONDS", "DISCONNECT_GRACE", "SHUTDOWN_SECONDS")),
        *((f"MOCHI_{name}", "nan") for name in ("HEARTBEAT_SECONDS", "DISCONNECT_GRACE", "SHUTDOWN_SECONDS")),
        *(("MOCHI_ON_DISCONNECT", value) for value in ("stop", "CANCEL ", "cancel,continue")[::2]),
        ("MOCHI_ALLOWED_MODELS", " , "),
        ("MOCHI_REQUIRE_MODEL", "tiny"),
        ("MOCHI_LOG_LEVEL", "trace"),
        ("MOCHI_LOG_FORMAT", "text"),
    ],
)
def test_a_variable_that_makes_no_sense_is_refused_by_name(tmp_path: Path, variable: str, value: str) -> None:
    assert variable in refusal(environment={variable: value})
    (tmp_path / ".env").write_text(f"{variable}={value}\n")
    assert variable in refusal(folder=tmp_path)


@pytest.mark.parametrize("variable", ["MOCHI_HOST", "MOCHI_ALLOWED_ORIGINS", "MOCHI_ALLOWED_HOSTS"])
def test_what_a_variable_said_is_not_blamed_on_a_flag_alone(variable: str) -> None:
    assert variable in refusal(environment={variable: "http://*"})


@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["extra"], ["--port"], ["--por", "1"], ["--demo=1"], ["--api-key", "x"], ["a\nb"]]
)
def test_a_flag_that_there_is_not_is_refused_with_where_to_look(arguments: list[str]) -> None:
    assert "--help" in refusal(*arguments)


def test_an_env_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"MOCHI_PORT=\xff\n")
    assert ".env" in refusal(folder=tmp_path)
    (tmp_path / ".env").unlink()
    (tmp_path / ".env").mkdir()
    assert ".env" in refusal(folder=tmp_path)


@pytest.mark.parametrize("rest", ["host:99999", "[::1", "", "/path", "[::1]x", "a b"])
def test_a_refused_address_does_not_show_its_password(rest: str) -> None:
    line = refusal("--ollama-host", f"http://me:s3cret@{rest}")
    assert line.startswith("--ollama-host is no address: ")
    assert "s3cret" not in line


@pytest.mark.parametrize("flag", ["--allow-origin", "--allow-host", "--host", "--port", "--log-level"])
def test_a_password_is_not_shown_where_a_url_does_not_belong_either(flag: str) -> None:
    assert "s3cret" not in refusal(flag, "https://me:s3cret@host")


@pytest.mark.parametrize(
    ("arguments", "environment", "line"),
    [
        (["--port", "65536"], {}, "--port must be at most 65535, not '65536'"),
        (["--port=-1"], {}, "--port must be at least 0, not '-1'"),
        (["--port", "abc"], {}, "--port must be a whole number, not 'abc'"),
        ([], {"MOCHI_TOKEN_TIMEOUT": "0"}, "MOCHI_TOKEN_TIMEOUT must be more than 0, not '0'"),
        ([], {"MOCHI_TOKEN_TIMEOUT": "1e9"}, "MOCHI_TOKEN_TIMEOUT must be at most 86400, not '1e9'"),
        ([], {"MOCHI_TOKEN_TIMEOUT": "5s"}, "MOCHI_TOKEN_TIMEOUT must be a number, not '5s'"),
        *(([f"{f}="], {}, f"{f} must not be empty") for f in ("--model", "--host", "--data-dir", "--allow-host")),
        (["--model", "x" * 5000], {}, "--model must have at most 4096 characters"),
        ([], {"MOCHI_DEMO": "maybe"}, "MOCHI_DEMO must be one of 1, true, yes, on, 0, false, no, off, not 'maybe'"),
        (["--log-level", "loud"], {}, "--log-level must be one of debug, info, warning, error, not 'loud'"),
        (["--log-format", "xml"], {}, "--log-format must be one of console, json, not 'xml'"),
        ([], {"MOCHI_ON_DISCONNECT": "x"}, "MOCHI_ON_DISCONNECT must be one of cancel, continue, not 'x'"),
    ],
)  # fmt: skip
def test_a_setting_that_makes_no_sense_is_told_what_it_must_be(
    arguments: list[str], environment: dict[str, str], line: str
) -> None:
    assert refusal(*arguments, environment=environment) == line


def test_an_allowed_host_may_be_an_ipv6_address_with_or_without_brackets() -> None:
    assert read("--allow-host", "::1", "--allow-host", "[FD00::5]").allow_host == ("[::1]", "[FD00::5]")
    assert read(MOCHI_ALLOWED_HOSTS="FD00:0::5, a.lan").allow_host == ("[fd00::5]", "a.lan")


def test_help_names_every_flag_and_variable_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        read("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    for setting in SETTINGS:
        assert setting.variable in shown
        assert setting.flag is None or f"{setting.flag} " in shown
        default = getattr(Settings(), setting.field)
        if default not in (None, "", (), False):
            assert f"(default: {default})" in shown


def test_version_tells_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        read("--version")
    assert (end.value.code, capsys.readouterr().out) == (0, f"mochi-server {__version__}\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "http://127.0.0.1:11434"),
        ("  ", "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        ("1.2.3.4:1234", "http://1.2.3.4:1234"),
        (":1234", "http://127.0.0.1:1234"),
        ("example.com", "http://example.com:11434"),
        ("example.com:56789", "http://example.com:56789"),
        ("http://example.com", "http://example.com:80"),
        ("https://example.com", "https://example.com:443"),
        ("http://example.com:56789", "http://example.com:56789"),
        ("https://example.com:56789/", "https://example.com:56789"),
        ("example.com/", "http://example.com:11434"),
        ("example.com:56789/", "http://example.com:56789"),
        ("http://example.com/ollama", "http://example.com:80/ollama"),
        ("https://example.com:8443/a/b/", "https://example.com:8443/a/b"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:1337", "http://[::1]:1337"),
        ("::1", "http://[::1]:11434"),
        ("http://[2001:db8::1]:1/x", "http://[2001:db8::1]:1/x"),
        ("http://[::1]", "http://[::1]:80"),
        ("http://:1234", "http://127.0.0.1:1234"),
        ("http://me:secret@[::1]:5", "http://[::1]:5"),
        ("http://me:se%5Bcret@example.com", "http://example.com:80"),
        (' "1.2.3.4" ', "http://1.2.3.4:11434"),
        ("'1.2.3.4:5'", "http://1.2.3.4:5"),
        ("0.0.0.0", "http://127.0.0.1:11434"),  # noqa: S104 - an address to reach, not to bind
        ("0.0.0.0:1", "http://127.0.0.1:1"),
        ("[::]:1", "http://[::1]:1"),
        ("http://me:secret@example.com:1", "http://example.com:1"),
        ("me@example.com", "http://example.com:11434"),
    ],
)
def test_ollamas_address_is_taken_in_all_the_forms_that_ollama_takes(text: str, shown: str) -> None:
    address = parse_address(text)
    assert address.shown == shown
    assert (address.authorization is not None) == ("@" in text)


@pytest.mark.parametrize(
    "text",
    [
        *("ftp://x", "x:", "x:0", "x:65536", "x:abc", "x:-1", "x:²", "http://x y", "a?b", "a#b", "HTTPX://a"),
        *("http://", "https://", "http:///path", "http://me:pass@", "me:pass@", "http://me:pass@/path"),
        *("[::1", "::1]", "http://[::1", "http://me:pass@[::1", "[::1]]", "[[::1]]", "[::1]x", "[::1:11434", "x]:1"),
    ],
)
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_address(text)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((h, True) for h in ("localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.9.9.9", "::1", "[::1]")),
        *(
            (h, False)
            for h in ("", "0.0.0.0", "::", "localhost.evil.com", "128.0.0.1", "127.1", "example.org", "10.0.0.1")  # noqa: S104 - nothing binds
        ),
    ],
)
def test_only_this_machine_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
