"""Requests that Signalbox signs itself are what the provider would have sent."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from app.ingest.sources.signer import CannotSign, sign
from app.ingest.sources.verifier import verify
from app.workflows.sources.schemes import Scheme, read_scheme
from tests.support.webhook_senders import SENDERS, WebhookSender

# The signature is in the body, or only the provider has the key.
UNSIGNABLE = {"mailgun", "mailgun, form", "sendgrid"}


def scheme_of(sender: WebhookSender) -> Scheme:
    scheme = read_scheme(sender.section)
    assert scheme is not None
    return scheme


@pytest.mark.parametrize("sender", [one for one in SENDERS if one.name not in UNSIGNABLE], ids=lambda one: one.name)
def test_what_is_signed_is_verified_by_us_and_by_the_library_of_the_provider(sender: WebhookSender) -> None:
    # The libraries have clocks of their own.
    now = datetime.now(UTC)
    sent = sign(scheme_of(sender), sender.secret, sender.delivery, now)
    assert verify(scheme_of(sender), [sender.secret], sent, now).verified
    assert not verify(scheme_of(sender), ["b3RoZXIgc2VjcmV0"], sent, now).verified
    if sender.library is not None:
        assert sender.library(sent, sender.secret) is not False


@pytest.mark.parametrize("sender", [one for one in SENDERS if one.name in UNSIGNABLE], ids=lambda one: one.name)
def test_what_cannot_be_signed_is_explained(sender: WebhookSender) -> None:
    with pytest.raises(CannotSign, match=r"cannot be added to a body|only the provider has"):
        sign(scheme_of(sender), sender.secret, sender.delivery, datetime.now(UTC))


def test_a_secret_that_cannot_be_read_is_explained() -> None:
    (sender,) = [one for one in SENDERS if one.name == "standard-webhooks"]
    with pytest.raises(CannotSign, match="no secret of the source can be used"):
        sign(scheme_of(sender), "whsec_%", sender.delivery, datetime.now(UTC))


def test_without_verification_nothing_is_signed() -> None:
    delivery = SENDERS[0].delivery
    assert sign(None, "", delivery, datetime.now(UTC)) is delivery
