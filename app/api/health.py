"""`GET /health` for load balancers, `GET /metrics` for Prometheus. Both are open: they reveal nothing about accounts."""

from __future__ import annotations

import os

import prometheus_client
from flask import Blueprint, Response, current_app
from prometheus_client import CollectorRegistry, multiprocess

from app.services.context import AppContext

blueprint = Blueprint("health", __name__)


@blueprint.get("/health")
def health() -> Response:
    """200 while events can be stored; 503 (a problem document) while Postgres is unavailable or lacks a migration."""
    context: AppContext = current_app.extensions["context"]
    context.check_database()
    return Response('{"status":"ok"}', content_type="application/json")


@blueprint.get("/metrics")
def metrics() -> Response:
    """All counters in Prometheus' text format, over all web processes where PROMETHEUS_MULTIPROC_DIR is set."""
    registry = prometheus_client.REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(prometheus_client.generate_latest(registry), content_type=prometheus_client.CONTENT_TYPE_LATEST)
