"""Phone numbers of a region: national numbers, and what is refused."""

from __future__ import annotations

import pytest

from app.core.phone_numbers import UnusablePhone, is_region, read_phone


@pytest.mark.parametrize(
    ("sent", "region", "found"),
    [
        ("98765 43210", "IN", "+919876543210"),
        ("09876543210", "IN", "+919876543210"),
        ("91 98765 43210", "IN", "+919876543210"),
        ("0091 98765 43210", "IN", "+919876543210"),
        ("+44 20 7946 0958", "IN", "+442079460958"),
        (9876543210, "IN", "+919876543210"),
        ("9876543210.0", "IN", "+919876543210"),
        ("+1.800.555.0100", None, "+18005550100"),
        ("020 7946 0958", "GB", "+442079460958"),
    ],
)
def test_a_number_without_a_country_code_is_of_the_region(sent: object, region: str, found: str) -> None:
    assert read_phone(sent, region) == found


@pytest.mark.parametrize("sent", ["98765 43210", "919876543210", 9876543210])
def test_without_a_region_a_number_needs_its_country_code(sent: object) -> None:
    with pytest.raises(UnusablePhone, match="country code"):
        read_phone(sent)


@pytest.mark.parametrize(
    ("sent", "region", "message"),
    [
        ("12345", "IN", "is too short for a number of that country"),
        ("555-0100", "US", "has no area code"),
        ("98765x43210", "IN", "must begin with \\+ and the country code"),
        (True, "IN", "must be text"),
        (98765.5, "IN", "is a number"),
        (10**80, "IN", "is longer than any phone number"),
    ],
)
def test_what_is_no_number_of_the_region_is_refused(sent: object, region: str, message: str) -> None:
    with pytest.raises(UnusablePhone, match=message):
        read_phone(sent, region)


def test_a_number_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(UnusablePhone, match="is longer than any phone number"):
        read_phone(10**5_000, "IN")


def test_regions_are_upper_case_letters() -> None:
    assert [text for text in ("IN", "in", "XX", "India", None, ["IN"], "NO") if is_region(text)] == ["IN", "NO"]
