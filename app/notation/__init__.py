"""Patterns in CxEngage's notation become workflows of ours.

Comes in: the texts of a pattern, `when` and `then` (4.1) or `code` (4.2), and the account's message templates by their names.
Goes out: a document that `app.workflows` finds no mistake in, or NotationError with the place and what was expected there.
"""

from __future__ import annotations

from app.notation.documents import compile_pattern, compile_script
from app.notation.mistakes import NotationError

__all__ = ["NotationError", "compile_pattern", "compile_script"]
