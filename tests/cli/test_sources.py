"""Commands for sources and deliveries."""

from __future__ import annotations

import hmac
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from flask.testing import FlaskClient

from app.core.ids import now
from app.db.deliveries import DeliveryFilter
from app.ingest.sources.unverified import UnverifiedKeeper
from app.services import deliveries, secrets, sources
from app.services.context import AppContext
from tests.cli.conftest import CommandLine
from tests.support.builders import Sender
from tests.support.shop import BROKEN, SHOP, Shop, an_order
from tests.support.sources import SECRET

SIGNED = """\
name: signed
secrets: ["{{ secrets.SHOP }}"]
verify: {hmac: sha256, header: X-Signature}
map: {event: body.kind, distinct_id: body.who}
"""


def test_apply_prints_the_url_of_a_new_source_once(acme: Sender, signalbox: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(SHOP)
    call = ("source", "apply", file, "--account", acme.slug)
    created = signalbox(*call)
    assert "shop: created as version 1, enabled\nurl=http://127.0.0.1:8000/hooks/" in created.stdout
    assert "--base-url" in created.stderr
    assert signalbox(*call).stdout == "shop: unchanged at version 1, enabled\n"
    again = signalbox(*call, "--base-url", "https://events.example.com")
    assert again.stdout == "shop: unchanged at version 1, enabled\n"
    assert "source rotate shop" in again.stderr
    file.write_text(BROKEN)
    assert signalbox(*call).stdout == "shop: changed to version 2 (map.event), enabled\n"
    assert signalbox("source", "show", "shop", "--account", acme.slug).stdout == BROKEN
    assert signalbox("source", "show", "shop", "--version", "1", "--account", acme.slug).stdout == SHOP


def test_an_account_has_a_bounded_number_of_sources(
    acme: Sender, signalbox: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_SOURCES", 1)
    file = tmp_path / "shop.yaml"
    file.write_text(SHOP)
    call = ("source", "apply", file, "--account", acme.slug)
    signalbox(*call)
    file.write_text(SHOP.replace("name: shop", "name: second"))
    refused = signalbox(*call)
    assert refused.exit_code == 1
    assert "the account has 1 sources, as many as it may have" in refused.stderr
    file.write_text(BROKEN)
    assert "changed to version 2" in signalbox(*call).stdout


def test_apply_prints_mistakes_with_places_and_saves_nothing(
    acme: Sender, signalbox: CommandLine, tmp_path: Path
) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(SHOP.replace("  event: item.kind", "  event: item.kind +"))
    failed = signalbox("source", "apply", file, "--account", acme.slug)
    assert failed.exit_code == 1
    assert failed.stderr.startswith(f"{file}:5:10: map.event: ")
    assert signalbox("source", "check", file).stdout == failed.stderr
    assert signalbox("source", "list", "--account", acme.slug).stdout == ""


def test_a_missing_secret_is_named_with_the_command_that_sets_it(
    acme: Sender, signalbox: CommandLine, tmp_path: Path
) -> None:
    file = tmp_path / "signed.yaml"
    file.write_text(SIGNED)
    failed = signalbox("source", "apply", file, "--account", acme.slug)
    assert failed.exit_code == 1
    assert f"{file}:2:11: secrets[0]: the account has no secret SHOP\n" in failed.stderr
    signalbox("secret", "set", "SHOP", "--account", acme.slug, typed=SECRET)
    assert signalbox("source", "apply", file, "--account", acme.slug).exit_code == 0


@pytest.mark.parametrize(("overlap", "status"), [((), 200), (("--overlap", "7d"), 200), (("--overlap", "0"), 404)])
def test_the_old_url_works_for_the_overlap(
    overlap: tuple[str, ...], status: int, shop: Shop, signalbox: CommandLine
) -> None:
    rotated = signalbox("source", "rotate", "shop", "--account", shop.account.slug, *overlap)
    new = urlsplit(rotated.stdout.partition("url=")[2].strip()).path
    assert shop.client.post(new, json={"orders": []}).status_code == 200
    assert shop.client.post(f"/hooks/{shop.token}", json={"orders": []}).status_code == status


def test_the_overlap_ends(context: AppContext, shop: Shop) -> None:
    rotated = sources.rotate_token(context, shop.account.account_id, "shop", timedelta(days=7))
    assert rotated.old_until is not None
    assert timedelta(days=6) < rotated.old_until - now() <= timedelta(days=7)
    # A further rotation does not prolong it.
    sources.rotate_token(context, shop.account.account_id, "shop", timedelta(days=30))
    query = "SELECT expires_at FROM keys WHERE account_id = %(a)s AND name = 'source shop' ORDER BY created_at"
    with context.database.transaction() as connection:
        found = [row[0] for row in connection.exec_driver_sql(query, {"a": shop.account.account_id})]
    assert found[0] == rotated.old_until
    assert found[1] > rotated.old_until
    assert found[2] is None


def test_a_deleted_source_has_no_url_and_its_deliveries_stay(shop: Shop, signalbox: CommandLine) -> None:
    shop.apply(BROKEN)
    delivery = shop.post(an_order(1))["delivery"]
    assert signalbox("source", "delete", "shop", "--account", shop.account.slug, typed="n").exit_code == 1
    signalbox("source", "delete", "shop", "--account", shop.account.slug, "--yes")
    assert shop.client.post(f"/hooks/{shop.token}", json={}).status_code == 404
    shown = signalbox("delivery", "show", delivery)
    assert "source     (deleted), version 2" in shown.stdout
    assert "map again" not in shown.stdout


def test_the_original_of_a_delivery_is_written_byte_for_byte(shop: Shop, signalbox: CommandLine) -> None:
    body = b'\xef\xbb\xbf{"orders": [ ],\t"n": 1.50}\r\n'
    answer = shop.client.post(f"/hooks/{shop.token}", data=body, headers={"X-Note": "a\x1b[31m"})
    delivery = answer.get_json()["delivery"]
    assert signalbox("delivery", "show", delivery, "--original").stdout_bytes == body
    shown = signalbox("delivery", "show", delivery).stdout
    assert "\x1b" not in shown
    assert '"n": 1.50' in shown
    assert "expected either" in signalbox("delivery", "show", delivery, "--original", "--json").stderr
    assert f"delivery {uuid4()}"[:9] in signalbox("delivery", "show", uuid4()).stderr


def test_an_empty_list_of_deliveries_says_so(shop: Shop, signalbox: CommandLine) -> None:
    call = ("delivery", "list", "--account", shop.account.slug)
    assert signalbox(*call).stderr == "nothing was posted to a source yet\n"
    shop.post(an_order(1))
    assert signalbox(*call).stderr == ""
    assert signalbox(*call, "--result", "unmapped").stderr == "no delivery passes these filters\n"


def test_deliveries_are_listed_by_source_and_result(shop: Shop, signalbox: CommandLine) -> None:
    shop.post(an_order(1))
    shop.post(an_order(1))
    shop.post(an_order(2, kind=None))
    call = ("delivery", "list", "--account", shop.account.slug)
    assert [line.split("\t")[3] for line in signalbox(*call).stdout.splitlines()] == [
        "unmapped",
        "duplicate",
        "accepted",
    ]
    (line,) = signalbox(*call, "--result", "unmapped", "--source", "shop").stdout.splitlines()
    assert line.split("\t")[4].startswith("item 0: map.event: ")
    assert "there is no source 'other'" in signalbox(*call, "--source", "other").stderr


def test_a_printed_command_works_when_it_is_pasted(shop: Shop, signalbox: CommandLine) -> None:
    shop.apply(BROKEN)
    delivery = shop.post(an_order(1))["delivery"]
    lines = signalbox("delivery", "show", delivery, "--account", shop.account.slug).stdout
    shop.apply(SHOP)
    for name in ("try", "map again"):
        (line,) = [line for line in lines.splitlines() if line.startswith(name)]
        words = line.partition("`signalbox ")[2].rstrip("`").split()
        assert signalbox(*words).exit_code == 0, line


def test_a_use_of_a_secret_is_listed(context: AppContext, acme: Sender, signalbox: CommandLine) -> None:
    secrets.set_secret(context, acme.account_id, "SHOP", SECRET)
    sources.apply_source(context, acme.account_id, SIGNED)
    assert "source signed" in signalbox("secret", "list", "--account", acme.slug).stdout


def test_a_kept_delivery_is_verified_again_as_of_its_arrival(
    context: AppContext, client: FlaskClient, acme: Sender, signalbox: CommandLine
) -> None:
    secrets.set_secret(context, acme.account_id, "SHOP", "another secret")
    token = sources.apply_source(context, acme.account_id, SIGNED).token
    body = b'{"kind": "order", "who": "asha"}'
    signature = hmac.digest(SECRET.encode(), body, "sha256").hex()
    answer = client.post(f"/hooks/{token}", data=body, headers={"X-Signature": signature})
    assert answer.status_code == 401
    unverified: UnverifiedKeeper = client.application.extensions["unverified"]
    unverified.flush()
    (kept,) = deliveries.find_first_deliveries(context, acme.account_id, DeliveryFilter(), 10)
    call = ("source", "try", "signed", "--delivery", kept.id, "--account", acme.slug)
    refused = signalbox(*call)
    assert (refused.exit_code, "verified: no, the signature does not match" in refused.stdout) == (1, True)
    secrets.set_secret(context, acme.account_id, "SHOP", SECRET)
    assert signalbox(*call).stdout.startswith("verified: yes, by secrets[0]\nevent 1 of 1\n  event: order\n")


def test_a_kept_delivery_with_a_shared_secret_cannot_be_verified_again(
    context: AppContext, client: FlaskClient, acme: Sender, signalbox: CommandLine
) -> None:
    secrets.set_secret(context, acme.account_id, "SHOP", SECRET)
    shared = SIGNED.replace("{hmac: sha256, header: X-Signature}", "{shared: {header: X-Token}}")
    token = sources.apply_source(context, acme.account_id, shared).token
    answer = client.post(f"/hooks/{token}", json={"kind": "order", "who": "asha"}, headers={"X-Token": SECRET})
    call = ("source", "try", "signed", "--delivery", answer.get_json()["delivery"], "--account", acme.slug)
    tried = signalbox(*call)
    assert tried.stdout.startswith("verified: the secret that was sent is not kept; it was verified when it arrived\n")
    assert tried.exit_code == 0
