"""What `make run` checks before it starts anything."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from app.cli.devserver.child_process import StartError
from app.cli.devserver.preflight import (
    Address,
    check_port,
    check_web_concurrency,
    exclusive_lock,
    listening_address,
    make_encryption_key,
    without_password,
)


@pytest.mark.parametrize(
    ("env", "address"),
    [
        ({}, Address("127.0.0.1", 8000)),
        ({"PORT": "9000"}, Address("127.0.0.1", 9000)),
        ({"PORT": " ", "BIND": ""}, Address("127.0.0.1", 8000)),
        ({"BIND": "0.0.0.0", "PORT": "9000"}, Address("0.0.0.0", 9000)),
        ({"BIND": "0.0.0.0:81", "PORT": "9000"}, Address("0.0.0.0", 81)),
        ({"BIND": ":81"}, Address("0.0.0.0", 81)),
        ({"BIND": "[::1]:81"}, Address("::1", 81)),
        ({"BIND": "[::]"}, Address("::", 8000)),
        ({"BIND": "localhost"}, Address("localhost", 8000)),
    ],
)
def test_the_address_comes_from_bind_and_port(env: dict[str, str], address: Address) -> None:
    assert listening_address(env) == address


@pytest.mark.parametrize(
    "env", [{"PORT": "0"}, {"PORT": "65536"}, {"PORT": "x"}, {"PORT": "١"}, {"BIND": "unix:/x"}, {"BIND": "a:"}]
)
def test_an_invalid_address_is_refused(env: dict[str, str]) -> None:
    with pytest.raises(StartError, match="cannot be used"):
        listening_address(env)


@pytest.mark.parametrize("text", ["1.5", "0", "-1", "x", ""])
def test_an_invalid_number_of_web_processes_is_refused(text: str) -> None:
    with pytest.raises(StartError, match=r"WEB_CONCURRENCY='.*' cannot be used: expected a whole number above 0"):
        check_web_concurrency({"WEB_CONCURRENCY": text})
    check_web_concurrency({"WEB_CONCURRENCY": "2"})


def test_listening_everywhere_is_reached_at_loopback() -> None:
    assert Address("0.0.0.0", 81).url() == "http://127.0.0.1:81"
    assert Address("::", 81).url() == "http://[::1]:81"


def test_a_port_in_use_is_named_with_a_suggestion() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartError, match=f"port {port} is in use .* make run PORT="):
            check_port(Address("127.0.0.1", port))
    check_port(Address("127.0.0.1", port))


def test_one_folder_has_one_run(tmp_path: Path) -> None:
    refusal = pytest.raises(StartError, match=rf"already running in this folder \(process {os.getpid()}\)")
    with exclusive_lock(tmp_path / "lock"), refusal, exclusive_lock(tmp_path / "lock"):
        pass
    with exclusive_lock(tmp_path / "lock"):
        pass


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://a@h/d", "postgresql://a@h/d"),
        ("postgresql://a:s@h/d", "postgresql://a@h/d"),
        ("postgresql://a:s@t/u:v@h:1/d?x=1", "postgresql://a@h:1/d?x=1"),
        ("postgresql:///d?user=a&password=s", "postgresql:///d?user=a"),
        ("postgresql:///d?password=s&user=a&sslpassword=s", "postgresql:///d?user=a"),
        ("postgresql://a@/d?host=/x%20y", "postgresql://a@/d?host=/x%20y"),
    ],
)
def test_a_url_is_shown_without_its_passwords(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_the_encryption_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "encryption.key"
    make_encryption_key(file)
    key = file.read_text().strip()
    Fernet(key)
    assert file.stat().st_mode & 0o777 == 0o600
    make_encryption_key(file)
    assert file.read_text().strip() == key
    assert list(tmp_path.iterdir()) == [file]
