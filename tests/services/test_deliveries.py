"""Deliveries over time: erased with a data subject, deleted after 30 days, exported."""

from __future__ import annotations

import base64
import gzip
import json
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import pytest
from flask.testing import FlaskClient

from app.core.ids import uuid7
from app.db import deliveries
from app.db.deliveries import DeliveryFilter
from app.services import data_subjects
from app.services.context import AppContext
from app.services.expiry import delete_expired
from app.services.export import export_account
from app.services.retention import change_retention
from tests.support.builders import Sender
from tests.support.sources import ASource, a_body, a_source, an_order

PERSON, PHONE = "person-8086-of-acme", "+4917012345678"


@pytest.fixture
def shop(context: AppContext, client: FlaskClient, acme: Sender) -> ASource:
    """A source of acme."""
    return a_source(context, client, acme.account_id)


def kept(context: AppContext, source: ASource, **wanted: Any) -> list[UUID]:
    """The ids of the deliveries that are kept, newest first."""
    with context.database.transaction() as connection:
        rows = deliveries.find_latest_deliveries(connection, source.account_id, DeliveryFilter(**wanted), 100)
    return [row.id for row in rows]


def posted(source: ASource, body: Any, **headers: str) -> UUID:
    """The id of a delivery that was posted."""
    answer = source.post(body, **headers)
    assert answer.status_code == 200, answer.text
    return UUID(answer.json["delivery"])


BODIES = {
    "mapped": a_body(an_order(1, who=PERSON)),
    "unmapped": json.dumps({"note": f"call {PHONE}"}).encode(),
    "national number": json.dumps({"note": "0170 1234 5678"}).encode(),
    "form": urlencode({"who": "someone", "phone": PHONE}).encode(),
    "no text": b"\xff\xfe " + PERSON.encode(),
    "of several": a_body(an_order(2), an_order(3, who=PERSON)),
}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("packed", [False, True])
def test_an_erasure_deletes_the_deliveries_that_name_a_person(
    context: AppContext, shop: ASource, acme: Sender, kind: str, packed: bool
) -> None:
    acme.post({"event": "signup", "distinct_id": PERSON, "phone": PHONE})
    other = posted(shop, an_order(9))
    body = gzip.compress(BODIES[kind]) if packed else BODIES[kind]
    posted(shop, body, **({"Content_Encoding": "gzip"} if packed else {}))
    erased = data_subjects.erase_subject(context, acme.account_id, PERSON)
    assert erased.more["deliveries"] == 1
    assert kept(context, shop) == [other]


def test_an_erasure_deletes_the_deliveries_whose_events_are_about_a_person(
    context: AppContext, shop: ASource, acme: Sender
) -> None:
    posted(shop, an_order(1, who="a person"))
    with context.database.transaction() as connection:
        connection.exec_driver_sql(
            "UPDATE events SET distinct_id = %s WHERE account_id = %s", (PERSON, shop.account_id)
        )
    assert data_subjects.erase_subject(context, acme.account_id, PERSON).more["deliveries"] == 1
    assert kept(context, shop) == []


def test_an_erasure_leaves_the_deliveries_of_other_accounts(
    context: AppContext, client: FlaskClient, acme: Sender, globex: Sender
) -> None:
    source = a_source(context, client, globex.account_id)
    delivery = posted(source, an_order(1, who=PERSON))
    assert "deliveries" not in data_subjects.erase_subject(context, acme.account_id, PERSON).more
    assert kept(context, source) == [delivery]


def test_deliveries_are_kept_for_30_days_or_as_long_as_the_account_says(
    context: AppContext, client: FlaskClient, acme: Sender, globex: Sender
) -> None:
    sources = [a_source(context, client, sender.account_id) for sender in (acme, globex)]
    for source in sources:
        for _ in range(3):
            posted(source, {})
        for days, delivery in zip((1, 31, 100), kept(context, source), strict=True):
            at = context.clock() - timedelta(days=days)
            with context.database.transaction() as connection:
                connection.exec_driver_sql(
                    "UPDATE deliveries SET id = %s, received_at = %s WHERE account_id = %s AND id = %s",
                    (str(uuid7(at)), at, source.account_id, str(delivery)),
                )
    change_retention(context, globex.account_id, globex.slug, {"deliveries": timedelta(days=60)}, [])
    delete_expired(context, lambda seconds: False)
    assert [len(kept(context, source)) for source in sources] == [1, 2]


def test_an_export_has_the_deliveries_with_their_bodies(context: AppContext, shop: ASource) -> None:
    body = a_body(an_order(1))
    delivery = posted(shop, body)
    lines = [json.loads(line) for line in export_account(context, shop.account_id)]
    rows = {line["kind"]: line["row"] for line in lines}
    assert base64.b64decode(rows["deliveries"]["body"]) == body
    assert (rows["deliveries"]["id"], rows["sources"]["name"]) == (str(delivery), "shop")
    assert rows["source_versions"]["version"] == 1


def test_deliveries_are_found_by_what_became_of_them_and_by_time(context: AppContext, shop: ASource) -> None:
    accepted, unmapped, partly = (posted(shop, body) for body in (an_order(1), {}, [an_order(2), {}]))
    assert kept(context, shop, results=["unmapped", "partly"]) == [partly, unmapped]
    assert kept(context, shop, results=["accepted"], source_id=shop.id) == [accepted]
    assert kept(context, shop, before=partly, after=accepted) == [unmapped]
    assert kept(context, shop, since=context.clock()) == []
    assert len(kept(context, shop, until=context.clock())) == 3
    with context.database.transaction() as connection:
        row = deliveries.find_delivery(connection, shop.account_id, partly)
    assert row is not None
    assert kept(context, shop, request_id=row.request_id) == [partly]
    assert (row.source, row.source_version, row.body_bytes) == ("shop", 1, len(a_body(an_order(2), {})))
