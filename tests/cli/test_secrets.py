"""`signalbox secret …`: values come from standard input and are never printed."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest
from flask import Flask

from app.services import integrations, secrets, workflows
from app.services.context import AppContext
from tests.cli.conftest import CommandLine
from tests.support.builders import Sender, a_workflow
from tests.support.command_lines import SIGNALBOX

VALUE = "canary-shpss-91c0ffee"
CALLS_SHOP = [{"http": {"url": "https://shop.example/", "headers": {"Authorization": "Bearer {{ secrets.SHOPIFY }}"}}}]


def value_of(context: AppContext, sender: Sender, name: str) -> str | None:
    return integrations.open_secret(context, integrations.find_outbound_config(context, sender.account_id), name)


@pytest.mark.parametrize("typed", [VALUE, f"{VALUE}\n", f"{VALUE}\r\n", f"\ufeff{VALUE}\n"])
def test_the_value_is_standard_input_without_its_line_break(
    typed: str, signalbox: CommandLine, context: AppContext, acme: Sender
) -> None:
    done = signalbox("secret", "set", "SHOPIFY", "--account", acme.slug, typed=typed)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"{acme.slug}: SHOPIFY is set; all processes use it within seconds\n"
    assert value_of(context, acme, "SHOPIFY") == VALUE


def test_a_second_value_replaces_the_first(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    signalbox("secret", "set", "SHOPIFY", "--account", acme.slug, typed=VALUE)
    done = signalbox("secret", "set", "SHOPIFY", "--account", acme.slug, typed="another value")
    assert done.stdout == f"{acme.slug}: SHOPIFY is changed; all processes use it within seconds\n"
    assert value_of(context, acme, "SHOPIFY") == "another value"


@pytest.mark.parametrize(
    ("name", "typed", "message"),
    [
        ("shopify", VALUE, "'shopify' is not a name of a secret"),
        ("SHOPIFY", "", "the value must have at least 8 characters"),
        ("SHOPIFY", f" {VALUE}", "the value must not begin or end with spaces or line breaks"),
        ("SHOPIFY", f"{VALUE}\n\n", "the value must not begin or end with spaces or line breaks"),
        ("SHOPIFY", "x" * 4_097, "the value has 4,097 bytes; 4,096 are allowed"),
        ("SHOPIFY", "x" * 100_000, "the value is too long; 4,096 bytes are allowed"),
    ],
)
def test_a_wrong_secret_is_refused(
    name: str, typed: str, message: str, signalbox: CommandLine, context: AppContext, acme: Sender
) -> None:
    done = signalbox("secret", "set", name, "--account", acme.slug, typed=typed)
    assert done.exit_code == 1
    assert message in done.stderr
    assert VALUE not in done.output
    assert secrets.list_secrets(context, acme.account_id) == []


def test_a_value_that_is_not_utf_8_is_refused(app: Flask, acme: Sender) -> None:
    words = ["secret", "set", "SHOPIFY", "--account", acme.slug]
    done = app.test_cli_runner().invoke(args=words, input=b"\xff\xfe12345678")
    assert done.exit_code == 1
    assert "the value is not UTF-8" in done.stderr


def test_on_a_terminal_the_value_is_prompted_for_and_not_shown(
    context: AppContext, acme: Sender, database_url: str, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "DATABASE_URL": database_url, "ENCRYPTION_KEY": context.settings.encryption_keys[0]}
    with subprocess.Popen(
        [*SIGNALBOX, "secret", "set", "SHOPIFY", "--account", acme.slug],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        shown = os.read(ours, 1024)
        os.write(ours, VALUE.encode() + b"\n")
        while b"is set" not in shown:
            shown += os.read(ours, 1024)
        assert process.wait() == 0
    os.close(ours)
    assert shown.startswith(b"SHOPIFY: ")
    assert VALUE.encode() not in shown
    assert value_of(context, acme, "SHOPIFY") == VALUE


def test_a_list_has_names_times_and_users_and_no_values(
    signalbox: CommandLine, context: AppContext, acme: Sender
) -> None:
    for name in ("SPARE", "SHOPIFY"):
        secrets.set_secret(context, acme.account_id, name, VALUE)
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=CALLS_SHOP))
    done = signalbox("secret", "list", "--account", acme.slug)
    first, second = done.stdout.splitlines()
    assert first.startswith("SHOPIFY\tset 20") and first.endswith("\tworkflow watch")
    assert second.startswith("SPARE\tset 20") and second.endswith("\tnot used")
    assert VALUE not in done.output
    lines = signalbox("secret", "list", "--account", acme.slug, "--json").stdout.splitlines()
    assert [(one["name"], one["used_by"]) for one in map(json.loads, lines)] == [
        ("SHOPIFY", ["workflow watch"]),
        ("SPARE", []),
    ]


def test_apply_says_where_an_unknown_secret_is_named(
    signalbox: CommandLine, context: AppContext, acme: Sender, tmp_path: Path
) -> None:
    file = tmp_path / "watch.yaml"
    file.write_text(
        "name: watch\non: product_view\nsteps:\n"
        "  - http: {url: https://shop.example/, headers: {Authorization: 'Bearer {{ secrets.SHOPIFY }}'}}\n"
    )
    assert signalbox("workflow", "check", file).exit_code == 0
    refused = signalbox("workflow", "apply", file, "--account", acme.slug)
    assert refused.exit_code == 1
    assert f"{file}:4:65: steps[0].http.headers.Authorization: the account has no secret SHOPIFY\n" in refused.stderr
    secrets.set_secret(context, acme.account_id, "SHOPIFY", VALUE)
    assert signalbox("workflow", "apply", file, "--account", acme.slug).exit_code == 0
    events = tmp_path / "events.ndjson"
    events.write_text(
        json.dumps({"event": "product_view", "distinct_id": "1", "received_at": "2026-11-22T10:00:00Z", "data": {}})
    )
    simulated = signalbox("workflow", "simulate", file, events)
    assert simulated.exit_code == 0
    assert "starts a run" in simulated.stdout
    assert VALUE not in simulated.output


def test_a_secret_that_is_used_is_removed_by_force_only(
    signalbox: CommandLine, context: AppContext, acme: Sender
) -> None:
    secrets.set_secret(context, acme.account_id, "SHOPIFY", VALUE)
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=CALLS_SHOP))
    refused = signalbox("secret", "remove", "SHOPIFY", "--account", acme.slug)
    assert refused.exit_code == 1
    assert refused.stderr == "Error: SHOPIFY is used by workflow watch; --force removes it nevertheless\n"
    assert value_of(context, acme, "SHOPIFY") == VALUE
    done = signalbox("secret", "remove", "SHOPIFY", "--force", "--account", acme.slug)
    assert done.stdout == f"{acme.slug}: SHOPIFY is removed; it was used by workflow watch\n"
    assert value_of(context, acme, "SHOPIFY") is None


def test_an_unknown_secret_cannot_be_removed(signalbox: CommandLine, acme: Sender) -> None:
    done = signalbox("secret", "remove", "SHOPIFY", "--account", acme.slug)
    assert done.exit_code == 1
    assert "the account has no secret 'SHOPIFY'" in done.stderr
