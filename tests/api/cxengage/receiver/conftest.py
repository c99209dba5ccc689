"""Tenants for the tests of CxEngage's receiver, which send over real sockets."""

from __future__ import annotations

import pytest

from app.services.context import AppContext
from tests.support.cxengage_tenants import Tenant, a_tenant
from tests.support.server import Server


@pytest.fixture
def tenant(context: AppContext, server: Server) -> Tenant:
    """The sending tenant; new for each test."""
    return a_tenant(context, server)


@pytest.fixture
def stranger(context: AppContext, server: Server) -> Tenant:
    """Another tenant, which must never see events of the first."""
    return a_tenant(context, server, "globex")


@pytest.fixture(scope="module")
def shared(context: AppContext, server: Server) -> Tenant:
    """A tenant for tests that check only the response, or the one row that it names."""
    return a_tenant(context, server)
