"""One text for equal numbers as subjects: `98765.0` and `1e2` become `98765` and `100` where something still waits for them.

Renamed are the match state (`progress`), the subjects of running runs and the awaited events (`keyed_events`) of subjects that were numbers;
the event that they come from says whether they were. Texts of digits, and everything that is over, stay as they are. A match
state without events was a number if it ends in `.0`. Where both spellings have a match state, the other one stays.

Locks: the rows that are renamed, for the moment of the transaction; it reads `progress` and `keyed_events` once.
Safe with the previous code: yes. What it writes until its processes are gone keeps the old spelling.
The downgrade changes nothing: the previous code reads such subjects as those of whole numbers.
"""

from alembic import op

revision = "0014"
down_revision = "0013"

# A number that has another text than `trim_scale` gives it. The exponents that a double has are at most 308.
RENAMED = r"""
CREATE FUNCTION pg_temp.renamed(subject TEXT) RETURNS TEXT LANGUAGE sql IMMUTABLE AS $$
    SELECT nullif(CASE WHEN subject ~ '^-?[0-9]{1,255}(\.[0-9]{1,255})?([eE][+-]?[0-9]{1,3})?$'
                       THEN trim_scale(subject::numeric)::text END, subject)
$$;
"""
# Where the subject of an event is: `distinct_id` is the value of the account's key attribute, if it is one of CxEngage's.
PATH = """
CREATE FUNCTION pg_temp.path(key TEXT, key_attribute TEXT) RETURNS TEXT[] LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN coalesce(key, 'distinct_id') = 'distinct_id' THEN ARRAY[key_attribute]
                ELSE (string_to_array(key, '.'))[2:] END
$$;
"""
KEYED_EVENTS = """
UPDATE keyed_events AS known SET subject = pg_temp.renamed(known.subject) FROM events
WHERE pg_temp.renamed(known.subject) IS NOT NULL AND events.account_id = known.account_id AND events.id = known.event_id
AND events.received_at = known.received_at
AND jsonb_typeof(coalesce(data || augmented, data) #> pg_temp.path(known.key, NULL)) = 'number'
"""
RUNS = """
UPDATE runs SET subject = pg_temp.renamed(runs.subject)
FROM events, workflow_versions AS version
WHERE status = 'running' AND pg_temp.renamed(runs.subject) IS NOT NULL
AND events.account_id = runs.account_id AND events.id = runs.event_id AND events.received_at = runs.event_received_at
AND version.account_id = runs.account_id AND version.workflow_id = runs.workflow_id AND version.version = runs.version
AND jsonb_typeof(coalesce(data || augmented, data) #> pg_temp.path(version.document ->> 'key', NULL)) = 'number'
"""
DISTINCT_IDS = """
UPDATE runs SET distinct_id = pg_temp.renamed(runs.distinct_id)
FROM events, accounts
WHERE status = 'running' AND pg_temp.renamed(runs.distinct_id) IS NOT NULL AND accounts.id = runs.account_id
AND events.account_id = runs.account_id AND events.id = runs.event_id AND events.received_at = runs.event_received_at
AND jsonb_typeof(coalesce(data || augmented, data) -> key_attribute) = 'number'
"""
PROGRESS = """
WITH spelled AS (
    SELECT DISTINCT ON (account_id, workflow_id, pg_temp.renamed(subject))
        account_id, workflow_id, subject, pg_temp.renamed(subject) AS number,
        substring(progress::text FROM '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}')::uuid AS event_id
    FROM progress WHERE pg_temp.renamed(subject) IS NOT NULL
    ORDER BY account_id, workflow_id, pg_temp.renamed(subject), last_event_at DESC NULLS LAST
), numbers AS (
    SELECT spelled.* FROM spelled
    JOIN accounts ON accounts.id = spelled.account_id
    JOIN workflows ON workflows.account_id = spelled.account_id AND workflows.id = spelled.workflow_id
    LEFT JOIN workflow_versions AS version ON version.account_id = spelled.account_id
        AND version.workflow_id = spelled.workflow_id AND version.version = workflows.enabled_version
    LEFT JOIN events ON events.account_id = spelled.account_id AND events.id = spelled.event_id
    WHERE CASE WHEN events.id IS NULL THEN spelled.subject LIKE '%.0'
               ELSE jsonb_typeof(coalesce(data || augmented, data) #> pg_temp.path(document ->> 'key', key_attribute))
                    = 'number' END
)
UPDATE progress SET subject = number FROM numbers
WHERE progress.account_id = numbers.account_id AND progress.workflow_id = numbers.workflow_id
AND progress.subject = numbers.subject
AND NOT EXISTS (SELECT FROM progress AS other WHERE other.account_id = numbers.account_id
                AND other.workflow_id = numbers.workflow_id AND other.subject = number)
"""


def upgrade() -> None:
    op.execute(RENAMED)
    op.execute(PATH)
    op.execute(KEYED_EVENTS)
    op.execute(RUNS)
    op.execute(DISTINCT_IDS)
    op.execute(PROGRESS)


def downgrade() -> None:
    pass
