"""`POST /api/v1/cvf-events` over real sockets: who may send, and what an idempotency key does."""

from __future__ import annotations

import gzip
import json
from datetime import timedelta

import pytest

from app.core.models import EVENTS_WRITE
from app.services import accounts, api_keys, workflows
from app.services.context import AppContext
from tests.api.conftest import Rows
from tests.api.limechat.conftest import assert_problem, counts, stored
from tests.support.builders import EVENTS_PATH, Sender, a_workflow, an_event
from tests.support.server import Answer, Server

# Idempotency keys


@pytest.mark.parametrize("header", ["Idempotency_Key", "webhook_id"])
def test_a_repeated_key_gets_the_first_answers_id_and_starts_nothing(
    acme: Sender, context: AppContext, rows: Rows, header: str
) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    first = acme.post(an_event(), **{header: "order 1"}).json
    second = acme.post(an_event(), **{header: "order 1"})
    assert second.status_code == 200
    assert second.json == {**first, "duplicate": True, "contributing": False, "runs": []}
    assert counts(rows, acme) == (1, 1, 1)


def test_both_headers_name_the_same_keys(acme: Sender) -> None:
    first = acme.post(an_event(), Idempotency_Key="k").json
    assert acme.post(an_event(), webhook_id="k").json["id"] == first["id"]


def test_of_both_headers_the_idempotency_key_counts(acme: Sender, rows: Rows) -> None:
    answer = acme.post(an_event(), Idempotency_Key="this", webhook_id="that")
    assert stored(rows, answer)["idempotency_key"] == "this"


def test_the_same_key_with_another_body_is_refused(acme: Sender, rows: Rows) -> None:
    first = acme.post(an_event(), Idempotency_Key="k").json
    problem = assert_problem(acme.post(an_event(event="other"), Idempotency_Key="k"), 422)
    assert first["id"] in problem["detail"]
    assert counts(rows, acme) == (1, 0, 1)


def test_the_same_body_is_the_same_packed_or_not(acme: Sender) -> None:
    body = json.dumps(an_event()).encode()
    first = acme.post(body, Idempotency_Key="k").json
    again = acme.post(gzip.compress(body), Idempotency_Key="k", Content_Encoding="gzip").json
    assert (again["id"], again["duplicate"]) == (first["id"], True)


def test_a_refused_event_does_not_use_up_its_key(acme: Sender) -> None:
    assert acme.post(an_event(event=""), Idempotency_Key="k").status_code == 422
    assert acme.post(an_event(), Idempotency_Key="k").json["duplicate"] is False


def test_keys_belong_to_their_account(acme: Sender, globex: Sender) -> None:
    first = acme.post(an_event(), Idempotency_Key="k").json
    other = globex.post(an_event(event="other"), Idempotency_Key="k")
    assert other.json["duplicate"] is False
    assert other.json["id"] != first["id"]


@pytest.mark.parametrize(("days", "remembered"), [(29, True), (31, False)])
def test_keys_are_remembered_30_days(acme: Sender, rows: Rows, days: int, remembered: bool) -> None:
    first = acme.post(an_event(), Idempotency_Key="k").json
    rows(
        "UPDATE idempotency_keys SET received_at = received_at - %s WHERE account_id = %s",
        timedelta(days=days),
        acme.account_id,
    )
    again = acme.post(an_event(), Idempotency_Key="k").json
    assert (again["duplicate"], again["id"] == first["id"]) == (remembered, remembered)


@pytest.mark.parametrize("key", ["k", "k" * 255, "two words", "'; --", "%s $1 \\", '"', "a,b", "~!@#$^&*()"])
def test_a_key_has_1_to_255_printable_characters(acme: Sender, rows: Rows, key: str) -> None:
    assert stored(rows, acme.post(an_event(), Idempotency_Key=key))["idempotency_key"] == key
    assert acme.post(an_event(), Idempotency_Key=key).json["duplicate"] is True


@pytest.mark.parametrize("key", ["", "k" * 256, "é", "tab\tbed"])
def test_any_other_key_is_refused(acme: Sender, key: str) -> None:
    problem = assert_problem(acme.post(an_event(), Idempotency_Key=key), 422)
    assert [error["field"] for error in problem["errors"]] == ["Idempotency-Key"]


# Who may send


def post_with(server: Server, **headers: str) -> Answer:
    """A good event with exactly these headers beside its Content-Type."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.post(
        EVENTS_PATH, data=json.dumps(an_event()).encode(), headers={"Content-Type": "application/json", **named}
    )


def test_a_missing_unknown_expired_or_revoked_key_gets_the_same_words(
    context: AppContext, server: Server, acme: Sender
) -> None:
    expired = api_keys.create_key(context, acme.account_id, "old", (EVENTS_WRITE,), timedelta(microseconds=1))
    revoked = api_keys.create_key(context, acme.account_id, "lost", (EVENTS_WRITE,))
    api_keys.revoke_key(context, revoked[3:11])
    account = str(acme.account_id)
    almost = acme.token[:-1] + ("A" if acme.token[-1] != "A" else "B")
    answers = [post_with(server, x_fb_account_id=account)]
    for token in (
        expired,
        revoked,
        almost,
        "",
        "x",
        "sb_",
        "sb_12345678_" + "x" * 43,
        acme.token + "x",
        acme.token[:-1],
    ):
        answers.append(post_with(server, x_fb_account_id=account, x_limechat_uat=token))
    answers.append(post_with(server, x_fb_account_id=account, x_limechat_uat=acme.token.lower()))
    problems = [assert_problem(answer, 401) for answer in answers]
    assert all(problem == problems[0] for problem in problems)
    assert all(answer.headers["WWW-Authenticate"] for answer in answers)


def test_a_key_with_blanks_around_it_is_the_key(server: Server, acme: Sender) -> None:
    answer = post_with(server, x_fb_account_id=f" {acme.account_id} ", x_limechat_uat=f"  {acme.token} ")
    assert answer.status_code == 200


@pytest.mark.parametrize("account", ["0", "-1", "999999999", "01", "+1", "1.0", "acme", "1 OR 1=1", "9" * 400, "١"])
def test_a_key_is_refused_for_another_account(server: Server, acme: Sender, account: str) -> None:
    answer = post_with(server, x_limechat_uat=acme.token, x_fb_account_id=account.encode().decode("latin-1"))
    assert_problem(answer, 403)


def test_the_key_of_another_account_reveals_nothing_about_that_account(
    server: Server, acme: Sender, globex: Sender
) -> None:
    there = post_with(server, x_limechat_uat=acme.token, x_fb_account_id=str(globex.account_id))
    nowhere = post_with(server, x_limechat_uat=acme.token, x_fb_account_id="999999999")
    assert assert_problem(there, 403) == assert_problem(nowhere, 403)


def test_a_missing_account_id_is_reported_to_a_valid_key(server: Server, acme: Sender) -> None:
    problem = assert_problem(post_with(server, x_limechat_uat=acme.token), 422)
    assert [error["field"] for error in problem["errors"]] == ["x-fb-account-id"]


def test_a_missing_account_id_is_not_reported_to_an_invalid_key(server: Server) -> None:
    assert_problem(post_with(server, x_limechat_uat="sb_12345678_" + "x" * 43), 401)


def test_an_invalid_idempotency_key_is_not_reported_to_an_invalid_key(server: Server, acme: Sender) -> None:
    token = "sb_12345678_" + "x" * 43
    answer = post_with(server, x_limechat_uat=token, x_fb_account_id=str(acme.account_id), Idempotency_Key="")
    assert_problem(answer, 401)


def test_a_key_without_the_scope_is_refused(context: AppContext, server: Server, acme: Sender) -> None:
    token = api_keys.create_key(context, acme.account_id, "reader", ("events:read",))
    answer = post_with(server, x_limechat_uat=token, x_fb_account_id=str(acme.account_id))
    assert EVENTS_WRITE in assert_problem(answer, 403)["detail"]


def test_a_disabled_account_is_refused(context: AppContext, acme: Sender, rows: Rows) -> None:
    accounts.switch_account(context, acme.account_id, on=False)
    assert "disabled" in assert_problem(acme.post(an_event()), 403)["detail"]
    assert counts(rows, acme) == (0, 0, 0)
