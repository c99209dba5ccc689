"""`/livez`, `/readyz` and `/health` for load balancers and people, `/metrics` for Prometheus. All are open: they reveal nothing
about accounts, and details only to operators."""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import Any

import prometheus_client
import structlog
from flask import Blueprint, Flask, Response, request
from prometheus_client import CollectorRegistry, multiprocess

from app.api.current import extension
from app.api.errors import RETRY_AFTER_SECONDS
from app.api.rate_limit import RateLimiter
from app.api.responses import json_response
from app.api.route_limits import client_address
from app.core.config import Settings, SettingsError
from app.core.errors import Problem, ProblemType
from app.core.ids import utc_text
from app.services import startup_checks
from app.services.context import AppContext
from app.services.monitoring import Monitor
from app.services.readiness import CheckFailed, Report

blueprint = Blueprint("health", __name__)
_log = structlog.get_logger()


def register(app: Flask) -> None:
    """Add the routes, and the monitor that they show."""
    limiter: RateLimiter = app.extensions["rate_limiter"]
    context: AppContext = app.extensions["context"]

    def check_redis() -> str:
        if not limiter.answers():
            raise CheckFailed("Redis does not answer; the rate limits of accounts are not counted")
        return "Redis answers"

    app.extensions["monitor"] = Monitor(context, check_redis if context.settings.redis_url else None)
    app.register_blueprint(blueprint)


@blueprint.get("/livez")
def show_liveness() -> Response:
    """200: the process serves requests. Checks nothing else."""
    return json_response({"status": "ok"})


@blueprint.get("/readyz")
def show_readiness() -> Response:
    """200 while events can be stored, with what else fails; 503 otherwise. `?verbose`: all checks, for operators only."""
    monitor: Monitor = extension("monitor")
    report = monitor.readiness.check()
    is_verbose = "verbose" in request.args and _is_operator(extension("context").settings)
    response = json_response(_document(report, is_verbose=is_verbose), 200 if report.can_store else 503)
    if not report.can_store:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return response


def _document(report: Report, *, is_verbose: bool) -> dict[str, Any]:
    document: dict[str, Any] = {"status": report.status, "failing": [check.name for check in report.failing]}
    if is_verbose:
        document["checked_at"] = utc_text(report.checked_at)
        document["checks"] = [
            {"name": check.name, "state": check.state, "detail": check.detail, "seconds": check.seconds}
            for check in report.checks
        ]
    return document


def _is_operator(settings: Settings) -> bool:
    """Whether the client is on this machine or in OPERATOR_NETWORKS.

    A request that came through a proxy counts by the address that TRUSTED_PROXIES proxies report. When fewer have reported one,
    the address of the connection is that of a proxy.
    """
    hops = request.headers.get("X-Forwarded-For", "").count(",") + ("X-Forwarded-For" in request.headers)
    trusted = 1 if settings.trusted_proxies is None else settings.trusted_proxies
    if hops and not 0 < trusted <= hops:
        return False
    if not request.remote_addr and not hops:
        # A Unix socket.
        return True
    try:
        address = ip_address(client_address())
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or any(address in network for network in settings.operator_networks)


@blueprint.get("/health")
def health() -> Response:
    """200 while events can be stored; 503 (a problem document) while Postgres is unavailable or lacks a migration, or when the
    settings do not fit the database."""
    context: AppContext = extension("context")
    try:
        startup_checks.check_settings(context)
    except SettingsError as exc:
        _log.error("a setting does not fit the database", error=str(exc))
        detail = "A setting of the server does not fit the database; its log says which."
        raise Problem(ProblemType.SERVICE_UNAVAILABLE, detail) from None
    startup_checks.check_database(context)
    return Response('{"status":"ok"}', content_type="application/json")


@blueprint.get("/metrics")
def show_metrics() -> Response:
    """All metrics in Prometheus' text format, over all web processes where PROMETHEUS_MULTIPROC_DIR is set."""
    monitor: Monitor = extension("monitor")
    monitor.refresh_without_thread()
    registry = prometheus_client.REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(prometheus_client.generate_latest(registry), content_type=prometheus_client.CONTENT_TYPE_LATEST)
