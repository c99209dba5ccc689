"""Patterns in CxEngage's notation become workflows of ours.

Comes in: the texts of a pattern, `when` and `then` (4.1) or `code` (4.2), and the account's message templates by their names.
Goes out: a document that `app.workflows.validate` finds no mistake in, or NotationError with the place and what was expected
there.
"""

from __future__ import annotations

from app.workflows.cxengage.compile import compile_pattern, compile_script
from app.workflows.cxengage.errors import NotationError

__all__ = ["NotationError", "compile_pattern", "compile_script"]
