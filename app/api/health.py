"""`GET /health` for load balancers, `GET /metrics` for Prometheus. Both are open: they reveal nothing about accounts."""

from __future__ import annotations

import os
from contextlib import suppress

import prometheus_client
import structlog
from flask import Blueprint, Response, current_app
from prometheus_client import CollectorRegistry, multiprocess

from app.core import metrics
from app.core.config import SettingsError
from app.core.errors import Problem, ProblemType, Unavailable
from app.services import accounts, targets
from app.services.context import AppContext

blueprint = Blueprint("health", __name__)
_log = structlog.get_logger()


@blueprint.get("/health")
def health() -> Response:
    """200 while events can be stored; 503 (a problem document) while Postgres is unavailable or lacks a migration, or when the
    settings do not fit the database."""
    context: AppContext = current_app.extensions["context"]
    try:
        context.check_settings()
    except SettingsError as exc:
        _log.error("a setting does not fit the database", error=str(exc))
        detail = "A setting of the server does not fit the database; its log says which."
        raise Problem(ProblemType.SERVICE_UNAVAILABLE, detail) from None
    context.check_database()
    return Response('{"status":"ok"}', content_type="application/json")


@blueprint.get("/metrics")
def show_metrics() -> Response:
    """All metrics in Prometheus' text format, over all web processes where PROMETHEUS_MULTIPROC_DIR is set."""
    context: AppContext = current_app.extensions["context"]
    # Without the database the gauges keep their values; the counters are still needed then.
    with suppress(Unavailable):
        open_circuits, runs_held = targets.count_open_circuits(context)
        metrics.open_circuits.set(open_circuits)
        metrics.runs_held.set(runs_held)
        plans_ending, plans_ended = accounts.count_ending_plans(context)
        metrics.plans_ending.set(plans_ending)
        metrics.plans_ended.set(plans_ended)
    registry = prometheus_client.REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(prometheus_client.generate_latest(registry), content_type=prometheus_client.CONTENT_TYPE_LATEST)
