"""The settings: one typed object. The table `SETTINGS` is the only place that names them."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from mochi_server.chat.generation import OnDisconnect
from mochi_server.observability.logs import LogFormat, LogLevel
from mochi_server.ollama.address import Address, parse_address

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]


class SettingsError(Exception):
    """A setting that makes no sense; the text is one line saying which and why."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the server runs with. Durations are seconds, sizes bytes unless their name says otherwise."""

    host: Text = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    ollama_host: str = ""
    demo: bool = False
    data_dir: Text = "."
    sessions_dir: Text = "sessions"
    system_prompts_dir: Text = "system_prompts"
    model: Text | None = None
    allowed_models: tuple[Text, ...] = ()
    require_model: bool = False
    allow_host: tuple[Text, ...] = ()
    allow_origin: tuple[Text, ...] = ()
    api_key: tuple[bytes, ...] = ()
    """SHA-256 digests, those of the key file's included."""

    api_key_file: Text | None = None
    max_concurrent: Annotated[int, Meta(ge=1, le=100_000)] = 4
    max_queue: Annotated[int, Meta(ge=0, le=100_000)] = 64
    connect_timeout: Seconds = 5
    first_token_timeout: Seconds = 300
    token_timeout: Seconds = 60
    queue_timeout: Seconds = 120
    max_connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 2000
    header_timeout: Seconds = 10
    body_timeout: Seconds = 30
    keep_alive_timeout: Seconds = 75
    max_header_bytes: Annotated[int, Meta(ge=1024, le=2**20)] = 32 * 1024
    max_body_bytes: Annotated[int, Meta(ge=1024, le=2**31)] = 32 * 1024 * 1024
    max_message_chars: Annotated[int, Meta(ge=1, le=2**31)] = 1_000_000
    max_request_messages: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    max_request_chars: Annotated[int, Meta(ge=1, le=2**31)] = 4_000_000
    max_image_bytes: Annotated[int, Meta(ge=1024, le=2**31)] = 20 * 1024 * 1024
    on_disconnect: OnDisconnect = "cancel"
    max_reply_chars: Annotated[int, Meta(ge=1, le=2**31)] = 4_000_000
    max_reply_seconds: Seconds = 3600
    heartbeat_seconds: Seconds = 15
    disconnect_grace: Annotated[float, Meta(ge=0, le=86_400)] = 5
    shutdown_seconds: Annotated[float, Meta(ge=1, le=3600)] = 5
    log_level: LogLevel = "info"
    log_format: LogFormat | None = None

    @property
    def sessions_folder(self) -> Path:
        """Where the session files lie."""
        return Path(self.data_dir).expanduser() / Path(self.sessions_dir).expanduser()

    @property
    def system_prompts_folder(self) -> Path:
        """Where the system prompt files lie."""
        return Path(self.data_dir).expanduser() / Path(self.system_prompts_dir).expanduser()

    @property
    def ollama(self) -> Address:
        """Where Ollama is. Raises ValueError; `read_settings` has made sure that it does not."""
        return parse_address(self.ollama_host)


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """How one field of Settings is told: by flag, by environment variable, or by both."""

    field: str
    variable: str
    help: str
    flag: str | None = None
    metavar: str | None = None
    fallback_variable: str | None = None


SETTINGS = (
    Setting(
        field="host",
        flag="--host",
        variable="MOCHI_HOST",
        metavar="ADDRESS",
        help="the address to listen on; another than a loopback address needs an API key",
    ),
    Setting(
        field="port",
        flag="--port",
        variable="MOCHI_PORT",
        metavar="PORT",
        help="the port to listen on; 0 takes any free one, and its address is printed",
    ),
    Setting(
        field="ollama_host",
        flag="--ollama-host",
        variable="MOCHI_OLLAMA_HOST",
        fallback_variable="OLLAMA_HOST",
        metavar="URL",
        help="where Ollama is, in any form that OLLAMA_HOST takes (default: http://127.0.0.1:11434)",
    ),
    Setting(
        field="demo",
        flag="--demo",
        variable="MOCHI_DEMO",
        help="serve the built-in model 'demo'; no Ollama is needed",
    ),
    Setting(
        field="data_dir",
        flag="--data-dir",
        variable="MOCHI_DATA_DIR",
        metavar="FOLDER",
        help="the folder in which the others lie, unless they are absolute",
    ),
    Setting(
        field="sessions_dir",
        flag="--sessions-dir",
        variable="MOCHI_SESSIONS_DIR",
        metavar="FOLDER",
        help="the folder of the session files",
    ),
    Setting(
        field="system_prompts_dir",
        flag="--system-prompts-dir",
        variable="MOCHI_SYSTEM_PROMPTS_DIR",
        metavar="FOLDER",
        help="the folder of the system prompt files",
    ),
    Setting(
        field="model",
        flag="--model",
        variable="MOCHI_DEFAULT_MODEL",
        metavar="NAME",
        help="the model of sessions that name none (default: the newest that Ollama has and that can chat)",
    ),
    Setting(
        field="allowed_models",
        variable="MOCHI_ALLOWED_MODELS",
        help="the models that may be used, and no others (default: all)",
    ),
    Setting(
        field="require_model",
        flag="--require-model",
        variable="MOCHI_REQUIRE_MODEL",
        help="do not start unless that model is there",
    ),
    Setting(
        field="allow_host",
        flag="--allow-host",
        variable="MOCHI_ALLOWED_HOSTS",
        metavar="NAME",
        help="another host name under which the server may be addressed; repeatable",
    ),
    Setting(
        field="allow_origin",
        flag="--allow-origin",
        variable="MOCHI_ALLOWED_ORIGINS",
        metavar="ORIGIN",
        help="a web origin whose pages may use the server, such as https://chat.example.org; repeatable",
    ),
    Setting(
        field="api_key",
        variable="MOCHI_API_KEY",
        help="keys of which every request must have one, separated by commas (default: none)",
    ),
    Setting(
        field="api_key_file",
        flag="--api-key-file",
        variable="MOCHI_API_KEY_FILE",
        metavar="FILE",
        help="a file of such keys, one a line; for keys there is no flag, which everybody on this machine could see",
    ),
    Setting(
        field="max_concurrent",
        flag="--max-concurrent",
        variable="MOCHI_MAX_CONCURRENT",
        metavar="NUMBER",
        help="how many replies Ollama is asked for at a time",
    ),
    Setting(
        field="max_queue",
        flag="--max-queue",
        variable="MOCHI_MAX_QUEUE",
        metavar="NUMBER",
        help="how many more may wait for their turn; others are told to come back",
    ),
    Setting(field="connect_timeout", variable="MOCHI_CONNECT_TIMEOUT", help="seconds to connect to Ollama"),
    Setting(
        field="first_token_timeout",
        variable="MOCHI_FIRST_TOKEN_TIMEOUT",
        help="seconds to the first token, loading the model included",
    ),
    Setting(field="token_timeout", variable="MOCHI_TOKEN_TIMEOUT", help="seconds from one token to the next"),
    Setting(field="queue_timeout", variable="MOCHI_QUEUE_TIMEOUT", help="seconds that a reply may wait for its turn"),
    Setting(
        field="max_connections",
        variable="MOCHI_MAX_CONNECTIONS",
        help="connections at a time; beyond that the one that was waited for longest is closed",
    ),
    Setting(field="header_timeout", variable="MOCHI_HEADER_TIMEOUT", help="seconds that a request's headers may take"),
    Setting(
        field="body_timeout",
        variable="MOCHI_BODY_TIMEOUT",
        help="seconds that a request's body may stand still; it must also come at 1,000 bytes a second",
    ),
    Setting(
        field="keep_alive_timeout",
        variable="MOCHI_KEEP_ALIVE_TIMEOUT",
        help="seconds that a connection is kept for its next request",
    ),
    Setting(
        field="max_header_bytes", variable="MOCHI_MAX_HEADER_BYTES", help="the largest head of a request, in bytes"
    ),
    Setting(field="max_body_bytes", variable="MOCHI_MAX_BODY_BYTES", help="the largest request body, in bytes"),
    Setting(field="max_message_chars", variable="MOCHI_MAX_MESSAGE_CHARS", help="the longest message, in characters"),
    Setting(field="max_image_bytes", variable="MOCHI_MAX_IMAGE_BYTES", help="the largest image, in bytes"),
    Setting(
        field="max_request_messages",
        variable="MOCHI_MAX_REQUEST_MESSAGES",
        help="how many messages a request of an OpenAI client may have",
    ),
    Setting(
        field="max_request_chars",
        variable="MOCHI_MAX_REQUEST_CHARS",
        help="how many characters the messages of such a request may have together",
    ),
    Setting(
        field="on_disconnect",
        variable="MOCHI_ON_DISCONNECT",
        help="what becomes of a reply whose client has gone, unless the request says: cancel or continue",
    ),
    Setting(field="max_reply_chars", variable="MOCHI_MAX_REPLY_CHARS", help="characters beyond which a reply is ended"),
    Setting(
        field="max_reply_seconds", variable="MOCHI_MAX_REPLY_SECONDS", help="seconds beyond which a reply is ended"
    ),
    Setting(
        field="heartbeat_seconds",
        variable="MOCHI_HEARTBEAT_SECONDS",
        help="seconds between the comment lines that keep a silent stream alive",
    ),
    Setting(
        field="disconnect_grace",
        variable="MOCHI_DISCONNECT_GRACE",
        help="seconds that a reply waits for a client that has gone",
    ),
    Setting(
        field="shutdown_seconds",
        variable="MOCHI_SHUTDOWN_SECONDS",
        help="seconds that a stop may take; replies still running are then saved as they are",
    ),
    Setting(
        field="log_level",
        flag="--log-level",
        variable="MOCHI_LOG_LEVEL",
        metavar="LEVEL",
        help="debug, info, warning or error",
    ),
    Setting(
        field="log_format",
        flag="--log-format",
        variable="MOCHI_LOG_FORMAT",
        metavar="FORMAT",
        help="console or json (default: console on a terminal, else json)",
    ),
)

_HOST = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9_.-]+))(?::(?P<port>[0-9]{0,5}))?\Z")


def host_name(host: str) -> str:
    """The name in what a `Host` header holds, without its port: lower case, no trailing dot; empty where it is none."""
    match = _HOST.match(host.strip())
    if match is None or int(match["port"] or 0) > 65535:
        return ""
    return (match["address"] or match["name"]).rstrip(".").lower()


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine alone."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
