"""Deliveries in the database."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from flask.testing import FlaskClient

from app.core.ids import now, uuid7
from app.db import deliveries
from app.db.deliveries import UNVERIFIED, NewDelivery
from app.services.context import AppContext
from tests.support.builders import Sender
from tests.support.sources import a_source


def an_unverified_delivery(account: Sender, source_id: UUID, seconds: float = 0) -> NewDelivery:
    at = now() + timedelta(seconds=seconds)
    return NewDelivery(
        account.account_id,
        uuid7(at),
        source_id,
        1,
        at,
        "POST",
        {},
        b"{}",
        verified=False,
        result=UNVERIFIED,
        request_id="x",
    )


def test_processes_that_store_unverified_deliveries_at_the_same_time_store_one_a_second(
    context: AppContext, client: FlaskClient, acme: Sender
) -> None:
    source_id = a_source(context, client, acme.account_id).id

    def store(seconds: float) -> bool:
        with context.database.transaction() as connection:
            return deliveries.insert_sample(connection, an_unverified_delivery(acme, source_id, seconds))

    with context.database.transaction() as first:
        assert deliveries.insert_sample(first, an_unverified_delivery(acme, source_id))
        assert not store(0)
    assert (store(0), store(2)) == (False, True)
