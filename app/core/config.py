"""Settings, read from environment variables and checked at start."""

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


# Values that may contain a password.
_SECRET = frozenset({"REDIS_URL"})


class SettingsError(Exception):
    """A setting is invalid. The text names the variable and what is expected; it contains no secret."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. Durations are in seconds, sizes in bytes."""

    database_url: str
    redis_url: str | None
    trusted_proxies: int | None
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
    worker_metrics_host: str
    worker_metrics_port: int | None
    heartbeat_timeout: float
    whatsapp_base_url: str
    twilio_base_url: str
    sendgrid_base_url: str | None
    log_level: str
    log_format: str
    access_log: bool
    operator_networks: tuple[Network, ...]


def from_environment(environment: Mapping[str, str] | None = None) -> Settings:
    """Read and check all settings. Raises SettingsError."""
    env = os.environ if environment is None else environment
    check_metrics_folder(env)
    return Settings(
        database_url=_database_url(env),
        redis_url=_read(env, "REDIS_URL", None, _redis_url),
        trusted_proxies=_read(env, "TRUSTED_PROXIES", None, _whole(0, 10)),
        encryption_keys=_encryption_keys(env),
        max_event_bytes=_read(env, "MAX_EVENT_BYTES", 512 * 1024, _whole(1_024, 64 * 1024 * 1024)),
        max_batch_events=_read(env, "MAX_BATCH_EVENTS", 5_000, _whole(1, 100_000)),
        max_batch_bytes=_read(env, "MAX_BATCH_BYTES", 5 * 1024 * 1024, _whole(1_024, 64 * 1024 * 1024)),
        max_batch_unpacked_bytes=_read(
            env, "MAX_BATCH_UNPACKED_BYTES", 10 * 1024 * 1024, _whole(1_024, 256 * 1024 * 1024)
        ),
        body_timeout=body_timeout(env),
        statement_timeout=_read(env, "STATEMENT_TIMEOUT", 5.0, _seconds(0.1, 600)),
        connect_timeout=_read(env, "CONNECT_TIMEOUT", 3, _whole(1, 60)),
        database_pool=_read(env, "DATABASE_POOL", 10, _whole(1, 200)),
        allowed_private_targets=_read(env, "ALLOWED_PRIVATE_TARGETS", (), _networks),
        worker_concurrency=_read(env, "WORKER_CONCURRENCY", 50, _whole(2, 1_000)),
        worker_metrics_host=_read(env, "WORKER_METRICS_HOST", "127.0.0.1", str),
        worker_metrics_port=_read(env, "WORKER_METRICS_PORT", None, _whole(1, 65_535)),
        heartbeat_timeout=_read(env, "HEARTBEAT_TIMEOUT", 15.0, _seconds(1, 3_600)),
        whatsapp_base_url=_read(env, "WHATSAPP_BASE_URL", "https://graph.facebook.com", _web_url),
        twilio_base_url=_read(env, "TWILIO_BASE_URL", "https://api.twilio.com", _web_url),
        sendgrid_base_url=_read(env, "SENDGRID_BASE_URL", None, _web_url),
        log_level=_read(env, "LOG_LEVEL", "info", _choice("debug", "info", "warning", "error")),
        log_format=log_format(env),
        access_log=_read(env, "ACCESS_LOG", False, _switch),
        operator_networks=_read(env, "OPERATOR_NETWORKS", (), _networks),
    )


def body_timeout(environment: Mapping[str, str] | None = None) -> float:
    """BODY_TIMEOUT: seconds in which a request has to arrive; raises SettingsError. gunicorn's settings depend on it."""
    env = os.environ if environment is None else environment
    seconds: float = _read(env, "BODY_TIMEOUT", 20.0, _seconds(0.1, 600))
    return seconds


def log_format(environment: Mapping[str, str] | None = None) -> str:
    """LOG_FORMAT: json or text; raises SettingsError. gunicorn's log has it, too."""
    env = os.environ if environment is None else environment
    found: str = _read(env, "LOG_FORMAT", "json", _choice("json", "text"))
    return found


def check_metrics_folder(environment: Mapping[str, str] | None = None) -> None:
    """Raises SettingsError unless PROMETHEUS_MULTIPROC_DIR is unset or a folder for files of this process."""
    _read(os.environ if environment is None else environment, "PROMETHEUS_MULTIPROC_DIR", None, _writable_folder)


def _writable_folder(text: str) -> str:
    if not os.path.isdir(text) or not os.access(text, os.W_OK | os.X_OK):
        raise ValueError("expected a folder that exists and that this process may write to")
    return text


def _read(env: Mapping[str, str], name: str, default: Any, read: Callable[[str], Any]) -> Any:
    text = env.get(name, "").strip()
    if not text:
        return default
    try:
        return read(text)
    except ValueError as exc:
        shown = f"={text!r}" if name not in _SECRET else ""
        raise SettingsError(f"{name}{shown} cannot be used: {exc}") from None


def _whole(minimum: int, maximum: int) -> Callable[[str], int]:
    return _within(int, minimum, maximum, f"expected a whole number from {minimum} to {maximum}")


def _seconds(minimum: float, maximum: float) -> Callable[[str], float]:
    return _within(float, minimum, maximum, f"expected seconds, {minimum:g} to {maximum:g}")


def _within(kind: Callable[[str], N], minimum: N, maximum: N, expected: str) -> Callable[[str], N]:
    def read(text: str) -> N:
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(expected) from None
        if not minimum <= value <= maximum:
            raise ValueError(expected)
        return value

    return read


def _choice(*allowed: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}")
        return text.lower()

    return read


def _switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("expected 0 or 1")
    return text == "1"


def _networks(text: str) -> tuple[Network, ...]:
    """`127.0.0.0/8, ::1, 10.1.2.3` as networks. Host names are refused: the check is on the address of the connection."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(ipaddress.ip_network(part, strict=False))
        except ValueError:
            raise ValueError(f"{part!r} is not an IP address or network such as 10.1.2.3 or 127.0.0.0/8") from None
    return tuple(found)


def _web_url(text: str) -> str:
    """A URL with scheme, host and an optional path, without a trailing slash."""
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
    """DATABASE_URL, or the socket of the embedded Postgres in .data/ when it is unset."""
    text = env.get("DATABASE_URL", "").strip()
    if not text:
        return embedded_database_url(DATA_DIRECTORY)
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.split("+")[0] not in ("postgres", "postgresql"):
        raise SettingsError(f"DATABASE_URL cannot be used: {_DATABASE_URL_SHAPE}")
    _check_database_url(url := f"postgresql://{rest}")
    return url


def _check_database_url(url: str) -> None:
    """Raises SettingsError for an invalid URL. The message repeats nothing that may be secret."""
    import psycopg2
    from psycopg2.extensions import parse_dsn

    try:
        parts = parse_dsn(url)
    except (psycopg2.Error, ValueError) as exc:
        reason = str(exc).strip().splitlines()[0].removeprefix("invalid dsn: ").partition(': "')[0]
        raise SettingsError(f"DATABASE_URL cannot be used: {reason}; {_DATABASE_URL_SHAPE}") from None
    for port in filter(None, parts.get("port", "").split(",")):
        if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65_536):
            raise SettingsError(f"DATABASE_URL cannot be used: the port must be 1 to 65535; {_DATABASE_URL_SHAPE}")


def embedded_database_url(data_directory: Path) -> str:
    """The URL of the embedded Postgres with its data in `data_directory`. psql accepts it."""
    folder = quote(os.fsencode(embedded_socket_directory(data_directory)), safe="/")
    return f"postgresql://signalbox@/signalbox?host={folder}"


def embedded_socket_directory(data_directory: Path) -> Path:
    """The folder of the embedded Postgres' socket: in the data directory, or, when that path is too long for a Unix socket
    (107 bytes), in the temporary directory."""
    import hashlib
    import tempfile

    folder = data_directory.absolute() / "socket"
    if len(os.fsencode(folder)) <= 85:
        return folder
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"signalbox-{os.getuid()}-{digest}"


def _encryption_keys(env: Mapping[str, str]) -> tuple[str, ...]:
    """The Fernet keys of ENCRYPTION_KEY, comma-separated, or of .data/encryption.key. The first encrypts, all decrypt."""
    from cryptography.fernet import Fernet

    text, name = env.get("ENCRYPTION_KEY", "").strip(), "ENCRYPTION_KEY"
    advice = "create one with `signalbox make-encryption-key`"
    key_file = DATA_DIRECTORY / "encryption.key"
    if not text and key_file.is_file():
        name, advice = str(key_file), "restore the original file; without it secrets in the database are lost"
        try:
            text = key_file.read_text("utf-8").strip()
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
