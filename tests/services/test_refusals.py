"""Erasing a data subject finds the refusals that name it, however they are written."""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection

import pytest

from app.core.ids import uuid7
from app.services import data_subjects, refusals
from app.services.context import AppContext
from app.services.refusals import Mentions
from tests.db.test_refusals import a_refusal, find, insert
from tests.support.builders import Sender, an_event

PHONE = "+915673412780"
NAMES = ("distinct_id", "customer")


def mentions(subject: str, text: str, phones: Collection[str] = ()) -> bool:
    return Mentions(subject, phones, NAMES).are_in(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"distinct_id": "person-4711"}',
        '{"distinct_id": "person-4711", ',
        '{"data": {"note": "by person-4711, again"}}',
        '{"distinct_id": "\\u0070erson-4711"}',
        "distinct_id=person-4711&event=a",
    ],
)
def test_a_subject_is_found_in_json_and_in_other_texts(text: str) -> None:
    assert mentions("person-4711", text)


@pytest.mark.parametrize("text", ['{"distinct_id": "person-47110"}', '{"distinct_id": "aperson-4711"}', "{}"])
def test_a_longer_text_is_another_subject(text: str) -> None:
    assert not mentions("person-4711", text)


@pytest.mark.parametrize("subject", ['Jane "J" Doe', "a/b/c", "back\\slash", "Jürgen", "emoji 😀 name"])
@pytest.mark.parametrize("ascii", [True, False])
def test_a_subject_with_special_characters_is_found(subject: str, ascii: bool) -> None:
    assert mentions(subject, json.dumps({"distinct_id": subject}, ensure_ascii=ascii))
    assert mentions(subject, json.dumps({"distinct_id": subject}, ensure_ascii=ascii).replace("/", "\\/"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"distinct_id": "7"}', True),
        ('{"distinct_id": 7, "event": "a"}', True),
        ('{"customer":7}', True),
        ('{"anything": "7"}', True),
        ('{"quantity": 7}', False),
        ('{"distinct_id": 77}', False),
        ('{"distinct_id": 7.5}', False),
    ],
)
def test_a_short_subject_is_a_text_or_the_number_of_its_field(text: str, expected: bool) -> None:
    assert mentions("7", text) is expected


@pytest.mark.parametrize(
    "written",
    ["+915673412780", "915673412780", "00915673412780", "5673412780", "05673412780", "(+91) 56734-12780", "567 341 2780",
     "+91\u00a056734\u201012780", "567.341.2780"],
)  # fmt: skip
def test_a_phone_number_is_found_however_it_is_written(written: str) -> None:
    assert mentions("nobody", json.dumps({"phone": written}), [PHONE])
    assert mentions("nobody", json.dumps({"phone": written}, ensure_ascii=False), [PHONE])
    assert mentions("915673412780", json.dumps({"phone": written}))


@pytest.mark.parametrize("written", ["+9156734127801", "15673412781", "5673412", "order 5673412780123"])
def test_another_number_is_not_the_phone_number(written: str) -> None:
    assert not mentions("nobody", json.dumps({"phone": written}), [PHONE])


def test_a_number_without_quotes_is_a_phone_number() -> None:
    assert mentions("nobody", '{"phone": 915673412780}', [PHONE])


def test_refusals_that_name_a_subject_are_erased_with_it(context: AppContext, acme: Sender, globex: Sender) -> None:
    person = "person-4711"
    assert acme.post(an_event(distinct_id=person)).status_code == 200
    by_name = [a_refusal(acme.account_id, body=b'{"distinct_id": "person-4711"') for _ in range(50)]
    by_phone = a_refusal(acme.account_id, body=b'{"phone": "567 341 2780"}')
    by_key = a_refusal(acme.account_id, idempotency_key=f"{person}-2026")
    packed = gzip.compress(b'{"distinct_id": "person-4711"}')
    by_gzip = a_refusal(acme.account_id, body=packed, content_encoding="gzip")
    unreadable = a_refusal(acme.account_id, body=b"?", content_encoding="br")
    other = a_refusal(acme.account_id, body=b'{"distinct_id": "person-4712", "phone": "+4915112345678"}')
    other_gzip = a_refusal(acme.account_id, body=gzip.compress(b"{}"), content_encoding="gzip")
    without_body = a_refusal(acme.account_id, body=None)
    of_globex = a_refusal(globex.account_id, body=b'{"distinct_id": "person-4711"}')
    insert(
        context,
        *by_name[:30],
        other,
        by_phone,
        by_key,
        by_gzip,
        unreadable,
        other_gzip,
        without_body,
        *by_name[30:],
        of_globex,
    )
    erased = data_subjects.erase_subject(context, acme.account_id, person)
    assert (erased.events, erased.refusals) == (1, 54)
    assert sorted(find(context, acme.account_id)) == sorted([other.id, other_gzip.id, without_body.id])
    assert find(context, globex.account_id) == [of_globex.id]


def test_all_refusals_are_read_a_few_at_a_time(
    context: AppContext, acme: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "_BATCH", 3)
    insert(context, *(a_refusal(acme.account_id, id=uuid7()) for _ in range(7)))
    assert refusals.erase_refusals(context, acme.account_id, "{", ()) == 0
    insert(context, a_refusal(acme.account_id, id=uuid7(), body=b'{"distinct_id": "person-4711"}'))
    assert refusals.erase_refusals(context, acme.account_id, "person-4711", ()) == 1
    assert len(find(context, acme.account_id)) == 7
