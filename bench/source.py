"""Deliveries of a source: verified, mapped, matched against 100 workflows and stored with their event; against single events."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from app.core.api_keys import make_source_token
from app.core.ids import uuid7
from app.core.models import Key
from app.db import api_keys, sources
from app.db.document_versions import NewVersion
from app.services.context import AppContext
from bench.measuring import Side, alternate, median, write_script
from bench.rows import Row, row
from bench.servers import Backends, backends, ours
from bench.single import BODY, PATH, WORKFLOWS, add_workflows, disagreements, fixed, open_account, provide, ratio_of

SECRET = "the secret of a shop"
DOCUMENT = {"name": "shop", "provider": "shopify", "secrets": [SECRET], "region": "IN"}
EVENT = "orders/create"
ORDER = {
    "id": 820982911946154508,
    "created_at": "2026-11-29T10:15:00+05:30",
    "currency": "INR",
    "total_price": "2499.00",
    "total_weight": 1200,
    "financial_status": "paid",
    "customer": {
        "id": 115310627314723954,
        "email": "buyer@example.com",
        "phone": "+915673412780",
        "first_name": "Asha",
    },
    "shipping_address": {"city": "Pune", "zip": "411001", "country_code": "IN", "phone": "056734 12780"},
    "line_items": [
        {
            "id": 866550311766439020 + number,
            "sku": f"SKU-{number}",
            "title": "Cool Sneakers",
            "quantity": 1,
            "price": "833.00",
        }
        for number in range(3)
    ],
}


def source() -> list[Row]:
    """Verified and mapped deliveries a second, each with an event and a dedupe id of its own; against `single`."""
    with ExitStack() as stack:
        base = stack.enter_context(backends())
        url, pid = stack.enter_context(ours(base))
        processes = {"web": [pid], **base.processes}
        account, headers = provide(base)
        single = Side(url + PATH, write_script(base.folder / "single.lua", headers, fixed(BODY)), processes)
        shop, token = open_source(base)
        delivery = Side(f"{url}/hooks/{token}", write_delivery(base.folder / "source.lua"), processes)
        rounds = alternate(single, delivery)
        failures = disagreements(single, base, account) + disagreements(delivery, base, shop)
        kept = base.query("SELECT count(*) FROM deliveries WHERE account_id = %s AND result = 'accepted'", shop)
        if kept != delivery.answered:
            failures.append(f"{delivery.answered:,} answers were 2xx, but {kept:,} deliveries are kept")
    pairs = [(one[0], one[1]) for one in rounds]
    mine = [our for _, our in pairs]
    return [
        row(
            "source",
            ours=median(our.rate for our in mine),
            reference=median(reference.rate for reference, _ in pairs),
            unit="deliveries/s",
            against="single events/s",
            ratio=median(our.rate / reference.rate for reference, our in pairs),
            target=0.60,
            failures=failures,
            more={
                "CPU ratio": round(ratio_of(pairs), 3),
                **{part: round(median(our.share(part) for our in mine)) for part in mine[0].cpu},
                "p50 ms": round(median(our.p50 for our in mine), 2),
                "p99 ms": round(median(our.p99 for our in mine), 2),
            },
        )
    ]


def open_source(base: Backends) -> tuple[int, str]:
    """An account with 100 workflows on the event, of which none starts, and the token of a source."""
    context = AppContext(base.settings)
    account = open_account(context, "shop")
    patterns = [
        (f"w{number}", {"event": EVENT, "where": f"data.total_weight > {9000 + number}"}) for number in range(WORKFLOWS)
    ]
    add_workflows(context, account, patterns)
    token = save_source(context, account)
    context.database.close()
    return account, token


def save_source(context: AppContext, account: int, document: Mapping[str, Any] = DOCUMENT) -> str:
    """A source of an account; its token."""
    source_id, (token, prefix, digest) = uuid7(), make_source_token()
    with context.database.transaction() as connection:
        new = NewVersion(source_id, "shop", 1, json.dumps(document), dict(document))
        sources.save_version(connection, account, new, context.clock())
        key = Key(prefix, digest, (f"source:{source_id}",), None)
        api_keys.insert_key(connection, account, key, "bench", context.clock())
    return token


def headers_of(body: bytes) -> Mapping[str, str]:
    """The headers of a delivery, signed."""
    signature = base64.b64encode(hmac.digest(SECRET.encode(), body, "sha256")).decode()
    return {
        "Content-Type": "application/json",
        "X-Shopify-Topic": EVENT,
        "X-Shopify-Hmac-Sha256": signature,
        "X-Shopify-Shop-Domain": "shop.example.com",
        "X-Shopify-Triggered-At": "2026-11-29T04:45:01.123456789Z",
    }


# wrk shares the cores with what it measures. It writes the rest of the request once, as for requests that are all the same.
_NUMBERED = """
local begun, number, before, after = string.format('%.6f', now()), 0
function init()
  wrk.headers['X-Shopify-Webhook-Id'] = 'ID'
  local request = wrk.format()
  local _, last = request:find('X-Shopify-Webhook-Id: ID', 1, true)
  before, after = request:sub(1, last - 2) .. begun .. '-', request:sub(last + 1)
end
function request()
  number = number + 1
  return before .. number .. after
end
"""


def write_delivery(file: Path) -> Path:
    """A script for wrk that posts the order again and again, each time with another id of the delivery."""
    body = json.dumps(ORDER)
    return write_script(file, headers_of(body.encode()), f"wrk.body = {json.dumps(body)}\n{_NUMBERED}")
