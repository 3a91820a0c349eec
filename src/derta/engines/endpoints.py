"""Allowlist of servers that a recipe may send prompts and an API key to; the user sets it, not the recipe."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import SplitResult, urlsplit

from derta.errors import EngineError, did_you_mean

if TYPE_CHECKING:
    from derta.config import EngineConfig

KEY_VARIABLE = "OPENAI_API_KEY"
DEFAULT_ENDPOINT = "https://api.openai.com/v1"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names of this machine, which need no permission; any other spelling is treated as another host."""

_PRINTABLE = re.compile(r"[!-\[\]-~]+")
"""ASCII without blanks and backslashes, which libraries parse differently."""
_NETLOC = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:[0-9]+)?", re.ASCII)
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Host(NamedTuple):
    """Host name of a server in lower case, with its port; None in a permission allows all ports."""

    name: str
    port: int | None


def parse_host(address: str) -> Host:
    """Parse the host and port of an endpoint's address.

    >>> parse_host("https://API.example.com/v1"), parse_host("http://[::1]:8000/v1")
    (Host(name='api.example.com', port=443), Host(name='::1', port=8000))

    Raises:
        EngineError: Invalid address, or an address that may contain a key.
    """
    parts = _split(address)
    if "@" in address or (parts is not None and parts.query):
        raise EngineError(
            "endpoints: expected an address without a key in it; store the key in an environment variable and set "
            "api_key_env to its name"
        )
    if parts is None or parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise EngineError(
            f"endpoints: expected an address such as http://127.0.0.1:8000/v1, got {address!r:.200}; check it"
        )
    return Host(parts.hostname, parts.port or _DEFAULT_PORTS[parts.scheme])


def check_endpoints(config: EngineConfig, allowed: Collection[str]) -> None:
    """Validate that each server of a recipe is this machine or a host that the user allows.

    Args:
        config: Engine config of the recipe; only the engine `api` sends data to a server.
        allowed: `HOST` or `HOST:PORT`, compared exactly except for upper and lower case; an IPv6 host is in brackets.

    Raises:
        EngineError: A host is not allowed (the message names the first one and the option that allows it), or an entry
            of `allowed` is not a host.
    """
    permitted = [_parse_allowed_host(entry) for entry in allowed]
    for address in _addresses(config):
        host = parse_host(address)
        if host.name not in LOOPBACK and host not in permitted and Host(host.name, None) not in permitted:
            name = f"[{host.name}]" if ":" in host.name else host.name
            raise EngineError(
                f"endpoints: the recipe would send prompts and a key to {name}, which is not on your list of servers; "
                f"if you trust it, pass --allow-endpoint {name}, or add it to `endpoints:` in {config_path()}"
            )


def _addresses(config: EngineConfig) -> list[str]:
    if config.engine != "api":
        return []
    value: Any = config.settings.get("endpoints", DEFAULT_ENDPOINT)
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in cast("list[Any]", value)):
        raise EngineError(f"endpoints: expected an address or a list of them, got {value!r:.80}")
    return cast("list[str]", value)


def user_endpoints() -> tuple[str, ...]:
    """Load the allowed hosts from the user's configuration file; an empty tuple if the file does not exist.

    Raises:
        EngineError: The file cannot be read, or its content is not `endpoints:` with a list of hosts.
    """
    import yaml

    path = config_path()
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise EngineError(f"{path}: cannot read it ({' '.join(str(error).split()):.200}); fix or remove it") from error
    if not isinstance(values, Mapping):
        raise EngineError(f"{path}: expected `endpoints:` with a list of hosts, got {type(values).__name__}")
    for key in values:
        if key != "endpoints":
            raise EngineError(f"{path}: unknown key {key!r:.80}; {did_you_mean(str(key), ['endpoints'])}")
    hosts: Any = values.get("endpoints") or []
    if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
        raise EngineError(f"{path}: endpoints: expected a list of hosts such as [api.openai.com], got {hosts!r:.80}")
    for host in hosts:
        _parse_allowed_host(host, where=f"{path}: endpoints")
    return tuple(hosts)


def config_path() -> Path:
    """Return the path of the user's configuration file.

    Source: XDG Base Directory Specification 0.8; a relative `XDG_CONFIG_HOME` is ignored.
    """
    home = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".config") / "derta" / "config.yaml"


def _parse_allowed_host(entry: str, *, where: str = "--allow-endpoint") -> Host:
    parts = _split(f"//{entry}")
    if parts is None or not parts.hostname or parts.netloc != entry:
        raise EngineError(
            f"{where}: expected HOST or HOST:PORT, such as api.openai.com or [::1]:8000, got {entry!r:.80}"
        )
    return Host(parts.hostname, parts.port)


def _split(address: str) -> SplitResult | None:
    if not _PRINTABLE.fullmatch(address):
        return None
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        return None
    return parts if _NETLOC.fullmatch(parts.netloc) else None
