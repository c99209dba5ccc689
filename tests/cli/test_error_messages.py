"""An invalid command line prints the usage and one line with the error, and exits with code 2."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from flask import Flask

from app.services.context import AppContext
from app.services.partitions import make_partitions
from tests.cli.conftest import CommandLine
from tests.support.builders import Sender, an_event
from tests.support.command_lines import every_command


def test_an_unknown_option_is_reported_with_the_usage(app: Flask, signalbox: CommandLine) -> None:
    every = list(every_command(app.cli))
    assert len(every) > 30
    for words in every:
        result = signalbox(*words, "--nonsense")
        assert (result.exit_code, result.stdout) == (2, ""), words
        first, *_, last = result.stderr.splitlines()
        assert first.startswith("Usage: "), words
        assert last.startswith("Error: No such option"), words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["account", "create", "a", "--plan", "gold"], "Error: Invalid value for '--plan': 'gold' is not one of"),
        (["account", "plan", "acme"], "Error: Missing argument '{trial|standard|unlimited}'"),
        (["run", "list", "--since", "soon"], "Error: Invalid value for --since: 'soon' is neither a duration"),
        (["event", "list", "--until", "soon"], "Error: Invalid value for --until: 'soon' is neither a duration"),
        (["event", "show", "7"], "Error: Invalid value for 'ID': '7' is not a valid UUID."),
        (["key", "create", "ACME", "--expires-in", "soon"], "Error: Invalid value for --expires-in: 'soon' is not"),
        (["key", "create", "ACME", "--scopes", "all"], "Error: Invalid value for --scopes: expected events:write"),
        (["workflow", "backtest", __file__], "Error: Missing option '--since'."),
        (["run", "cancel"], "Error: expected at least one ID"),
    ],
)
def test_an_invalid_value_is_reported_with_the_usage(
    signalbox: CommandLine, acme: Sender, words: list[str], message: str
) -> None:
    result = signalbox(*(acme.slug if word == "ACME" else word for word in words))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: ")
    assert f"\n{message}" in result.stderr


def test_a_command_in_a_message_has_the_account(signalbox: CommandLine, acme: Sender, globex: Sender) -> None:
    for words in (["workflow", "show", "nix"], ["run", "list", "--workflow", "nix"]):
        result = signalbox(*words, "--account", acme.slug)
        hint = f"`signalbox workflow list --account {acme.slug}`"
        assert (result.exit_code, result.stderr) == (1, f"Error: there is no workflow 'nix'; {hint} shows all\n")
    assert signalbox("workflow", "list", "--account", acme.slug).exit_code == 0


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("n\n", "nothing was changed"),
        ("", "nothing was changed: there is no answer; --yes confirms without a question"),
    ],
)
def test_a_question_that_is_not_answered_with_yes_changes_nothing(
    signalbox: CommandLine, acme: Sender, typed: str, reason: str
) -> None:
    acme.post(an_event())
    result = signalbox("subject", "erase", acme.slug, "915673412780", typed=typed)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith(f"\nError: {reason}\n")
    assert signalbox("event", "list", "--account", acme.slug).stdout.count("\n") == 1


def test_the_question_of_drop_partition_names_yes_when_there_is_no_answer(
    signalbox: CommandLine, context: AppContext
) -> None:
    make_partitions(context, [datetime(2001, 1, 1, tzinfo=UTC)])
    result = signalbox("drop-partition", "events_2001_01", typed="")
    reason = "nothing was changed: there is no answer; --yes confirms without a question"
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith(f"\nError: {reason}\n")


def test_drop_partition_asks_nothing_about_a_partition_that_cannot_be_dropped(signalbox: CommandLine) -> None:
    result = signalbox("drop-partition", "events_1999_01", typed="")
    error = "Error: events has no partition 'events_1999_01' that can be dropped\n"
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", error)


@pytest.mark.parametrize("list_", ["account", "event", "run", "target"])
def test_an_invalid_cursor_is_reported(signalbox: CommandLine, acme: Sender, list_: str) -> None:
    account = [] if list_ == "account" else ["--account", acme.slug]
    result = signalbox(list_, "list", "--after", "nonsense", *account)
    assert result.exit_code == 2
    assert "\nError: Invalid value for --after: 'nonsense' is not " in result.stderr
