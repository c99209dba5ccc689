"""Time zones are places, UTC, and offsets."""

from __future__ import annotations

import pytest

from app.core.time_zones import find_zone


@pytest.mark.parametrize("name", ["Asia/Kolkata", "UTC", "GMT", "EST5EDT", "Etc/GMT+5", "+05:30", "-8:00"])
def test_a_zone_is_found(name: str) -> None:
    assert find_zone(name) is not None


@pytest.mark.parametrize(
    "name",
    [
        *("localtime", "posixrules", "Factory", "posix/Asia/Kolkata", "right/Asia/Kolkata", "tzdata.zi", "zone.tab"),
        *("", "Asia", "Asia/", "/etc/localtime", "../localtime", "asia/nowhere", "IST5", "+25:00", 5, None),
    ],
)
def test_what_is_no_zone_is_refused(name: object) -> None:
    with pytest.raises(ValueError, match="the time zone is not known"):
        find_zone(name)
