"""The decisions of a batch take a limited amount of memory, however many workflows look at its items."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.ingest import batch_drafts
from app.ingest.batch_drafts import make_item_ids, read_drafts
from app.ingest.limechat.received_batch import ReceivedBatch
from app.services import workflows
from app.services.context import AppContext
from tests.api.conftest import Rows
from tests.support.acceptance import current_account
from tests.support.builders import Sender, a_workflow, an_event

KEPT = 500


def items() -> list[dict[str, Any]]:
    """Events that exceed the budget, and whose decisions say by how much: each has another one."""
    return [an_event(event="order", data={"text": "a" * (30_000 + number)}) for number in range(10)]


@pytest.fixture
def sender(context: AppContext, acme: Sender, monkeypatch: pytest.MonkeyPatch) -> Sender:
    """An account with a workflow that looks at the items; a batch keeps two or three decisions."""
    on = {"event": "order", "where": "data.text.matches('[ab]{40}c')"}
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="typed", on=on))
    monkeypatch.setattr(batch_drafts, "MAX_KEPT_DECISIONS", KEPT)
    return acme


def test_the_drafts_of_a_batch_keep_a_limited_number_of_decisions(context: AppContext, sender: Sender) -> None:
    texts = [json.dumps(item).encode() for item in items()]
    received = ReceivedBatch(sender.account_id, len(texts), texts.__getitem__, None, 100_000)
    account = current_account(context, sender.token)
    drafts = read_drafts(account, received, make_item_ids(len(texts), context.clock()), context.limits.shares).items
    kept = [len(draft.decisions) for draft in drafts if draft.decisions is not None]
    assert KEPT < sum(kept) < KEPT + max(kept) + 1
    assert [draft.is_matched_later for draft in drafts] == [number >= len(kept) for number in range(len(drafts))]


def test_items_after_many_decisions_are_decided_as_events_of_their_own(sender: Sender, rows: Rows) -> None:
    sent = items()
    assert [sender.post(item).status_code for item in sent] == [200] * len(sent)
    assert sender.post_batch(sent).json["accepted"] == len(sent)
    found = rows("SELECT decisions FROM events WHERE account_id = %s ORDER BY id", sender.account_id)
    assert found[: len(sent)] == found[len(sent) :]
    assert len({str(row[0]) for row in found}) == len(sent)
