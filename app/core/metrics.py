"""Counters of this process, and gauges of the whole system, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from app.core.config import check_metrics_folder

# prometheus_client opens files there when the first metric is made.
check_metrics_folder()

events_accepted = Counter("signalbox_events_accepted_total", "Events stored")
events_repeated = Counter("signalbox_events_repeated_total", "Posts answered as duplicates by their idempotency key")
runs_started = Counter("signalbox_runs_started_total", "Runs created")
not_evaluated = Counter(
    "signalbox_not_evaluated_total",
    "Workflows that were not evaluated for an event, since it exceeded its budget of work",
)
matching_postponed = Counter(
    "signalbox_matching_postponed_total",
    "Events whose matching took too long in a web process, so that a worker finishes it",
)
refusals = Counter("signalbox_refusals_total", "Requests answered with a 4xx or 5xx", ["status"])
refusals_kept = Counter("signalbox_refusals_kept_total", "Refused requests that were stored")
refusals_not_kept = Counter(
    "signalbox_refusals_not_kept_total", "Refused requests of authenticated senders that were not stored", ["reason"]
)
lookups_refused = Counter(
    "signalbox_lookups_refused_total", "Requests with an unknown key, client or ticket that were not looked up"
)
unlimited_by_outage = Counter(
    "signalbox_rate_limit_outage_total", "Events let through uncounted because Redis did not answer"
)
housekeeping_failures = Counter("signalbox_housekeeping_failures_total", "Housekeeping tasks that failed", ["task"])
# Set when they are read.
plans_ending = Gauge("signalbox_plans_ending", "Accounts whose plan ends within 7 days", multiprocess_mode="mostrecent")
plans_ended = Gauge("signalbox_plans_ended", "Accounts whose plan has ended", multiprocess_mode="mostrecent")
open_circuits = Gauge(
    "signalbox_open_circuits", "Targets that keep failing and are paused", multiprocess_mode="mostrecent"
)
runs_held = Gauge("signalbox_runs_held", "Runs that wait for a paused target", multiprocess_mode="mostrecent")
