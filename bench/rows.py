"""One result is one row: the same keys for all benchmarks, what is special beside them, and what went wrong in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Row = dict[str, Any]
_COLUMNS = ("name", "ours", "reference", "ratio", "target", "ok", "unit", "against", "wrong")


def row(
    name: str,
    *,
    ours: float,
    unit: str,
    reference: float | None = None,
    against: str = "",
    ratio: float | None = None,
    target: float | None = None,
    wrong: Iterable[str] = (),
    more: Mapping[str, Any] | None = None,
) -> Row:
    """`ratio` is the reference by ours (more is better); `target` the least that is asked of it, None: nothing is.
    `wrong`: sentences about answers that were errors, rows that are missing: with any of them nothing counts."""
    wrong = list(wrong)
    return {
        "name": name,
        "ours": _short(ours),
        "reference": _short(reference),
        "ratio": None if ratio is None else round(ratio, 3),
        "target": target,
        "ok": not wrong and (target is None or (ratio is not None and ratio >= target)),
        "unit": unit,
        "against": against,
        **(more or {}),
        **({"wrong": wrong} if wrong else {}),
    }


def at_most(name: str, ours: float, limit: float, *, unit: str, wrong: Iterable[str] = (), **more: Any) -> Row:
    """A row about something that must not exceed a limit: the limit is the reference."""
    ratio = limit / ours if ours > 0 else float(limit)
    return row(
        name, ours=ours, reference=limit, against="at most", unit=unit, ratio=ratio, target=1.0, wrong=wrong, more=more
    )


def broken(name: str, trouble: BaseException) -> Row:
    """The row of a benchmark that did not come to its end."""
    return row(name, ours=0, unit="", wrong=[f"it broke off: {type(trouble).__name__}: {trouble}"])


def _short(value: float | None) -> float | None:
    if value is None:
        return None
    return round(value) if abs(value) >= 100 else round(value, 2)


def table(rows: Iterable[Row]) -> str:
    """The rows as people read them."""
    rows = list(rows)
    wide = max([len(one["name"]) for one in rows], default=4) + 2
    lines = [f"{'what':<{wide}}{'ours':>10}{'reference':>11}{'ratio':>8}{'target':>8}  ok?"]
    for one in rows:
        figures = f"{_told(one['ours']):>10}{_told(one['reference']):>11}{_told(one['ratio']):>8}"
        target = "none" if one["target"] is None else _told(one["target"])
        lines.append(f"{one['name']:<{wide}}{figures}{target:>8}  {'yes' if one['ok'] else 'NO'}")
        told = one["unit"] + (f"; reference: {one['against']}" if one["against"] else "")
        more = [f"{name} {_told(value)}" for name, value in one.items() if name not in _COLUMNS]
        lines.append(f"    {'; '.join(filter(None, [told, ', '.join(more)]))}")
        lines += [f"    WRONG: {sentence}" for sentence in one.get("wrong", [])]
    return "\n".join(lines)


def _told(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
