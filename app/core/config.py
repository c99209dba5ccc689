"""Every knob, read from the environment once and checked at start.

Comes in: a mapping such as `os.environ`. Goes out: a frozen `Settings`. A wrong value raises `SettingsError` with a
sentence that names the variable, what it holds and what would be right.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

N = TypeVar("N", int, float)
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DATA_DIRECTORY = Path(".data")
_DATABASE_URL_SHAPE = (
    "expected a URL such as postgresql://user:password@host:5432/database, in which special characters of user and "
    "password are percent-encoded (@ is %40)"
)


# A URL with a password in it.
_SECRET = frozenset({"REDIS_URL"})


class SettingsError(Exception):
    """A setting is wrong; the text is the line that the deployer reads."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. Durations are in seconds, sizes in bytes."""

    database_url: str
    redis_url: str | None
    trusted_proxies: int
    encryption_keys: tuple[str, ...]
    max_event_bytes: int
    max_batch_events: int
    max_batch_bytes: int
    max_batch_unpacked_bytes: int
    body_timeout: float
    statement_timeout: float
    connect_timeout: int
    database_pool: int
    allowed_private_targets: tuple[Network, ...]
    worker_concurrency: int
    heartbeat_timeout: float
    whatsapp_base_url: str
    twilio_base_url: str
    sendgrid_base_url: str | None
    log_level: str
    log_format: str


def from_environment(environment: Mapping[str, str] | None = None) -> Settings:
    """Read and check all settings; raises SettingsError."""
    env = os.environ if environment is None else environment
    return Settings(
        database_url=_database_url(env),
        redis_url=_one(env, "REDIS_URL", None, _redis_url),
        trusted_proxies=_one(env, "TRUSTED_PROXIES", 0, _whole(0, 10)),
        encryption_keys=_encryption_keys(env),
        max_event_bytes=_one(env, "MAX_EVENT_BYTES", 512 * 1024, _whole(1_024, 64 * 1024 * 1024)),
        max_batch_events=_one(env, "MAX_BATCH_EVENTS", 5_000, _whole(1, 100_000)),
        max_batch_bytes=_one(env, "MAX_BATCH_BYTES", 5 * 1024 * 1024, _whole(1_024, 64 * 1024 * 1024)),
        max_batch_unpacked_bytes=_one(
            env, "MAX_BATCH_UNPACKED_BYTES", 10 * 1024 * 1024, _whole(1_024, 256 * 1024 * 1024)
        ),
        body_timeout=body_timeout(env),
        statement_timeout=_one(env, "STATEMENT_TIMEOUT", 5.0, _seconds(0.1, 600)),
        connect_timeout=_one(env, "CONNECT_TIMEOUT", 3, _whole(1, 60)),
        database_pool=_one(env, "DATABASE_POOL", 10, _whole(1, 200)),
        allowed_private_targets=_one(env, "ALLOWED_PRIVATE_TARGETS", (), _networks),
        worker_concurrency=_one(env, "WORKER_CONCURRENCY", 50, _whole(2, 1_000)),
        heartbeat_timeout=_one(env, "HEARTBEAT_TIMEOUT", 15.0, _seconds(1, 3_600)),
        whatsapp_base_url=_one(env, "WHATSAPP_BASE_URL", "https://graph.facebook.com", _web_url),
        twilio_base_url=_one(env, "TWILIO_BASE_URL", "https://api.twilio.com", _web_url),
        sendgrid_base_url=_one(env, "SENDGRID_BASE_URL", None, _web_url),
        log_level=_one(env, "LOG_LEVEL", "info", _choice("debug", "info", "warning", "error")),
        log_format=_one(env, "LOG_FORMAT", "json", _choice("json", "text")),
    )


def body_timeout(environment: Mapping[str, str] | None = None) -> float:
    """BODY_TIMEOUT: seconds in which a request has to arrive; raises SettingsError. gunicorn's settings depend on it."""
    env = os.environ if environment is None else environment
    seconds: float = _one(env, "BODY_TIMEOUT", 20.0, _seconds(0.1, 600))
    return seconds


def _one(env: Mapping[str, str], name: str, default: Any, read: Callable[[str], Any]) -> Any:
    text = env.get(name, "").strip()
    if not text:
        return default
    try:
        return read(text)
    except ValueError as wrong:
        shown = f"={text!r}" if name not in _SECRET else ""
        raise SettingsError(f"{name}{shown} cannot be used: {wrong}") from None


def _whole(least: int, most: int) -> Callable[[str], int]:
    return _within(int, least, most, f"expected a whole number from {least} to {most}")


def _seconds(least: float, most: float) -> Callable[[str], float]:
    return _within(float, least, most, f"expected seconds, {least:g} to {most:g}")


def _within(kind: Callable[[str], N], least: N, most: N, expected: str) -> Callable[[str], N]:
    def read(text: str) -> N:
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(expected) from None
        if not least <= value <= most:
            raise ValueError(expected)
        return value

    return read


def _choice(*allowed: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}")
        return text.lower()

    return read


def _networks(text: str) -> tuple[Network, ...]:
    """`127.0.0.0/8, ::1, 10.1.2.3` as networks; a name is refused, since what counts is the address that is dialled."""
    found = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        try:
            found.append(ipaddress.ip_network(part, strict=False))
        except ValueError:
            raise ValueError(f"{part!r} is not an IP address or network such as 10.1.2.3 or 127.0.0.0/8") from None
    return tuple(found)


def _web_url(text: str) -> str:
    """Scheme, host and perhaps a path, without a slash at the end."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or "@" in text:
        raise ValueError("expected a URL such as https://api.example.com")
    return text.rstrip("/")


def _redis_url(text: str) -> str:
    if not text.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("expected a URL that begins with redis://, rediss:// or unix://")
    try:
        _ = urlsplit(text).port
    except ValueError:
        raise ValueError("expected a URL such as redis://host:6379/0") from None
    from redis import ConnectionPool

    # Checks the options in the URL; opens no connection.
    ConnectionPool.from_url(text)
    return text


def _database_url(env: Mapping[str, str]) -> str:
    """DATABASE_URL, or the socket of the embedded Postgres under .data/ when it is unset."""
    text = env.get("DATABASE_URL", "").strip()
    if not text:
        return embedded_database_url(DATA_DIRECTORY)
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.split("+")[0] not in ("postgres", "postgresql"):
        raise SettingsError(f"DATABASE_URL cannot be used: {_DATABASE_URL_SHAPE}")
    _check_database_url(url := f"postgresql://{rest}")
    return url


def _check_database_url(url: str) -> None:
    """SettingsError for what no server could be asked with; says what is wrong and repeats nothing that may be secret."""
    import psycopg2
    from psycopg2.extensions import parse_dsn

    try:
        parts = parse_dsn(url)
    except (psycopg2.Error, ValueError) as wrong:
        reason = str(wrong).strip().splitlines()[0].removeprefix("invalid dsn: ").partition(': "')[0]
        raise SettingsError(f"DATABASE_URL cannot be used: {reason}; {_DATABASE_URL_SHAPE}") from None
    for port in filter(None, parts.get("port", "").split(",")):
        if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65_536):
            raise SettingsError(f"DATABASE_URL cannot be used: the port has to be 1 to 65535; {_DATABASE_URL_SHAPE}")


def embedded_database_url(data_directory: Path) -> str:
    """The URL of the embedded Postgres whose data lie in `data_directory`; one that psql takes as well."""
    folder = quote(os.fsencode(embedded_socket_directory(data_directory)), safe="/")
    return f"postgresql://signalbox@/signalbox?host={folder}"


def embedded_socket_directory(data_directory: Path) -> Path:
    """Where the embedded Postgres puts its socket: beside the data, or, where that path is too long for a Unix
    socket (107 bytes), a folder in the temporary directory that is named after it."""
    import hashlib
    import tempfile

    beside = data_directory.absolute() / "socket"
    if len(os.fsencode(beside)) <= 85:
        return beside
    digest = hashlib.sha256(os.fsencode(beside)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"signalbox-{os.getuid()}-{digest}"


def _encryption_keys(env: Mapping[str, str]) -> tuple[str, ...]:
    """ENCRYPTION_KEY: Fernet keys, comma-separated; the first encrypts, all decrypt. Unset: .data/encryption.key."""
    from cryptography.fernet import Fernet

    text, name = env.get("ENCRYPTION_KEY", "").strip(), "ENCRYPTION_KEY"
    advice = "make one with `ENCRYPTION_KEY= flask make-encryption-key`"
    kept = DATA_DIRECTORY / "encryption.key"
    if not text and kept.is_file():
        name, advice = str(kept), "put the right one back; without it secrets in the database are lost"
        try:
            text = kept.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            text = "-"
    keys = tuple(filter(None, (part.strip() for part in text.split(","))))
    for key in keys:
        try:
            Fernet(key)
        except ValueError:
            raise SettingsError(
                f"{name} cannot be used: expected 32 random bytes in URL-safe base64; {advice}"
            ) from None
    return keys
