"""`signalbox integration …` and `signalbox target …`: no secret is printed, and missing fields are prompted for."""

from __future__ import annotations

import os
import pty
import subprocess
import time
from pathlib import Path
from uuid import uuid4

import pytest

from app.services import integrations
from app.services.context import AppContext
from tests.cli.conftest import CommandLine
from tests.support.builders import Sender
from tests.support.command_lines import SIGNALBOX
from tests.support.providers import AUTH_TOKEN, SID, TOKEN, TWILIO, WHATSAPP


def lines_of(fields: dict[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in fields.items())


def opened(context: AppContext, sender: Sender, kind: str) -> dict[str, str] | None:
    return integrations.open_integration(context, integrations.find_outbound_config(context, sender.account_id), kind)


def test_fields_are_read_from_standard_input(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    done = signalbox("integration", "set", "whatsapp", "--from-stdin", "--account", acme.slug, typed=lines_of(WHATSAPP))
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{acme.slug}: whatsapp is set up; workers notice within seconds\n"
    assert done.stderr == ""
    assert opened(context, acme, "whatsapp") == WHATSAPP


def test_a_value_may_come_from_a_file(
    signalbox: CommandLine, context: AppContext, acme: Sender, tmp_path: Path
) -> None:
    file = tmp_path / "token.txt"
    file.write_text(TOKEN + "\n")
    done = signalbox(
        *("integration", "set", "whatsapp", f"access_token=@{file}", "phone_number_id=106540352242922"),
        *("--account", acme.slug),
    )
    assert (done.exit_code, done.stderr) == (0, "")
    assert opened(context, acme, "whatsapp") == WHATSAPP


def test_a_secret_on_the_command_line_is_taken_with_a_warning(
    signalbox: CommandLine, context: AppContext, acme: Sender
) -> None:
    values = [f"{name}={value}" for name, value in TWILIO.items()]
    done = signalbox("integration", "set", "twilio", *values, "--account", acme.slug)
    assert done.exit_code == 0
    assert "auth_token is a secret and is now in the shell's history" in done.stderr
    assert AUTH_TOKEN not in done.output
    assert opened(context, acme, "twilio") == TWILIO


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("set", "whatsapp"), "access_token is required"),
        (("set", "whatsapp", "access_token=@/nowhere"), "/nowhere cannot be read"),
        (("remove", "smtp"), "has no smtp integration"),
    ],
)
def test_an_error_is_one_line(signalbox: CommandLine, acme: Sender, arguments: tuple[str, ...], message: str) -> None:
    done = signalbox("integration", *arguments, "--account", acme.slug)
    assert done.exit_code == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("set", "carrier-pigeon"), "'carrier-pigeon' is not one of 'whatsapp', 'twilio', 'sendgrid', 'smtp'."),
        (("set", "whatsapp", "access_token"), "expected NAME=VALUE, found a part without ="),
    ],
)
def test_an_invalid_argument_is_reported_with_the_usage(
    signalbox: CommandLine, acme: Sender, arguments: tuple[str, ...], message: str
) -> None:
    done = signalbox("integration", *arguments, "--account", acme.slug)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.endswith(f"{message}\n")


def test_the_list_shows_no_secret(signalbox: CommandLine, acme: Sender) -> None:
    signalbox("integration", "set", "twilio", "--from-stdin", "--account", acme.slug, typed=lines_of(TWILIO))
    done = signalbox("integration", "list", "--account", acme.slug)
    assert done.output.startswith("twilio\tset 20")
    assert done.output.endswith(f"\taccount_sid={SID} auth_token=*** from=+15017122661\n")


def test_a_removed_integration_is_not_listed(signalbox: CommandLine, acme: Sender) -> None:
    signalbox("integration", "set", "twilio", "--from-stdin", "--account", acme.slug, typed=lines_of(TWILIO))
    assert signalbox("integration", "remove", "twilio", "--account", acme.slug).exit_code == 0
    assert signalbox("integration", "list", "--account", acme.slug).output == ""


def test_rotate_reports_the_number_of_secrets(signalbox: CommandLine, acme: Sender) -> None:
    done = signalbox("integration", "rotate")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.output.endswith(" secrets are encrypted with the first key\n")


def test_a_terminal_is_prompted_for_missing_fields(context: AppContext, acme: Sender) -> None:
    ours, theirs = pty.openpty()
    environment = {
        **os.environ,
        "DATABASE_URL": context.settings.database_url,
        "ENCRYPTION_KEY": ",".join(context.settings.encryption_keys),
        "LOG_LEVEL": "error",
    }
    command = [*SIGNALBOX, "integration", "set", "whatsapp"]
    program = subprocess.Popen(
        [*command, "--account", acme.slug],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        cwd=Path(__file__).resolve().parents[2],
        start_new_session=True,
    )
    os.close(theirs)
    output = _until(ours, b"access_token")
    os.write(ours, TOKEN.encode() + b"\n")
    output += _until(ours, b"phone_number_id")
    os.write(ours, b"106540352242922\n")
    output += _until(ours, b"api_version")
    os.write(ours, b"\n")
    output += _until(ours, b"is set up")
    assert program.wait(20) == 0
    os.close(ours)
    assert TOKEN.encode() not in output
    assert opened(context, acme, "whatsapp") == WHATSAPP


def _until(terminal: int, text: bytes) -> bytes:
    seen = b""
    deadline = time.monotonic() + 30
    while text not in seen:
        assert time.monotonic() < deadline, seen
        seen += os.read(terminal, 4_096)
    # The terminal turns its echo off shortly after it has printed the prompt.
    time.sleep(0.2)
    return seen


def test_a_disabled_target_is_listed_and_enabled(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    target, found_by = "https://example.com/hook", uuid4()
    integrations.disable_target(context, acme.account_id, target, "answered 410: the target is gone for good", found_by)
    listed = signalbox("target", "list", "--account", acme.slug).output
    assert listed.endswith(f"\t{target}\tanswered 410: the target is gone for good\trun {found_by}\n")
    assert signalbox("target", "enable", target, "--account", acme.slug).exit_code == 0
    assert signalbox("target", "list", "--account", acme.slug).output == ""
    again = signalbox("target", "enable", target, "--account", acme.slug)
    assert again.exit_code == 1
    assert "is not disabled" in again.stderr
