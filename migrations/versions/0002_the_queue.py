"""The job queue: PgQueuer's own tables, made by its own statements, with comments for people who read them in psql.

Its log and statistics may be lost in a crash (unlogged); the queue itself may not.

Locks: none that matter; everything is new.
Safe with the previous code: yes, nothing of it is touched.
"""

from alembic import op
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment
from pgqueuer.domain.settings import DBSettings, Durability

revision = "0002"
down_revision = "0001"

COMMENTS = {
    "pgqueuer": {
        "": "jobs that wait for a worker or are being worked on; one row for each run that has to move",
        "id": "number of the job",
        "priority": "higher goes first",
        "queue_manager_id": "the worker that has it; null: none",
        "created": "when it was enqueued",
        "updated": "when it last changed",
        "heartbeat": "last sign of life of the worker that has it; too old: another worker takes it",
        "execute_after": "not before this moment (the timer of waits and retries)",
        "status": "queued or picked; failed: kept for a person to look at",
        "entrypoint": "kind of job: run",
        "dedupe_key": "account:run:number, at most one such job waits or works",
        "payload": "which run, as account:run:number",
        "headers": "unused",
        "attempts": "how often it was given back",
        "slot": "unused",
    },
    "pgqueuer_log": {
        "": "what happened to jobs lately (unlogged, pruned)",
        "id": "number of the entry",
        "created": "when",
        "job_id": "the job",
        "status": "what became of it",
        "priority": "its priority",
        "entrypoint": "its kind",
        "traceback": "the error, if there was one",
        "aggregated": "already counted in pgqueuer_statistics",
    },
    "pgqueuer_schedules": {
        "": "recurring jobs (unused)",
        "id": "number of the schedule",
        "expression": "cron expression",
        "entrypoint": "kind of job",
        "heartbeat": "last sign of life of who runs it",
        "created": "when it was made",
        "updated": "when it last changed",
        "next_run": "when it runs next",
        "last_run": "when it ran last",
        "status": "queued or picked",
    },
    "pgqueuer_statistics": {
        "": "jobs per second and status (unlogged, pruned)",
        "id": "number of the entry",
        "created": "the second",
        "count": "how many jobs",
        "priority": "their priority",
        "status": "what became of them",
        "entrypoint": "their kind",
    },
}


def upgrade() -> None:
    settings = DBSettings(prefix="", durability=Durability.balanced)
    builder = QueryBuilderEnvironment(settings)
    connection = op.get_bind()
    connection.exec_driver_sql(builder.build_install_query().replace("%", "%%"))
    connection.exec_driver_sql(builder.build_optimize_autovacuum_query().replace("%", "%%"))
    for table, comments in COMMENTS.items():
        for column, comment in comments.items():
            place = f"COLUMN {table}.{column}" if column else f"TABLE {table}"
            connection.exec_driver_sql(f"COMMENT ON {place} IS '{comment}'")
