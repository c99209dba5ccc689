"""A result is a row: the same keys for all benchmarks, further figures, and error messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Row = dict[str, Any]
_COLUMNS = ("name", "ours", "reference", "ratio", "target", "ok", "unit", "against", "failures")


def row(
    name: str,
    *,
    ours: float,
    unit: str,
    reference: float | None = None,
    against: str = "",
    ratio: float | None = None,
    target: float | None = None,
    failures: Iterable[str] = (),
    more: Mapping[str, Any] | None = None,
) -> Row:
    """`ratio` is reference divided by ours (more is better), `target` its minimum (None: no target). `failures` are messages
    about error responses and missing rows: with any of them the row is not ok."""
    failures = list(failures)
    return {
        "name": name,
        "ours": _short(ours),
        "reference": _short(reference),
        "ratio": None if ratio is None else round(ratio, 3),
        "target": target,
        "ok": not failures and (target is None or (ratio is not None and ratio >= target)),
        "unit": unit,
        "against": against,
        **(more or {}),
        **({"failures": failures} if failures else {}),
    }


def limited(name: str, ours: float, limit: float, *, unit: str, failures: Iterable[str] = (), **more: Any) -> Row:
    """A row for a figure with a maximum: the limit is the reference."""
    ratio = limit / ours if ours > 0 else float(limit)
    return row(
        name,
        ours=ours,
        reference=limit,
        against="at most",
        unit=unit,
        ratio=ratio,
        target=1.0,
        failures=failures,
        more=more,
    )


def broken(name: str, exc: BaseException) -> Row:
    """The row of a benchmark that raised."""
    return row(name, ours=0, unit="", failures=[f"it raised {type(exc).__name__}: {exc}"])


def _short(value: float | None) -> float | None:
    if value is None:
        return None
    return round(value) if abs(value) >= 100 else round(value, 2)


def table(rows: Iterable[Row]) -> str:
    """The rows as a table for people."""
    rows = list(rows)
    wide = max([len(one["name"]) for one in rows], default=4) + 2
    lines = [f"{'what':<{wide}}{'ours':>10}{'reference':>11}{'ratio':>8}{'target':>8}  ok?"]
    for one in rows:
        figures = f"{_formatted(one['ours']):>10}{_formatted(one['reference']):>11}{_formatted(one['ratio']):>8}"
        target = "none" if one["target"] is None else _formatted(one["target"])
        lines.append(f"{one['name']:<{wide}}{figures}{target:>8}  {'yes' if one['ok'] else 'NO'}")
        details = one["unit"] + (f"; reference: {one['against']}" if one["against"] else "")
        more = [f"{name} {_formatted(value)}" for name, value in one.items() if name not in _COLUMNS]
        lines.append(f"    {'; '.join(filter(None, [details, ', '.join(more)]))}")
        lines += [f"    FAILED: {sentence}" for sentence in one.get("failures", [])]
    return "\n".join(lines)


def _formatted(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
