"""CxEngage's receiver refuses the same invalid inputs as the LimeChat route, with errors in its own format, stores nothing of
them, and returns accepted events unchanged."""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass, replace
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st

from app.services import workflows
from app.services.context import AppContext
from tests.api.conftest import Rows
from tests.api.limechat import test_bad_inputs as inputs
from tests.api.limechat.test_bad_inputs import Bad
from tests.api.limechat.test_losslessness import PIECES, cut_and_paste, exact, objects, text_of
from tests.support.builders import a_workflow
from tests.support.cxengage_tenants import Tenant, a_tenant, described, uuid_of
from tests.support.server import Server

# Cases that are refused before the fields of an event are read.
SAME = [*inputs.NOT_JSON, *inputs.ENCODINGS, *inputs.UNSTORABLE, *inputs.SIZES, *inputs.PACKED]


@dataclass(frozen=True)
class Dressed:
    """A tenant that writes the request heads of `Bad` cases."""

    tenant: Tenant

    def headers(self, **changes: str) -> dict[str, str]:
        names = {name.replace("_", "-"): value for name, value in changes.items()}
        return {"Authorization": f"Bearer {self.tenant.token}", **names}

    def request(self, bad: Bad) -> bytes:
        start = f"POST {self.tenant.prefix}/tenants/{self.tenant.slug}/event HTTP/1.1".encode()
        return replace(bad, start=start if bad.start == inputs.START else bad.start).request(self)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tenant(context: AppContext, server: Server) -> Tenant:
    """A tenant whose events have a subject as in the LimeChat format."""
    found = described(context, a_tenant(context, server, "hostile"), key_attribute="distinct_id")
    workflows.apply_workflow(context, found.account_id, a_workflow(on="*"))
    return found


@pytest.mark.parametrize("bad", SAME, ids=[bad.name for bad in SAME])
def test_an_invalid_input_is_refused_as_in_the_limechat_format(
    tenant: Tenant, server: Server, rows: Rows, bad: Bad
) -> None:
    answer = server.exchange(Dressed(tenant).request(bad), end=bad.end)
    assert answer.status_code == {422: 400}.get(bad.status, bad.status), answer.text
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Request-Id"]
    assert list(answer.json) == ["error"]
    field = re.fullmatch(r'"field":"(.*)"', bad.message)
    message = field[1] if field else bad.message
    assert message.replace('\\"', '"') in answer.json["error"]
    assert not set("<>&") & set(answer.text)
    assert len(answer.data) < 10_000
    for table in ("events", "runs", "idempotency_keys"):
        assert rows(f"SELECT count(*) FROM {table} WHERE account_id = %s", tenant.account_id) == [(0,)]


def test_the_valid_event_behind_all_cases_is_accepted(context: AppContext, server: Server) -> None:
    tenant = described(context, a_tenant(context, server), key_attribute="distinct_id")
    assert server.exchange(Dressed(tenant).request(Bad("none", 200))).status_code == 200


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Idempotency-Key": ""}, "Idempotency-Key"),
        ({"Idempotency-Key": "k" * 256}, "Idempotency-Key"),
        ({"Idempotency-Key": "schlüssel"}, "Idempotency-Key"),
        ({"Content-Length": None}, "empty"),
        ({"Content-Type": None}, "application/json"),
    ],
    ids=range(5),
)
def test_an_invalid_header_is_refused(tenant: Tenant, server: Server, headers: Any, message: str) -> None:
    answer = server.exchange(Dressed(tenant).request(Bad("none", 400, headers=headers)))
    assert answer.status_code in (400, 415)
    assert message in answer.json["error"]


@pytest.mark.parametrize("text", inputs.HOSTILE, ids=range(len(inputs.HOSTILE)))
def test_hostile_text_is_stored_as_data(context: AppContext, server: Server, rows: Rows, text: str) -> None:
    tenant = a_tenant(context, server)
    sent = {"key": text, "type": text, "x" + text: [text]}
    answer = tenant.post(sent)
    assert answer.status_code == 200, answer.text
    assert rows("SELECT event, distinct_id, data FROM events WHERE account_id = %s", tenant.account_id) == [
        (text, text, sent)
    ]
    assert (answer.json["event"], answer.json["key-attr"]) == (sent, text)
    assert tenant.history()[0]["event"] == sent


# Without a network, which is faster


@pytest.fixture(scope="module")
def quick(context: AppContext, client: FlaskClient) -> Tenant:
    return a_tenant(context, client)


@settings(max_examples=60)
@given(data=objects, escaped=st.booleans())
def test_an_event_is_returned_unchanged(quick: Tenant, rows: Rows, data: dict[str, Any], escaped: bool) -> None:
    text = text_of(data | {"key": "1", "type": "x"}, escaped=escaped)
    answer = quick.post(text)
    assert answer.status_code == 200, answer.text
    raw = re.fullmatch(r'\{"event":(.*),"key-attr":"1","id":"(.*)","contributing\?":false\}', answer.text, re.DOTALL)
    assert raw is not None
    assert exact(raw[1]) == exact(text)
    ((written,),) = rows("SELECT data::text FROM events WHERE id = %s", uuid_of(raw[2]))
    assert exact(str(written)) == exact(text)


def assert_answered(answer: Any) -> None:
    """The request was accepted or refused, without an internal error."""
    assert answer.status_code in (200, 400, 413, 415), answer.text
    assert answer.headers["Content-Type"] == "application/json"
    assert (list(exact(answer.text)) == ["error"]) == (answer.status_code != 200)


changes = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 6), st.sampled_from(PIECES)), min_size=1, max_size=4)


@settings(max_examples=100)
@given(changes=changes)
def test_mutated_events_are_accepted_or_refused(quick: Tenant, changes: list[tuple[int, int, bytes]]) -> None:
    assert_answered(quick.post(cut_and_paste(b'{"key": "1", "type": "bar", "data": {"a": [1, 2.5]}}', changes)))


@settings(max_examples=100)
@given(body=st.binary(max_size=500), packed=st.booleans())
def test_random_bytes_are_accepted_or_refused(quick: Tenant, body: bytes, packed: bool) -> None:
    if packed:
        assert_answered(quick.post(gzip.compress(body), Content_Encoding="gzip"))
    assert_answered(quick.post(body))


@settings(max_examples=50)
@given(found=objects)
def test_random_attribute_values_are_accepted_or_refused(quick: Tenant, found: dict[str, Any]) -> None:
    values = dict(zip(("key", "type", "x"), found.values(), strict=False))
    assert_answered(quick.post(text_of(values, escaped=True)))
    assert_answered(quick.call("/key-attribute", "POST", text_of(values | {"key": [values.get("key")]}, escaped=True)))
