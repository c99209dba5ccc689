"""`signalbox key …`: keys are created, listed and revoked; a key itself is printed once."""

from __future__ import annotations

import re

import pytest

from tests.cli.conftest import CommandLine
from tests.support.builders import Sender


def _create(signalbox: CommandLine, account: Sender, *options: str) -> str:
    """The text of a new key."""
    created = signalbox("key", "create", account.slug, *options)
    match = re.fullmatch(rf"account={account.account_id}\ntoken=(sb_\w{{8}}_[\w-]{{49}})\n", created.output)
    assert match is not None, created.output
    return match[1]


def test_a_list_shows_keys_without_their_secret(signalbox: CommandLine, acme: Sender) -> None:
    key = _create(signalbox, acme, "--name", "shop", "--scopes", "events:write,events:read", "--expires-in", "90d")
    listed = signalbox("key", "list", acme.slug)
    line = next(line for line in listed.output.splitlines() if key[3:11] in line).split("\t")
    assert line[:4] == [acme.slug, f"sb_{key[3:11]}_…", "shop", "events:write events:read"]
    assert line[4].startswith("expires ")
    assert line[5] == "never used"
    assert key not in listed.output


def test_scopes_are_separated_by_commas_or_given_again(signalbox: CommandLine, acme: Sender) -> None:
    key = _create(signalbox, acme, "--scope", "events:write", "--scope", "events:read,runs:read")
    assert f"sb_{key[3:11]}_…\t\tevents:write events:read runs:read\t" in signalbox("key", "list", acme.slug).output
    created = signalbox("client", "create", acme.slug, "--scope", "events:write", "--scope", "events:read")
    client = created.output.split("client_id=")[1].split()[0]
    line = next(line for line in signalbox("client", "list", acme.slug).output.splitlines() if client in line)
    assert "events:write events:read" in line


def test_a_list_of_all_accounts_has_the_keys_of_each(signalbox: CommandLine, acme: Sender, globex: Sender) -> None:
    accounts = {line.split("\t")[0] for line in signalbox("key", "list", "--limit", "10000").output.splitlines()}
    assert {acme.slug, globex.slug} <= accounts
    assert {line.split("\t")[0] for line in signalbox("key", "list", acme.slug).output.splitlines()} == {acme.slug}


def test_a_key_is_revoked_once(signalbox: CommandLine, acme: Sender) -> None:
    key = _create(signalbox, acme)
    assert signalbox("key", "revoke", key).output == f"sb_{key[3:11]}_… is revoked\n"
    again = signalbox("key", "revoke", key)
    assert (again.exit_code, again.stderr) == (
        1,
        "Error: no active key has this prefix; `signalbox key list` shows all\n",
    )
    assert f"sb_{key[3:11]}_…\t\tevents:write\trevoked " in signalbox("key", "list", acme.slug).output


def test_a_name_may_have_letters_and_emoji_that_are_joined(signalbox: CommandLine, acme: Sender) -> None:
    name = "शर्\u200dमा 👩\u200d👧"
    assert signalbox("key", "create", acme.slug, "--name", name).exit_code == 0
    assert name in signalbox("key", "list", acme.slug).output


@pytest.mark.parametrize("name", ["x" * 256, "a\nb", "a\u202eb"])
def test_a_name_is_short_and_printable(signalbox: CommandLine, acme: Sender, name: str) -> None:
    for kind in ("key", "client"):
        result = signalbox(kind, "create", acme.slug, "--name", name)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == "Error: the name must be at most 255 printable characters\n"
