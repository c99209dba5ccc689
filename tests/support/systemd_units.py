"""The settings in the units of deploy/systemd."""

from __future__ import annotations

import configparser
from pathlib import Path


def settings_of(unit: Path) -> configparser.SectionProxy:
    """The section [Service] or [Socket]. Of a repeated setting only the last value is there."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    return parser["Socket" if unit.suffix == ".socket" else "Service"]
