"""The source `shop` of an account, as people apply and change it."""

from __future__ import annotations

from typing import Any

from flask.testing import FlaskClient

from app.db.deliveries import DeliveryFilter
from app.services import deliveries, sources
from app.services.context import AppContext
from tests.support.builders import Sender

SHOP = """\
name: shop
verify: none
events: [{each: "body.orders[]"}]
map:
  event: item.kind
  distinct_id: item.who
  phone: item.phone
  data: item
  occurred_at: item.at
  dedupe: item.id
"""
# It maps no order.
BROKEN = SHOP.replace("item.kind", "item.type")


class Shop:
    """An account with the source `shop`."""

    def __init__(self, context: AppContext, client: FlaskClient, account: Sender, text: str = SHOP) -> None:
        self.context, self.client, self.account = context, client, account
        self.token = sources.apply_source(context, account.account_id, text).token

    def post(self, *orders: dict[str, Any], client: FlaskClient | None = None) -> Any:
        answer = (client or self.client).post(f"/hooks/{self.token}", json={"orders": orders})
        assert answer.status_code == 200, answer.text
        return answer.get_json()

    def apply(self, text: str) -> None:
        sources.apply_source(self.context, self.account.account_id, text)

    def events(self) -> list[tuple[Any, ...]]:
        """What is stored of each event, except for ids and the time of acceptance."""
        query = (
            "SELECT event, distinct_id, phone, data::text, extra::text, occurred_at, via, warnings::text FROM events "
            "WHERE account_id = %(a)s ORDER BY data::text"
        )
        with self.context.database.transaction() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query, {"a": self.account.account_id})]

    def results(self) -> list[str]:
        found = deliveries.find_first_deliveries(self.context, self.account.account_id, DeliveryFilter(), 1_000)
        return [one.result for one in found]


def an_order(number: int, **changes: Any) -> dict[str, Any]:
    """An order for SHOP."""
    return {"id": number, "kind": "order", "who": f"c-{number % 7}", "at": 1795927500 + number, "phone": "1"} | changes
