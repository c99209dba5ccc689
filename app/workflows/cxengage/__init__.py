"""Compiles patterns in CxEngage's notation, of version 4.1 (`when` and `then`) or 4.2 (`code`), into workflow documents."""

from __future__ import annotations

from app.workflows.cxengage.compile import compile_pattern, compile_script
from app.workflows.cxengage.notation_parser import NotationError

__all__ = ["NotationError", "compile_pattern", "compile_script"]
