"""How much of a process the management API may use."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import pytest

from app.core.errors import Problem
from app.services.context import AppContext
from app.services.process_limits import ProcessLimits


@pytest.mark.parametrize(("pool", "requests"), [(1, 1), (4, 1), (6, 2), (10, 4), (200, 4)])
def test_so_many_accounts_can_have_a_request_of_the_management_api(
    context: AppContext, pool: int, requests: int
) -> None:
    limits = ProcessLimits(replace(context.settings, database_pool=pool, connect_timeout=0), context.database)
    with ExitStack() as held:
        for account_id in range(requests):
            held.enter_context(limits.management_requests.acquire(account_id))
        with pytest.raises(Problem, match="of this kind"):
            held.enter_context(limits.management_requests.acquire(requests))
