"""Everything that is stored about an account, as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator

import app
from app.core.ids import utc_text
from app.db import export
from app.services.context import AppContext


def export_account(context: AppContext, account_id: int) -> Iterator[str]:
    """All rows of an account as of now, one line of JSON each, without secrets. Later changes are left out.

    The first line has the kind `export`: the account, the release and the time. The last one has the kind `end`: the number of
    rows of each kind. Without it the export is not complete. Memory does not grow with the rows. Raises Unavailable.
    """
    counts: dict[str, int] = {}
    with context.database.transaction() as connection:
        export.begin_snapshot(connection)
        yield _line("export", {"account": account_id, "at": utc_text(context.clock()), "version": app.__version__})
        for table in export.tables_of_accounts():
            for line in export.read_rows(connection, table, account_id):
                counts[table] = counts.get(table, 0) + 1
                yield line
    yield _line("end", counts)


def _line(kind: str, row: dict[str, object] | dict[str, int]) -> str:
    return json.dumps({"kind": kind, "row": row})
