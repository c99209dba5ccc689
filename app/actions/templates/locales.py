"""The filters `number` and `money`: numbers as people of a country write them, by the Unicode CLDR data of Babel."""

from __future__ import annotations

import copy
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import TYPE_CHECKING

from babel import Locale, UnknownLocaleError
from babel.numbers import format_currency, get_currency_precision, is_currency

from app.actions.templates.decimals import MAX_DIGITS, read_number, rounded
from app.actions.templates.template_values import to_text

if TYPE_CHECKING:
    from app.actions.templates.liquid import Context

_MAX_DECIMALS = 20


def load() -> None:
    """Read the data that all locales share, and those of English."""
    read_locale("en").decimal_formats  # noqa: B018


def format_number(value: object, locale: object = "en", decimals: object = None, *, context: Context) -> str:
    """A number by the rules of a locale, with all its digits or rounded to `decimals`. What is no number stays as it is."""
    found, read = _read(value, context), read_locale(to_text(locale) or "en")
    if found is None:
        return to_text(value)
    if decimals is not None:
        decimals = read_decimals(decimals)
        found = Decimal(rounded(found, decimals))
    else:
        exponent = found.as_tuple().exponent
        decimals = max(0, -exponent) if isinstance(exponent, int) else 0
    pattern = copy.copy(read.decimal_formats[None])
    pattern.frac_prec = (decimals, decimals)
    with localcontext(prec=2 * MAX_DIGITS):
        return str(pattern.apply(found, read))


def format_money(value: object, currency: object, locale: object = "en", *, context: Context) -> str:
    """An amount with its currency (`INR`) by the rules of a locale, rounded to the currency's decimals, halves away from zero."""
    code, read = read_currency(to_text(currency)), read_locale(to_text(locale) or "en")
    found = _read(value, context)
    if found is None:
        return to_text(value)
    amount = Decimal(rounded(found, get_currency_precision(code)))
    with localcontext(prec=2 * MAX_DIGITS):
        return str(format_currency(amount, code, locale=read))


def _read(value: object, context: Context) -> Decimal | None:
    """The number in a value. None for no number; in strict templates that is an error, unless the value is null or empty."""
    text = to_text(value).strip()
    found: int | Decimal | None = read_number(value)
    if isinstance(value, bool) or (found == 0 and text.strip("+-0.eE") != ""):
        found = None
    if found is None and text and context.is_strict:
        raise ValueError(f"{text[:50]!r} is not a number")
    if found is None or not text:
        return None
    number = Decimal(found)
    if abs(number.adjusted()) >= MAX_DIGITS or len(number.as_tuple().digits) > MAX_DIGITS:
        raise ValueError(f"a number of more than {MAX_DIGITS} digits")
    return number


def read_decimals(value: object) -> int:
    """A number of decimals; raises ValueError."""
    decimals = int(read_number(value))
    if not 0 <= decimals <= _MAX_DECIMALS:
        raise ValueError(f"the number of decimals must be 0 to {_MAX_DECIMALS}")
    return decimals


def read_currency(text: str) -> str:
    """The code of a currency; raises ValueError."""
    if not is_currency(text.upper()):
        raise ValueError(f"{text[:20]!r} is not a currency; use a code such as INR")
    return text.upper()


@lru_cache(64)
def read_locale(text: str) -> Locale:
    """A locale such as en_IN or en-IN; raises ValueError."""
    try:
        return Locale.parse(text.replace("-", "_"))
    except (ValueError, UnknownLocaleError, TypeError):
        raise ValueError(f"{text[:50]!r} is not a locale; use one such as en_IN") from None


format_number.with_context = True  # type: ignore[attr-defined]
format_money.with_context = True  # type: ignore[attr-defined]
