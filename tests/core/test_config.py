"""An invalid setting is reported in one line without secrets, by commands, gunicorn and `make run`."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.core.config import SettingsError, from_environment
from tests.support.command_lines import SIGNALBOX
from tests.support.server import clean_environment

ROOT = Path(__file__).resolve().parents[2]
CLI = (*SIGNALBOX, "account", "list")
GUNICORN = (sys.executable, "-m", "gunicorn", "-c", str(ROOT / "deploy" / "gunicorn.conf.py"), "--chdir", str(ROOT))
UP = (sys.executable, "-m", "app.cli.devserver.up")
INVALID = [
    ({"DATABASE_URL": "mysql://a:hush@h/d"}, "DATABASE_URL cannot be used: expected a URL such as"),
    ({"DATABASE_URL": "postgresql://a:hush@[::1/d"}, "DATABASE_URL cannot be used: end of string reached when"),
    ({"DATABASE_URL": "postgresql://a:%hush@h/d"}, "DATABASE_URL cannot be used: invalid percent-encoded token;"),
    ({"DATABASE_URL": "postgresql://a:hush@h/d?speed=9"}, "DATABASE_URL cannot be used: invalid URI query parameter;"),
    ({"DATABASE_URL": "postgresql://a:hush@h:70000/d"}, "DATABASE_URL cannot be used: the port must be 1 to 65535;"),
    ({"DATABASE_URL": "postgresql://a:hush@h:1,g:x/d"}, "DATABASE_URL cannot be used: the port must be 1 to 65535;"),
    ({"ENCRYPTION_KEY": "hush"}, "ENCRYPTION_KEY cannot be used: expected 32 random bytes in URL-safe base64;"),
    ({"ENCRYPTION_KEY": "hüsh"}, "ENCRYPTION_KEY cannot be used: expected 32 random bytes in URL-safe base64;"),
    ({"REDIS_URL": "redis://:hush@[/0"}, "REDIS_URL cannot be used: expected a URL such as"),
    ({"REDIS_URL": "redis://:hush@h:x/0"}, "REDIS_URL cannot be used: expected a URL such as"),
]


@pytest.mark.parametrize(("settings", "message"), INVALID)
def test_an_invalid_setting_is_reported_without_secrets(settings: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        from_environment(settings)
    assert str(caught.value).startswith(message)
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_invalid_key_file_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / ".data" / "encryption.key"
    kept.parent.mkdir()
    for text in (b"hush", b"\xff"):
        kept.write_bytes(text)
        with pytest.raises(SettingsError, match=r"^\.data/encryption\.key cannot be used: expected 32 random bytes"):
            from_environment({})


@pytest.mark.parametrize(
    ("program", "settings", "message"),
    [
        (CLI, *INVALID[1]),
        (CLI, *INVALID[6]),
        (CLI, {"REDIS_URL": "redis://h/?socket_timeout=x"}, "REDIS_URL cannot be used: Invalid value for"),
        ((*GUNICORN, "wsgi:app"), *INVALID[1]),
        ((*GUNICORN, "wsgi:app"), *INVALID[6]),
        (UP, *INVALID[1]),
        (UP, *INVALID[6]),
    ],
)
def test_a_program_with_an_invalid_setting_ends_with_one_line(
    program: tuple[str, ...], settings: dict[str, str], message: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trial:
        port = trial.getsockname()[1]
    environment = clean_environment(PYTHONPATH=str(ROOT), BIND=f"127.0.0.1:{port}", **settings)
    done = subprocess.run(
        program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1 if program in (CLI, UP) else 3, "")
    start = "signalbox" if program == UP else "Error"
    assert done.stderr.startswith(f"{start}: {message}")
    assert done.stderr.count("\n") == 1


def test_gunicorn_with_its_own_settings_exits_too() -> None:
    command = (sys.executable, "-m", "gunicorn", "-c", "python:string", "-b", "127.0.0.1:0", "--log-level", "error")
    command += ("--no-control-socket", "wsgi:app")
    environment = clean_environment(ENCRYPTION_KEY="hush")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("Error: ENCRYPTION_KEY cannot be used")
    assert "Traceback" not in done.stderr
