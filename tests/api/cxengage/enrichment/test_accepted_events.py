"""What augments add is seen by workflows, patterns, runs and queries."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.ingest.enrichment import Enricher
from app.services import workflows
from app.services.context import AppContext
from tests.api.cxengage.conftest import Tenant
from tests.api.cxengage.enrichment.conftest import (
    a_file,
    accepted,
    an_account,
    build,
    stored,
)
from tests.support.acceptance import accept
from tests.support.builders import a_workflow
from tests.support.run_execution import execute_run, rows_of, wake

# From acceptance to the run


def test_workflows_match_and_use_the_added_fields(context: AppContext, tenant: Tenant, enricher: Enricher) -> None:
    a_file(tenant)
    workflows.apply_workflow(
        context,
        tenant.account_id,
        a_workflow(
            on={"event": "order", "where": 'data.segment == "gold"'},
            steps=[{"log": "{{ data['first-name'] }} is {{ data.segment }}"}],
        ),
    )
    assert accepted(context, tenant, enricher, custId=201).runs == ()
    receipt = accepted(context, tenant, enricher, custId=101, price=1)
    assert stored(context, receipt) == (
        '{"price": 1, "custId": 101}',
        '{"segment": "gold", "first-name": "Ryan"}',
        None,
    )
    (run,) = receipt.runs
    execute_run(context, tenant.account_id, str(run))
    (step,) = rows_of(context, "steps", tenant.account_id, str(run))
    assert step["output"] == {"text": "Ryan is gold"}


def test_the_documented_query_finds_the_added_fields(context: AppContext, tenant: Tenant, enricher: Enricher) -> None:
    a_file(tenant)
    accepted(context, tenant, enricher, custId=999)
    accepted(context, tenant, enricher, custId=101)
    page = (Path(__file__).resolve().parents[4] / "docs/sql.md").read_text("utf-8").partition("did augments add")[2]
    query, *_ = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    with context.database.transaction() as connection:
        rows = connection.exec_driver_sql(query.replace(":account", "%(id)s"), {"id": tenant.account_id}).all()
    assert [(row.data, row.augmented["segment"]) for row in rows] == [({"custId": 101}, "gold")]


def test_a_pattern_of_several_events_sees_the_added_fields(
    context: AppContext, tenant: Tenant, enricher: Enricher
) -> None:
    a_file(tenant)
    leaf = {"event": "order", "where": 'data.segment == "gold"'}
    workflows.apply_workflow(
        context, tenant.account_id, a_workflow(on={"times": 2, "of": leaf, "within": "1h"}, steps=[{"log": "twice"}])
    )
    assert accepted(context, tenant, enricher, custId=101).runs == ()
    assert len(accepted(context, tenant, enricher, custId=101).runs) == 1


@pytest.mark.parametrize("key", [{}, {"key": "data.custId"}])
def test_waiting_runs_see_the_added_fields(
    context: AppContext, tenant: Tenant, enricher: Enricher, key: dict[str, str]
) -> None:
    a_file(tenant)
    waits = {
        "wait_for": {"event": "order", "where": 'data.segment == "gold"'},
        "timeout": "1h",
        "then": [{"log": "gold"}],
    }
    workflows.apply_workflow(
        context, tenant.account_id, a_workflow(**key, on={"event": "order", "where": "data.first"}, steps=[waits])
    )
    (run,) = accepted(context, tenant, enricher, custId=101, first=True).runs
    assert execute_run(context, tenant.account_id, str(run))["status"] == "running"
    later = accepted(context, tenant, enricher, custId=101, first=False)
    wake(context, tenant.account_id, str(later.id))
    assert rows_of(context, "steps", tenant.account_id, str(run))[0]["output"]["data"]["segment"] == "gold"


def test_a_file_uploaded_after_the_snapshot_was_loaded_is_used(
    context: AppContext, tenant: Tenant, enricher: Enricher
) -> None:
    old = an_account(context, tenant)
    a_file(tenant)
    receipt = accept(context, old, lambda account: build(context, account, enricher, {"custId": 101}))
    assert stored(context, receipt)[1] == '{"segment": "gold", "first-name": "Ryan"}'
