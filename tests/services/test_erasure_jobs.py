"""Erasures that workers do: how far one has come is kept with its job, so that nothing is lost or counted twice."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from flask import Flask

from app.core.errors import Problem
from app.core.models import Actor
from app.services import data_subjects
from app.services.context import AppContext
from app.services.erasure_jobs import MAX_UNFINISHED, TakenOver, continue_erasure, list_unfinished, request_erasure
from tests.support.builders import Sender, an_event
from tests.support.console_pages import fill_account
from tests.support.run_execution import erase_requested

PERSON = "person-4711"
ANNA = Actor("anna", "console")


def _job(context: AppContext, account_id: int) -> tuple[UUID, str]:
    """The erasure that waits: its id, and its text."""
    with context.database.transaction() as connection:
        query = "SELECT payload FROM jobs WHERE kind = 'erase' AND payload LIKE %(like)s"
        payload = connection.exec_driver_sql(query, {"like": f"{account_id}:%"}).scalar_one()
    _, erasure_id, text = payload.split(":")
    return UUID(erasure_id), text


def _receipts(context: AppContext, account_id: int) -> list[Any]:
    found = data_subjects.list_receipts(context, account_id, PERSON, before=None, limit=10)
    return [(receipt.actor, receipt.counts) for receipt in found]


def test_a_worker_that_stops_after_each_step_erases_what_the_command_does(
    app: Flask, context: AppContext, acme: Sender, globex: Sender
) -> None:
    for sender in (acme, globex):
        fill_account(app, sender, PERSON, 3)
    at_once = data_subjects.erase_subject(context, globex.account_id, PERSON)
    request_erasure(context.acting_as(ANNA), acme.account_id, PERSON)
    slices = 1
    while not continue_erasure(context, acme.account_id, *_job(context, acme.account_id), 0.0):
        slices += 1
    assert slices > 10
    counts = {"events": at_once.events, "runs": at_once.runs, "progress": at_once.progress}
    counts |= {"refusals": at_once.refusals, **at_once.more}
    assert counts["events"] >= 3
    assert _receipts(context, acme.account_id) == [("anna", counts)]


def test_an_erasure_that_has_ended_is_not_done_again_when_its_job_is_still_there(
    context: AppContext, acme: Sender
) -> None:
    acme.post(an_event(distinct_id=PERSON))
    request_erasure(context, acme.account_id, PERSON)
    for _ in range(2):
        assert continue_erasure(context, acme.account_id, *_job(context, acme.account_id), 60.0)
    assert len(_receipts(context, acme.account_id)) == 1


def test_a_worker_that_was_out_of_reach_does_not_repeat_what_another_has_done(
    context: AppContext, acme: Sender
) -> None:
    acme.post(an_event(distinct_id=PERSON))
    request_erasure(context, acme.account_id, PERSON)
    erasure_id, before = _job(context, acme.account_id)
    continue_erasure(context, acme.account_id, erasure_id, before, 0.0)
    with pytest.raises(TakenOver):
        continue_erasure(context, acme.account_id, erasure_id, before, 0.0)


def test_a_person_is_erased_once_however_often_that_is_requested(context: AppContext, acme: Sender) -> None:
    assert request_erasure(context, acme.account_id, PERSON)
    assert not request_erasure(context, acme.account_id, PERSON)
    assert len(list_unfinished(context, acme.account_id)) == 1
    erase_requested(context, acme.account_id)
    assert list_unfinished(context, acme.account_id) == []
    assert request_erasure(context, acme.account_id, PERSON)


def test_an_account_has_a_bounded_number_of_unfinished_erasures(
    context: AppContext, acme: Sender, globex: Sender
) -> None:
    assert all(request_erasure(context, acme.account_id, f"person-{number}") for number in range(MAX_UNFINISHED))
    with pytest.raises(Problem, match="have not ended"):
        request_erasure(context, acme.account_id, "one-more")
    assert not request_erasure(context, acme.account_id, "person-0")
    assert request_erasure(context, globex.account_id, "one-more")
    assert len(list_unfinished(context, acme.account_id)) == MAX_UNFINISHED


def test_a_request_is_audited_under_the_name_of_who_called_for_it_without_the_id(
    context: AppContext, acme: Sender
) -> None:
    request_erasure(context.acting_as(ANNA), acme.account_id, PERSON)
    with context.database.transaction() as connection:
        query = "SELECT actor, action, object_id FROM audit_log WHERE account_id = %(id)s ORDER BY id DESC LIMIT 1"
        entry = connection.exec_driver_sql(query, {"id": acme.account_id}).one()
    assert (entry.actor, entry.action) == ("anna", "subject.request_erasure")
    assert PERSON not in entry.object_id


def test_another_account_has_its_own_erasures(context: AppContext, acme: Sender, globex: Sender) -> None:
    request_erasure(context, acme.account_id, PERSON)
    assert list_unfinished(context, globex.account_id) == []
    assert request_erasure(context, globex.account_id, PERSON)
