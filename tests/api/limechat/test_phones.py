"""Phone numbers as people and programs write them, and accounts that keep events with an unusable one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.core import config
from app.db.accounts import AccountDetails
from app.services import accounts
from app.services.context import AppContext
from tests.api.conftest import Rows, settings_of
from tests.support.builders import Sender, a_sender, an_event

NUMBER = "+915673412780"


@pytest.fixture
def acme(context: AppContext, client: FlaskClient) -> Sender:
    """An account that refuses unusable phones, as a new one does."""
    return a_sender(context, client)


@pytest.fixture
def keeper(context: AppContext, client: FlaskClient) -> Sender:
    """An account that keeps events with an unusable phone."""
    sender = a_sender(context, client, "keeper")
    keep(context, sender)
    return sender


def keep(context: AppContext, sender: Sender, choice: str = "store") -> None:
    accounts.update_account_details(context, sender.account_id, AccountDetails(unusable_phone=choice))


def stored(rows: Rows, sender: Sender) -> tuple[object, ...]:
    return rows("SELECT phone, distinct_id, extra, warnings FROM events WHERE account_id = %s", sender.account_id)[-1]


DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uff0d"
MARKS = (*range(0x202A, 0x202F), 0x200B, 0x200E, 0x200F, 0x2060, 0x2066, 0x2069, 0xFEFF, 0x00AD)
SPELLINGS = [
    ("white space in front", "  +915673412780", NUMBER),
    ("white space behind", "+915673412780 \r\n", NUMBER),
    ("tab", "+91\t56734\t12780", NUMBER),
    ("no-break space", "+91\u00a056734\u00a012780", NUMBER),
    ("narrow no-break space", "+91\u202f56734 12780", NUMBER),
    ("ideographic space", "+91\u300056734 12780", NUMBER),
    *((f"dash U+{ord(dash):04X}", f"+91{dash}56734{dash}12780", NUMBER) for dash in DASHES),
    *((f"mark U+{mark:04X}", f"{chr(mark)}+91{chr(mark)} 5673412780{chr(mark)}", NUMBER) for mark in MARKS),
    ("brackets around the country code", "(+91) 56734-12780", NUMBER),
    ("brackets behind the plus", "+(91) 56734 12780", NUMBER),
    ("square brackets", "[+91] 56734.12780", NUMBER),
    ("wide brackets", "\uff08+91\uff0956734 12780", NUMBER),
    ("a plus with a space", "+ 91 56734 12780", NUMBER),
    ("Mexico as WhatsApp spells it", "+5215512345678", "+525512345678"),
    ("Mexico with spaces", "+52 1 55 1234 5678", "+525512345678"),
    ("Mexico", "+525512345678", "+525512345678"),
    ("Argentina as WhatsApp spells it", "+5491123456789", "+5491123456789"),
    ("Argentina", "+541123456789", "+541123456789"),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "kept"), [case[1:] for case in SPELLINGS], ids=[case[0] for case in SPELLINGS])
def test_a_number_is_read_however_it_is_written(acme: Sender, rows: Rows, sent: str, kept: str) -> None:
    answer = acme.post(an_event(phone=sent))
    assert answer.status_code == 200, answer.text
    assert stored(rows, acme)[0] == kept


def test_a_number_in_a_batch_is_read_in_the_same_way(acme: Sender, rows: Rows) -> None:
    answer = acme.post_batch([an_event(phone="\u202a(+91)\u00a056734\u201112780\u202c")])
    assert answer.json["accepted"] == 1
    assert stored(rows, acme)[0] == NUMBER


def test_the_digits_of_the_stored_number_are_the_subject(acme: Sender, rows: Rows) -> None:
    acme.post(an_event(phone="+52 1 55 1234 5678", distinct_id=None))
    assert stored(rows, acme)[:2] == ("+525512345678", "525512345678")


UNUSABLE: list[tuple[Any, str]] = [
    ("5673412780", "must begin with + and the country code, such as +915673412780"),
    (5673412780, 'is a number; send it as text with the country code, such as "+915673412780"'),
    ("call me", "must begin with + and the country code, such as +915673412780"),
    ("+91 call me", "may hold only the digits 0 to 9, spaces, dots, dashes and brackets after the +"),
    ("+" + "9" * 300, "is longer than any phone number"),
    ({"number": 1}, 'must be text with the country code, such as "+915673412780"'),
]


@pytest.mark.parametrize(("phone", "message"), UNUSABLE, ids=range(len(UNUSABLE)))
def test_an_account_may_keep_events_with_an_unusable_phone(
    keeper: Sender, rows: Rows, phone: Any, message: str
) -> None:
    answer = keeper.post(an_event(phone=phone, distinct_id="c-17"))
    assert answer.status_code == 200, answer.text
    warning = f"phone: {message}; the event is stored without a phone, what was sent is in extra"
    assert answer.json["warnings"] == [warning]
    assert stored(rows, keeper) == (None, "c-17", {"phone": phone}, [warning])


def test_unknown_fields_stay_in_extra_beside_the_phone(keeper: Sender, rows: Rows) -> None:
    answer = keeper.post(an_event(phone=1.50, distinct_id="c-17", city="Pune"))
    assert stored(rows, keeper)[2] == {"phone": 1.5, "city": "Pune"}
    assert answer.json["warnings"][0] == "unknown fields kept in extra: city"
    assert len(answer.json["warnings"]) == 2


@pytest.mark.parametrize("subject", [None, "", ...])
def test_without_another_subject_an_unusable_phone_is_refused(keeper: Sender, subject: Any) -> None:
    answer = keeper.post(an_event(phone="5673412780", distinct_id=subject))
    assert (answer.status_code, [error["field"] for error in answer.json["errors"]]) == (422, ["phone"])


def test_other_faults_are_refused_beside_an_unusable_phone(keeper: Sender) -> None:
    answer = keeper.post(an_event(phone="5673412780", event=""))
    assert (answer.status_code, [error["field"] for error in answer.json["errors"]]) == (422, ["event"])


def test_a_new_account_refuses_an_unusable_phone(acme: Sender) -> None:
    assert acme.post(an_event(phone="5673412780")).status_code == 422


def test_the_items_of_a_batch_are_kept_too(keeper: Sender, rows: Rows) -> None:
    answer = keeper.post_batch([an_event(phone="5673412780"), an_event(phone="x", distinct_id="")])
    assert answer.status_code == 207
    assert (answer.json["accepted"], [error["index"] for error in answer.json["errors"]]) == (1, [1])
    ((phone, _, extra, warnings),) = [stored(rows, keeper)]
    assert (phone, extra) == (None, {"phone": "5673412780"})
    assert "must begin with +" in str(warnings)


def test_no_number_is_stored_for_an_event_that_is_kept_without_one(keeper: Sender, rows: Rows) -> None:
    keeper.post(an_event(phone="x", distinct_id="c-17"))
    assert rows("SELECT count(*) FROM events WHERE account_id = %s AND phone IS NOT NULL", keeper.account_id) == [(0,)]


def test_a_process_that_knows_the_account_stores_and_refuses_by_the_present_choice(
    context: AppContext, rows: Rows
) -> None:
    server = create_app(config.from_environment(settings_of(context))).test_client()
    sender = a_sender(context, server)
    accounts_of_server = server.application.extensions["accounts"]
    assert sender.post(an_event(phone="5673412780")).status_code == 422
    keep(context, sender)
    a_snapshot_is_older(accounts_of_server, sender)
    assert sender.post(an_event(phone="5673412780")).status_code == 200
    keep(context, sender, "refuse")
    a_snapshot_is_older(accounts_of_server, sender)
    assert sender.post(an_event(phone="5673412780")).status_code == 422


def a_snapshot_is_older(cache: Any, sender: Sender) -> None:
    """As if the process had last confirmed its snapshot of the account a minute ago."""
    account = cache._accounts[sender.account_id]
    cache._accounts[sender.account_id] = replace(account, checked_at=account.checked_at - 60)


def test_a_kept_event_repeats_by_its_idempotency_key(keeper: Sender) -> None:
    body = an_event(phone="5673412780", distinct_id="c-17")
    first = keeper.post(body, Idempotency_Key="k").json
    again = keeper.post(json.dumps(body, indent=2), Idempotency_Key="k").json
    assert (again["id"], again["duplicate"]) == (first["id"], True)
