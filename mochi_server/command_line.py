"""The settings as they are told: a flag wins over the environment, that over `.env`, that over the default."""

import argparse
import io
import ipaddress
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

import dotenv
import msgspec

from mochi_server import __version__
from mochi_server.keys import BadKeys, digests_of, read_key_file
from mochi_server.ollama.address import parse_address
from mochi_server.ollama.catalog import full_name
from mochi_server.settings import SETTINGS, Setting, Settings, SettingsError, host_name, is_loopback

_TYPES = {field.name: field.type for field in msgspec.structs.fields(Settings)}
_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Settings)}
_LISTS = ("allow_host", "allow_origin", "allowed_models", "api_key")
_SWITCHES = ("demo", "require_model")
_FLAGS_FOR_KEYS = ("--api-key", "--api-keys", "--key")
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
    if settings.api_key_file is not None:
        settings = _with_key_file(settings, settings.api_key_file)
    _check(settings)
    return settings


class Parser(argparse.ArgumentParser):
    """A command's flags; what is wrong with them is a SettingsError."""

    def error(self, message: str) -> NoReturn:
        """Raise it, in one line."""
        raise SettingsError(f"{' '.join(message.split())}; see {self.prog} --help")


class _ServerParser(Parser):
    """The server's flags; an argument that nobody asked for is not shown, since it may be a key."""

    def error(self, message: str) -> NoReturn:
        """Raise it, in one line."""
        told, separator, unknown = message.partition("unrecognized arguments: ")
        if separator:
            flag = unknown.split()[0].partition("=")[0] if unknown.startswith("-") else ""
            message = f"{told}there is no flag {flag}" if flag else f"{told}only flags are taken"
            if flag in _FLAGS_FOR_KEYS:
                message += ", which everybody on this machine could see: set MOCHI_API_KEY, or name an --api-key-file"
        super().error(message)


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
    parser = _ServerParser(
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
        if setting.field in _SWITCHES:
            parser.add_argument(setting.flag, dest=setting.field, action="store_true", default=None, help=help_text)
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
    if setting.field in _SWITCHES and isinstance(value, str):
        if value.lower() not in _YES + _NO:
            words = ", ".join(word for word in _YES + _NO if word)
            raise SettingsError(f"{source} must be one of {words}, not {_quoted(value)}")
        return value.lower() in _YES
    if setting.field == "allowed_models" and not value:
        raise SettingsError(f"{source} names no model; leave it out to allow all")
    if setting.field == "api_key":
        return _digests(source, value)
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


def _digests(source: str, keys: list[str]) -> tuple[bytes, ...]:
    try:
        return digests_of(keys)
    except BadKeys as error:
        raise SettingsError(f"{source} {error}") from None


def _with_key_file(settings: Settings, path: str) -> Settings:
    try:
        keys = read_key_file(Path(path).expanduser())
    except (BadKeys, RuntimeError) as error:
        # The name is not shown: it may be a key that ended up there.
        reason = str(error) if isinstance(error, BadKeys) else "lies in no home folder that there is"
        raise SettingsError(f"--api-key-file (MOCHI_API_KEY_FILE): the file {reason}") from None
    return msgspec.structs.replace(settings, api_key=tuple(dict.fromkeys(settings.api_key + keys)))


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
    if not is_loopback(settings.host) and not settings.api_key:
        raise SettingsError(
            f"--host (MOCHI_HOST): listening on {_quoted(settings.host)} would let other machines read the "
            "conversations; set a key with MOCHI_API_KEY or --api-key-file, or use 127.0.0.1, ::1 or localhost"
        )
    if settings.allowed_models and settings.model is not None:
        allowed = {full_name(name) for name in settings.allowed_models}
        if full_name(settings.model) not in allowed:
            raise SettingsError(
                f"--model (MOCHI_DEFAULT_MODEL): {_quoted(settings.model)} is not among MOCHI_ALLOWED_MODELS; name one "
                "that is, or add it there"
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
