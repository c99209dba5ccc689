"""What documents of workflows and of sources have in common: mistakes, differences, and the texts of their versions."""

from __future__ import annotations

import sqlalchemy as sa

from app.core.errors import Problem, ProblemType
from app.db.document_versions import DocumentVersions
from app.db.sources import SourceRow
from app.db.workflows import WorkflowRow

_ABSENT = object()
# Changed paths of a document that the audit log names.
MAX_RECORDED = 50


def find_text(
    connection: sa.Connection, versions: DocumentVersions, owner: WorkflowRow | SourceRow, version: int
) -> str:
    """The text of a version. Raises Problem 404."""
    # A greater number may not fit into the column.
    is_known = 1 <= version <= owner.latest_version
    found = versions.find(connection, owner.account_id, owner.id, version) if is_known else None
    if found is None:
        raise Problem(ProblemType.NOT_FOUND, f"{owner.name} has the versions 1 to {owner.latest_version}")
    source, _ = found
    return source


def find_differences(old: object, new: object, path: str = "") -> set[str]:
    """The paths at which two documents differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {
            found
            for name in old.keys() | new.keys()
            for found in find_differences(
                old.get(name, _ABSENT), new.get(name, _ABSENT), f"{path}.{name}" if path else name
            )
        }
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return {found for index, (one, other) in pairs for found in find_differences(one, other, f"{path}[{index}]")}
    return set() if old == new and isinstance(old, bool) == isinstance(new, bool) else {path}
