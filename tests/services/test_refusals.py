"""Erasing a data subject finds the refusals that name it, however they are written."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Collection
from typing import Any

import pytest

from app.core.ids import uuid7
from app.db.refusals import SHOWN_HOOK, RefusalFilter
from app.services import data_subjects, refusals, refusals_erasure
from app.services.context import AppContext
from app.services.refusals import why_not_replayable
from app.services.refusals_erasure import Mentions
from tests.db.test_refusals import a_refusal, find, insert
from tests.support.builders import BATCH_PATH, Sender, an_event

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
        '{"note": "of\\nperson-4711\\tagain"}',
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
     "+91\u00a056734\u201012780", "567.341.2780", "+91 (0) 56734-12780", "+91(0)5673412780", "+9105673412780", "56734/12780",
     "0091 56734 12780", "0 0 91 56734 12780", "56734\t12780", "５６７３４１２７８０", "+٩١ ٥٦٧٣٤ ١٢٧٨٠", "（567）341．2780"],
)  # fmt: skip
def test_a_phone_number_is_found_however_it_is_written(written: str) -> None:
    assert mentions("nobody", json.dumps({"phone": written}), [PHONE])
    assert mentions("nobody", json.dumps({"phone": written}, ensure_ascii=False), [PHONE])
    assert mentions("915673412780", json.dumps({"phone": written}))


@pytest.mark.parametrize(
    "written",
    [
        "+9156734127801",
        "15673412781",
        "5673412",
        "order 5673412780123",
        "99156734127801",
        "5673412780１",
        "5673412, 780",
        "56734:12780",
    ],
)
def test_another_number_is_not_the_phone_number(written: str) -> None:
    assert not mentions("nobody", json.dumps({"phone": written}), [PHONE])


@pytest.mark.parametrize(
    "text",
    ["1. 5673412780", "12:30 5673412780", "on 2026-11-30 915673412780", "call 5673412780 2 times", "5673412780 - 2 times",
     "5673412781\n5673412780\n5673412782", "5673412781 +91 56734 12780 5673412782", "0 5673412780", "2.5673412780."],
)  # fmt: skip
def test_a_phone_number_is_found_beside_other_digits(text: str) -> None:
    assert mentions("nobody", text, [PHONE])
    assert mentions("nobody", json.dumps({"note": text}), [PHONE])


@pytest.mark.parametrize(
    ("phone", "written"),
    [("+79123456789", "89123456789"), ("+36301234567", "06301234567"), ("+525512345678", "5215512345678")],
)
def test_a_phone_number_is_found_with_the_prefix_of_its_country(phone: str, written: str) -> None:
    assert mentions("nobody", written, [phone])


@pytest.mark.parametrize(
    "text",
    ["0 " * 500_000, "0" * 1_000_000, "5 6 7 3 4 1 2 7 8 " * 50_000, "5" + " " * 1_000_000, ("5" + " " * 9) * 100_000,
     "567341278" * 100_000, ("91567341278" + "-" * 1000) * 1000, "9 1 5 6 7 3 4 1 2 7 8 " * 50_000, "५" * 200_000],
)  # fmt: skip
def test_a_phone_number_is_searched_in_linear_time(text: str) -> None:
    started = time.process_time()
    assert not mentions("nobody", text, [PHONE])
    assert time.process_time() - started < 5


def test_a_phone_number_of_equal_digits_is_searched_in_linear_time() -> None:
    started = time.process_time()
    assert not mentions("nobody", (("5" + " " * 1000) * 9 + "6 ") * 100, ["+915555555555"])
    assert time.process_time() - started < 5


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


def _erase(context: AppContext, account_id: int, subject: str) -> int:
    """Erase a subject from the refusals of an account; how many were deleted or changed."""
    erased, after, mentions = 0, None, Mentions(subject, (), NAMES)
    while True:
        with context.database.transaction() as connection:
            page = refusals_erasure.erase_refusals_page(connection, context, account_id, mentions, after)
        erased, after = erased + page.changed, page.last
        if after is None:
            return erased


def test_all_refusals_are_read_a_few_at_a_time(
    context: AppContext, acme: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals_erasure, "_BATCH", 3)
    insert(context, *(a_refusal(acme.account_id, id=uuid7()) for _ in range(7)))
    assert _erase(context, acme.account_id, "{") == 0
    insert(context, a_refusal(acme.account_id, id=uuid7(), body=b'{"distinct_id": "person-4711"}'))
    assert _erase(context, acme.account_id, "person-4711") == 1
    assert len(find(context, acme.account_id)) == 7


PERSON = "person-4711"
OTHERS = [an_event(distinct_id="first"), an_event(distinct_id="third")]
ITEMS = [OTHERS[0], an_event(distinct_id=PERSON, phone="1"), OTHERS[1]]


def _row(context: AppContext, account_id: int) -> tuple[list[int], list[dict[str, object]], dict[str, object]]:
    """The positions and the texts of the items of the account's only refusal, and its columns."""
    with context.database.transaction() as connection:
        (row,) = connection.exec_driver_sql("SELECT * FROM refusals WHERE account_id = %(id)s", {"id": account_id})
    body = zlib.decompress(row.body)
    texts = [json.loads(body[one["start"] : one["start"] + one["bytes"]]) for one in row.items]
    assert PERSON.encode() not in body
    return [one["index"] for one in row.items], texts, row._asdict()


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(ITEMS),
        json.dumps(ITEMS, indent=1),
        "\n".join(map(json.dumps, ITEMS)),
        "\n\n".join(map(json.dumps, ITEMS)),
    ],
)
def test_of_a_batch_that_was_refused_as_a_whole_the_items_of_others_stay(
    body: str, context: AppContext, acme: Sender
) -> None:
    insert(context, a_refusal(acme.account_id, body=body.encode(), route=BATCH_PATH, type="account-disabled"))
    assert _erase(context, acme.account_id, PERSON) == 1
    indexes, texts, row = _row(context, acme.account_id)
    assert (indexes, texts) == ([0, 2], OTHERS)
    assert row["items"][0]["type"] == "account-disabled"  # type: ignore[index]
    assert _erase(context, acme.account_id, PERSON) == 0


def test_of_a_packed_batch_the_items_of_others_stay_unpacked(context: AppContext, acme: Sender) -> None:
    packed = gzip.compress(json.dumps(ITEMS).encode())
    insert(context, a_refusal(acme.account_id, body=packed, content_encoding="gzip", route=BATCH_PATH))
    assert _erase(context, acme.account_id, PERSON) == 1
    indexes, texts, row = _row(context, acme.account_id)
    assert (indexes, texts, row["content_encoding"]) == ([0, 2], OTHERS, None)


def test_the_refused_items_of_others_stay(context: AppContext, acme: Sender) -> None:
    texts = [json.dumps(item).encode() for item in ITEMS]
    start, items = 0, []
    for index, text in zip((4, 7, 9), texts, strict=True):
        items.append({"index": index, "type": "t", "detail": "d", "errors": None, "start": start, "bytes": len(text)})
        start += len(text) + 1
    insert(
        context,
        a_refusal(acme.account_id, body=b"\n".join(texts), items=json.dumps(items), route=BATCH_PATH, status=207),
    )
    assert _erase(context, acme.account_id, PERSON) == 1
    assert _row(context, acme.account_id)[:2] == ([4, 9], OTHERS)


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        (json.dumps(ITEMS[1:2]), {}),
        (json.dumps(ITEMS)[:-1], {}),
        (json.dumps(ITEMS), {"replayable": False}),
        (json.dumps(ITEMS), {"idempotency_key": PERSON}),
    ],
)
def test_a_batch_in_which_the_subject_cannot_be_told_apart_is_deleted(
    body: str, changes: dict[str, Any], context: AppContext, acme: Sender
) -> None:
    insert(context, a_refusal(acme.account_id, body=body.encode(), route=BATCH_PATH, **changes))
    assert _erase(context, acme.account_id, PERSON) == 1
    assert find(context, acme.account_id) == []


def test_what_can_never_be_replayed_does_not_wait(context: AppContext, acme: Sender) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"content_encoding": "gzip"},
        {"content_encoding": "br"},
        {"type": "account-mismatch"},
        {"route": SHOWN_HOOK, "replayable": False},
        {"body": None},
    ]
    insert(context, *(a_refusal(acme.account_id, **change) for change in changes))
    everything = refusals.find_latest_refusals(context, acme.account_id, RefusalFilter(), 100)
    waiting = refusals.find_latest_refusals(context, acme.account_id, RefusalFilter(waiting=True), 100)
    assert waiting == [one for one in everything if why_not_replayable(one) is None]
    assert len(waiting) == 2
