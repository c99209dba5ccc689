"""`signalbox audit list`: who changed what."""

from __future__ import annotations

import json
import os
import pwd

import pytest
from flask import Flask

from app.cli.base import user_name
from app.core.models import SIGNALBOX
from app.services import workflows
from app.services.context import AppContext
from tests.cli.conftest import CommandLine
from tests.support.builders import Sender, a_workflow


def _lines(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


@pytest.fixture
def watched(context: AppContext, acme: Sender, signalbox: CommandLine, monkeypatch: pytest.MonkeyPatch) -> Sender:
    """The account with a workflow that bob has disabled."""
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    monkeypatch.setenv("SIGNALBOX_ACTOR", "bob")
    assert signalbox("workflow", "disable", "watch", "--account", acme.slug).exit_code == 0
    return acme


def test_one_command_says_who_disabled_a_workflow(watched: Sender, signalbox: CommandLine) -> None:
    (cells,) = _lines(
        signalbox("audit", "list", watched.slug, "--action", "workflow.disable", "--object", "watch").stdout
    )
    assert cells[1:] == [watched.slug, "bob", "cli", "workflow.disable", "watch", "enabled_version: 1 → null"]


def test_the_newest_change_comes_first(watched: Sender, signalbox: CommandLine) -> None:
    actions = [cells[4] for cells in _lines(signalbox("audit", "list", watched.slug).stdout)]
    assert actions == ["workflow.disable", "workflow.create", "key.create", "account.create"]


@pytest.mark.parametrize(
    ("options", "actions"),
    [
        (["--actor", "bob"], ["workflow.disable"]),
        (["--actor", "nobody"], []),
        (["--action", "workflow"], ["workflow.disable", "workflow.create"]),
        (["--action", "key.create"], ["key.create"]),
        (["--object", "watch", "--actor", "signalbox"], ["workflow.create"]),
        (["--since", "2100-01-01"], []),
        (["--since", "1h", "--limit", "1"], ["workflow.disable"]),
    ],
)
def test_filters_apply_together(
    options: list[str], actions: list[str], watched: Sender, signalbox: CommandLine
) -> None:
    assert [cells[4] for cells in _lines(signalbox("audit", "list", watched.slug, *options).stdout)] == actions


def test_the_list_of_all_accounts_has_changes_of_none(watched: Sender, signalbox: CommandLine) -> None:
    signalbox("integration", "rotate")
    (cells,) = _lines(signalbox("audit", "list", "--action", "integration.rotate", "--limit", "1").stdout)
    assert (cells[1], cells[2], cells[5]) == ("-", "bob", "-")


def test_an_entry_as_json_has_all_its_members(watched: Sender, signalbox: CommandLine) -> None:
    entry = json.loads(signalbox("audit", "list", watched.slug, "--limit", "1", "--json").stdout)
    assert list(entry) == [
        "id", "at", "account_id", "account", "actor", "via", "action", "object_type", "object_id", "before", "after",
        "request_id",
    ]  # fmt: skip
    assert (entry["before"], entry["after"], entry["request_id"]) == (
        {"enabled_version": 1}, {"enabled_version": None}, None
    )  # fmt: skip


def test_the_actor_is_the_user_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SIGNALBOX_ACTOR", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    assert user_name() == pwd.getpwuid(os.getuid()).pw_name
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    assert user_name() == "uid 4000000000"


def test_the_actor_is_the_user_who_called_sudo_or_the_one_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIGNALBOX_ACTOR", raising=False)
    monkeypatch.setenv("SUDO_USER", "carol")
    assert user_name() == "carol"
    monkeypatch.setenv("SIGNALBOX_ACTOR", "deploy of 1a2b3c" + "x" * 200)
    assert user_name() == ("deploy of 1a2b3c" + "x" * 200)[:100]


def test_what_a_worker_changes_is_not_in_the_name_of_who_has_started_it(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    actors = []

    async def work(context: AppContext, *_: object) -> None:
        actors.append(context.actor)

    monkeypatch.setattr("app.worker.main.work", work)
    assert app.test_cli_runner().invoke(args=["worker"]).exit_code == 0
    assert actors == [SIGNALBOX]
