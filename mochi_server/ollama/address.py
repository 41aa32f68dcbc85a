"""Where Ollama is: all the forms that Ollama itself takes in `OLLAMA_HOST`."""

import base64
import ipaddress
import re
from urllib.parse import unquote

import msgspec

_PORTS = {"http": 80, "https": 443}
_BRACKETED = re.compile(r"\[[^\[\]]*\](?::[^\[\]]*)?\Z")


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """An Ollama's address; `authorization` is the header's value where the address held a user and password."""

    scheme: str
    host: str
    port: int
    path: str = ""
    authorization: str | None = None

    @property
    def shown(self) -> str:
        """The address without credentials, for people and for clients."""
        return f"{self.scheme}://{self.netloc}{self.path}"

    @property
    def netloc(self) -> str:
        """Host and port as a URL and a `Host` header have them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """The address in `host`, `host:port`, `:port`, `[::1]:port` or a http or https URL; blank is the default.

    Raises ValueError, saying what is wrong. The rules are those of Ollama's own `OLLAMA_HOST`, but for what it mends in
    silence: a port that is none, a URL without a host, half a pair of brackets. An address to listen on (`0.0.0.0`,
    `::`) is reached over loopback.
    """
    text = text.strip().strip("\"'")
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    elif scheme not in _PORTS:
        raise ValueError("it begins neither with http:// nor with https://")
    netloc, _, path = rest.partition("/")
    credentials, at, hostport = netloc.rpartition("@")
    if not hostport and (separator or at):
        raise ValueError("it names no host")
    host, port = _split(hostport, _PORTS[scheme] if separator else 11434)
    return Address(
        scheme=scheme,
        host=_reachable(host),
        port=port,
        path=f"/{path.strip('/')}" if path.strip("/") else "",
        authorization=_basic(credentials) if credentials else None,
    )


def _split(hostport: str, default_port: int) -> tuple[str, int]:
    if ("[" in hostport or "]" in hostport) and not _BRACKETED.match(hostport):
        raise ValueError("its brackets are not around an IPv6 address, as in [::1]:11434")
    bare = hostport.strip("[]")
    if bare.count(":") > 1 and "]:" not in hostport:
        return bare, default_port
    host, colon, port = hostport.rpartition(":")
    if not colon:
        return hostport, default_port
    if not port.isascii() or not port.isdecimal() or not 0 < int(port[:6]) <= 65535:
        raise ValueError("its port is not a number from 1 to 65535")
    return host.strip("[]"), int(port)


def _reachable(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return _name(host) or "127.0.0.1"
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "::1"
    return str(address)


def _name(host: str) -> str:
    """A host name that can be looked up. Raises ValueError; without quoting it, for it may hold half a password."""
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError("its host is not a host name") from None
    if any(c.isspace() or c in "/?#@:[]" for c in host):
        raise ValueError("its host is not a host name")
    return host


def _basic(credentials: str) -> str:
    return "Basic " + base64.b64encode(unquote(credentials).encode()).decode()
