"""What all CxEngage routes share: both prefixes, who is let in, and the shape of errors."""

from __future__ import annotations

import pytest

from tests.builders import Sender


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("prefix", ["/1.0", ""])
def test_a_tenant_is_shown_to_its_own_key(acme: Sender, prefix: str) -> None:
    answer = acme.client.open(f"{prefix}/tenants/{acme.slug}", headers=bearer(acme.token))
    assert (answer.status_code, answer.json) == (200, {"id": acme.slug, "name": acme.slug})


def test_another_tenant_and_none_at_all_are_refused_alike(acme: Sender, globex: Sender) -> None:
    answers = [
        acme.client.open(f"/1.0/tenants/{tenant}/", headers=bearer(acme.token)) for tenant in (globex.slug, "nobody")
    ]
    assert [(one.status_code, one.data) for one in answers] == [
        (403, b'{"error":"The token does not open this tenant."}')
    ] * 2


@pytest.mark.parametrize("headers", [{}, bearer("sb_12345678_" + "x" * 43), {"Authorization": "Basic eDp5"}])
def test_without_a_valid_token_nobody_is_let_in(acme: Sender, headers: dict[str, str]) -> None:
    answer = acme.client.open(f"/1.0/tenants/{acme.slug}/", headers=headers)
    assert (answer.status_code, list(answer.json)) == (401, ["error"])
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="signalbox"'
