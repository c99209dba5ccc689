"""Counters and histograms of this process, and gauges of the whole system, for Prometheus (docs/monitoring.md)."""

from __future__ import annotations

import os
from collections.abc import Hashable

from prometheus_client import Counter, Gauge, Histogram, values

from app.core.config import check_metrics_folder

# prometheus_client opens files there when the first metric is made.
check_metrics_folder()

_process_name: str | None = None


def _identify() -> int | str:
    return os.getpid() if _process_name is None else _process_name


def name_process(name: str) -> None:
    """Name the files of this process in PROMETHEUS_MULTIPROC_DIR, in place of its process id: a process with the same name
    continues the counters of one that has ended. At most one process at a time has a name; it contains no underscore."""
    global _process_name
    _process_name = name


if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    values.ValueClass = values.MultiProcessValue(_identify)  # type: ignore[no-untyped-call]

OTHER = "other"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class BoundedLabel:
    """The values of a label, at most `limit` in a process: those that come later are `other`."""

    def __init__(self, limit: int = 100) -> None:
        self._limit = limit
        self._known: set[Hashable] = set()

    def of(self, value: Hashable) -> str:
        """The value of the label for this value."""
        if value not in self._known:
            if len(self._known) >= self._limit:
                return OTHER
            self._known.add(value)
        return str(value)


events_accepted = Counter("signalbox_events_accepted_total", "Events stored")
events_repeated = Counter("signalbox_events_repeated_total", "Posts answered as duplicates by their idempotency key")
deliveries = Counter("signalbox_deliveries_total", "Posts to sources, by what became of them", ["result"])
# By result. Prometheus counts from the first value that it sees: without a zero, the first delivery that is not mapped raises no
# alert.
deliveries_of = {
    result: deliveries.labels(result)
    for result in ("accepted", "duplicate", "partly", "unmapped", "unverified", "postponed")
}
runs_started = Counter("signalbox_runs_started_total", "Runs created")
runs_ended = Counter("signalbox_runs_ended_total", "Runs that workers ended, by how they ended", ["status"])
not_evaluated = Counter(
    "signalbox_not_evaluated_total",
    "Workflows that were not evaluated for an event, since it exceeded its budget of work",
)
matching_postponed = Counter(
    "signalbox_matching_postponed_total",
    "Events whose matching was left to a worker: their account had used up its share, or it took too long",
)
refusals = Counter("signalbox_refusals_total", "Requests answered with a 4xx or 5xx", ["status"])
refusals_kept = Counter("signalbox_refusals_kept_total", "Refused requests that were stored")
refusals_not_kept = Counter(
    "signalbox_refusals_not_kept_total", "Refused requests of authenticated senders that were not stored", ["reason"]
)
refused_requests = Counter(
    "signalbox_refused_requests_total", "The same by route and type of the problem", ["route", "type"]
)
refused_items = Counter("signalbox_refused_items_total", "Items of batches that were refused, by type", ["type"])
rate_limited = Counter(
    "signalbox_rate_limited_total", "Requests of event routes answered with a 429, by account", ["account"]
)
lookups_refused = Counter(
    "signalbox_lookups_refused_total", "Requests with an unknown key, client or ticket that were not looked up"
)
unlimited_by_outage = Counter(
    "signalbox_rate_limit_outage_total", "Events let through uncounted because Redis did not answer"
)
pool_exhausted = Counter(
    "signalbox_pool_exhausted_total", "Statements that got no connection of the pool for events in time"
)
rows_expired = Counter("signalbox_rows_expired_total", "Rows deleted since they were past their retention", ["kind"])
housekeeping_failures = Counter("signalbox_housekeeping_failures_total", "Housekeeping tasks that failed", ["task"])
request_seconds = Histogram(
    "signalbox_request_duration_seconds", "From the head of a request to its response", ["route"], buckets=_SECONDS
)
batch_events = Histogram(
    "signalbox_group_commit_events", "Events written by one statement", buckets=(1, 2, 5, 10, 20, 50, 100, 200)
)
match_seconds = Histogram(
    "signalbox_match_duration_seconds",
    "Matching of an event that workflows look at",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
)
attempt_seconds = Histogram(
    "signalbox_attempt_duration_seconds",
    "Attempts of actions",
    ["action", "outcome"],
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
# Of this process.
connections_in_use = Gauge(
    "signalbox_connections_in_use", "Connections to Postgres in use", ["pool"], multiprocess_mode="livesum"
)
connections_max = Gauge(
    "signalbox_connections_max", "Connections to Postgres that may be in use", ["pool"], multiprocess_mode="livesum"
)
build = Gauge("signalbox_build_info", "The release; always 1", ["version", "python"], multiprocess_mode="mostrecent")
# Read from the database now and then.
can_store = Gauge("signalbox_can_store", "1 while events can be stored", multiprocess_mode="mostrecent")
check_failing = Gauge(
    "signalbox_check_failing", "1 while a check of /readyz fails", ["check"], multiprocess_mode="mostrecent"
)
workers_alive = Gauge("signalbox_workers_alive", "Workers that are alive", multiprocess_mode="mostrecent")
jobs_due = Gauge("signalbox_jobs_due", "Jobs that are due, at most 10000", ["kind"], multiprocess_mode="mostrecent")
job_lateness = Gauge(
    "signalbox_oldest_due_job_seconds",
    "Since when the oldest due job has been due",
    ["kind"],
    multiprocess_mode="mostrecent",
)
partitions_ahead = Gauge(
    "signalbox_partitions_ahead", "Months after this one that have a partition", multiprocess_mode="mostrecent"
)
plans_ending = Gauge("signalbox_plans_ending", "Accounts whose plan ends within 7 days", multiprocess_mode="mostrecent")
plans_ended = Gauge("signalbox_plans_ended", "Accounts whose plan has ended", multiprocess_mode="mostrecent")
open_circuits = Gauge(
    "signalbox_open_circuits", "Targets that keep failing and are paused", multiprocess_mode="mostrecent"
)
runs_held = Gauge("signalbox_runs_held", "Runs that wait for a paused target", multiprocess_mode="mostrecent")
