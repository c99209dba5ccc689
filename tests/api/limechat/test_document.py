"""The responses in docs/receiving.md are real ones."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.api.errors import problem_response, unavailable
from app.core.errors import LookupLimit, Unavailable
from app.services.context import AppContext
from tests.support.builders import EVENTS_PATH, Sender, a_sender, an_event
from tests.support.sources import a_source, an_order

TEXT = (Path(__file__).resolve().parents[3] / "docs/receiving.md").read_text("utf-8")
EXAMPLES = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]
REFUSALS = [example for example in EXAMPLES if "status" in example]
BEYOND = '{"event": "x", "phone": "+915673412780", "data": {"price": 1e999999, "note": "\\u0000"}}'


class Late(io.BytesIO):
    """A body that does not arrive."""

    def read(self, _: int | None = -1, /) -> bytes:
        raise TimeoutError


def late(sender: Sender) -> Any:
    headers = {**sender.headers(), "Content-Type": "application/json"}
    return sender.client.post(EVENTS_PATH, input_stream=Late(b"{"), headers=headers)  # type: ignore[call-arg]


def with_a_used_key(sender: Sender) -> Any:
    sender.post(an_event(), Idempotency_Key="k")
    return sender.post(an_event(event="other"), Idempotency_Key="k")


def too_often(sender: Sender) -> Any:
    return next(answer for answer in iter(lambda: sender.post({}), None) if answer.status_code == 429)


# What brings about each of them, in the order of the page.
CAUSES: list[Callable[[Sender], Any]] = [
    lambda sender: sender.post('{"event": "order_placed",\n "phone": "+915673412780"\n "data": {}}'),
    lambda sender: sender.post('{"event": "order_placed", "data": {"price": 1, "price": 2}}'),
    lambda sender: sender.post({}, x_limechat_uat=""),
    lambda sender: sender.post({}, x_fb_account_id="0"),
    lambda sender: sender.client.get(EVENTS_PATH),  # type: ignore[union-attr]
    late,
    lambda sender: sender.post(b" " * 600_000),
    lambda sender: sender.post({}, Content_Type="text/plain"),
    lambda sender: sender.post({}, Content_Encoding="br"),
    lambda sender: sender.post({"event": "", "phone": "5673412780"}),
    lambda sender: sender.post(BEYOND),
    with_a_used_key,
    too_often,
]


def without_ids(text: str) -> str:
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)


@pytest.mark.parametrize(("example", "cause"), list(zip(REFUSALS, CAUSES, strict=False)), ids=range(len(CAUSES)))
def test_a_refusal_reads_as_printed(
    context: AppContext, client: FlaskClient, example: dict[str, Any], cause: Callable[[Sender], Any]
) -> None:
    answer = cause(a_sender(context, client, plan="trial"))
    assert answer.status_code == example["status"]
    assert json.loads(without_ids(answer.text)) == json.loads(without_ids(json.dumps(example)))


@pytest.mark.parametrize(
    ("example", "exc"), list(zip(REFUSALS[-2:], [Unavailable("gone"), LookupLimit("many")], strict=True))
)
def test_the_503s_read_as_printed(app: Flask, example: dict[str, Any], exc: Unavailable) -> None:
    with app.test_request_context():
        response = problem_response(unavailable(exc))
    assert json.loads(response.data) == example
    assert f"`Retry-After: {response.headers['Retry-After']}`" in TEXT


def test_each_printed_refusal_is_looked_at() -> None:
    assert len(REFUSALS) == len(CAUSES) + 2


def test_the_printed_successes_have_the_members_of_real_ones(context: AppContext, client: FlaskClient) -> None:
    success, batch, delivery = [example for example in EXAMPLES if "status" not in example]
    sender = a_sender(context, client)
    assert list(delivery) == list(a_source(context, client, sender.account_id).post(an_order(1)).json)
    assert list(success) == list(sender.post(an_event()).json)
    answer = sender.post_batch([an_event(), an_event(phone="5673412780"), an_event()])
    assert json.loads(without_ids(answer.text)) == json.loads(without_ids(json.dumps(batch)))
