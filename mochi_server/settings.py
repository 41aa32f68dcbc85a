"""The settings: one typed object, read once. A flag wins over the environment, that over `.env`, that over the default.

The table `SETTINGS` is the only place that names them.
"""

import argparse
import io
import ipaddress
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

import dotenv
import msgspec
from msgspec import Meta

from mochi_server import __version__
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
    model: Text | None = None
    allow_host: tuple[Text, ...] = ()
    allow_origin: tuple[Text, ...] = ()
    connect_timeout: Seconds = 5
    first_token_timeout: Seconds = 300
    token_timeout: Seconds = 60
    max_body_bytes: Annotated[int, Meta(ge=1024, le=2**31)] = 32 * 1024 * 1024
    max_message_chars: Annotated[int, Meta(ge=1, le=2**31)] = 1_000_000
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
        help="the address to listen on; only loopback addresses, since this version has no API keys",
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
        field="model",
        flag="--model",
        variable="MOCHI_DEFAULT_MODEL",
        metavar="NAME",
        help="the model of sessions that name none (default: the newest that Ollama has and that can chat)",
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
    Setting(field="connect_timeout", variable="MOCHI_CONNECT_TIMEOUT", help="seconds to connect to Ollama"),
    Setting(
        field="first_token_timeout",
        variable="MOCHI_FIRST_TOKEN_TIMEOUT",
        help="seconds to the first token, loading the model included",
    ),
    Setting(field="token_timeout", variable="MOCHI_TOKEN_TIMEOUT", help="seconds from one token to the next"),
    Setting(field="max_body_bytes", variable="MOCHI_MAX_BODY_BYTES", help="the largest request body, in bytes"),
    Setting(field="max_message_chars", variable="MOCHI_MAX_MESSAGE_CHARS", help="the longest message, in characters"),
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

_TYPES = {field.name: field.type for field in msgspec.structs.fields(Settings)}
_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Settings)}
_LISTS = ("allow_host", "allow_origin")
_HOST = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9_.-]+))(?::(?P<port>[0-9]{0,5}))?\Z")
_BOUND = re.compile(r"Expected `\w+` (?P<length>of length )?(?P<bound>[<>]=?) (?P<size>-?\d+)")
_BOUNDS = {"<=": "at most", ">=": "at least", "<": "less than", ">": "more than"}
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")


def read_settings(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> Settings:
    """The settings from the command line, the environment and the folder's `.env`.

    Raises SettingsError; prints and exits as argparse does for `--help`, `--version` and unknown flags.
    """
    settings = Settings(**values_told(SETTINGS, vars(_parser().parse_args(arguments)), environment, folder))
    _check(settings)
    return settings


class Parser(argparse.ArgumentParser):
    """A command's flags; what is wrong with them is a SettingsError."""

    def error(self, message: str) -> NoReturn:
        """Raise it, in one line."""
        raise SettingsError(f"{' '.join(message.split())}; see {self.prog} --help")


def values_told(
    settings: Iterable[Setting],
    flags: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """What was told of these settings, by field. Raises SettingsError."""
    variables = {**_env_file((folder or Path()) / ".env"), **(os.environ if environment is None else environment)}
    told = ((setting, _given(setting, flags, variables)) for setting in settings)
    return {setting.field: _converted(setting, *given) for setting, given in told if given is not None}


def _parser() -> Parser:
    parser = Parser(
        prog="mochi-server",
        description="A session-based chat server over a local Ollama.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_variables_help(),
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mochi-server {__version__}")
    add_flags(parser, SETTINGS)
    return parser


def add_flags(parser: Parser, settings: Iterable[Setting]) -> None:
    """Let a command take these settings."""
    for setting in settings:
        if setting.flag is None:
            continue
        help_text = f"{setting.help}{_default_help(setting)} [{setting.variable}]"
        if setting.field == "demo":
            parser.add_argument(setting.flag, dest="demo", action="store_true", default=None, help=help_text)
        else:
            action = "append" if setting.field in _LISTS else "store"
            parser.add_argument(
                setting.flag, dest=setting.field, action=action, metavar=setting.metavar, help=help_text
            )


def _default_help(setting: Setting) -> str:
    default = _DEFAULTS[setting.field]
    if "default:" in setting.help or default in {None, (), "", False}:
        return ""
    return f" (default: {default})"


def _variables_help() -> str:
    lines = ["settings by environment variable alone, or in a .env file in the working folder:"]
    lines += [f"  {s.variable:27} {s.help}{_default_help(s)}" for s in SETTINGS if s.flag is None]
    lines.append("A flag wins over the environment, that over .env. Lists there are separated by commas.")
    lines.append(
        "An earlier server's folder is read as it is; mochi-server migrate --help says how to bring it up to date."
    )
    return "\n".join(lines)


def _env_file(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f".env cannot be read: {type(error).__name__}") from None
    values = dotenv.dotenv_values(stream=io.StringIO(text), interpolate=False)
    return {name: value for name, value in values.items() if value is not None}


def _given(setting: Setting, flags: Mapping[str, Any], variables: Mapping[str, str]) -> tuple[str, Any] | None:
    """Where the setting was told, and as what."""
    if setting.flag is not None and flags[setting.field] is not None:
        return setting.flag, flags[setting.field]
    for variable in (setting.variable, setting.fallback_variable):
        # An empty variable is an unset one, as in a compose file that passes all of them on.
        if variable is not None and (text := variables.get(variable, "").strip()):
            listed = [part.strip() for part in text.split(",") if part.strip()]
            return variable, listed if setting.field in _LISTS else text
    return None


def _converted(setting: Setting, source: str, value: Any) -> Any:
    if setting.field == "demo" and isinstance(value, str):
        if value.lower() not in _YES + _NO:
            words = ", ".join(word for word in _YES + _NO if word)
            raise SettingsError(f"{source} must be one of {words}, not {_quoted(value)}")
        return value.lower() in _YES
    if setting.field == "allow_host":
        value = [_bracketed(host) for host in value]
    try:
        converted = msgspec.convert(value, _TYPES[setting.field], strict=False)
        if setting.field == "ollama_host":
            parse_address(value)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{source} {_in_plain_words(str(error), setting, value)}") from None
    except ValueError as error:
        # The address is not shown: it may hold a password.
        raise SettingsError(
            f"{source} is no address: {error}; give a host, host:port or a URL such as http://127.0.0.1:11434"
        ) from None
    return converted


def _in_plain_words(told: str, setting: Setting, value: Any) -> str:
    """The rest of a sentence that begins with the flag or the variable."""
    if told.startswith("Invalid enum value"):
        return f"must be one of {', '.join(_choices(_TYPES[setting.field]))}, not {_quoted(value)}"
    if (bound := _BOUND.match(told)) is not None:
        if bound["length"]:
            empty = (bound["bound"], bound["size"]) == (">=", "1")
            return "must not be empty" if empty else f"must have {_BOUNDS[bound['bound']]} {bound['size']} characters"
        return f"must be {_BOUNDS[bound['bound']]} {bound['size']}, not {_quoted(value)}"
    kind = told.removeprefix("Expected `").partition("`")[0]
    wanted = {"int": "a whole number", "float": "a number"}
    return f"must be {wanted.get(kind, kind)}, not {_quoted(value)}"


def _choices(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [str(choice) for choice in get_args(kind)]
    return [choice for member in get_args(kind) for choice in _choices(member)]


def _quoted(value: Any) -> str:
    """What was given, so that it can be found; without a password, should a URL have ended up there."""
    text = str(value)
    return repr(("..." if "@" in text else "") + text.rpartition("@")[2][:100])


def _bracketed(host: str) -> str:
    """A bare IPv6 address as a `Host` header has it."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return f"[{address}]" if address.version == 6 else host


def _check(settings: Settings) -> None:
    if not is_loopback(settings.host):
        raise SettingsError(
            f"--host (MOCHI_HOST): listening on {_quoted(settings.host)} would let other machines read the "
            "conversations, and this version has no API keys to prevent it; use 127.0.0.1, ::1 or localhost"
        )
    for host in settings.allow_host:
        if not host_name(host):
            raise SettingsError(
                f"--allow-host (MOCHI_ALLOWED_HOSTS): {_quoted(host)} is not a host name such as chat.example.org"
            )
    for origin in settings.allow_origin:
        scheme, separator, rest = origin.rstrip("/").partition("://")
        if not separator or not scheme or not host_name(rest) or "*" in origin:
            raise SettingsError(
                f"--allow-origin (MOCHI_ALLOWED_ORIGINS): {_quoted(origin)} is not an origin such as "
                "https://chat.example.org"
            )


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
