"""CxEngage's resources: patterns, templates, listeners, augments with the rows of their files; what augments add to events.

Locks: `accounts` SHARE ROW EXCLUSIVE (foreign keys to it) and `events` ACCESS EXCLUSIVE (a column that may be null: no row is
touched), both for the moment of the transaction; everything else is new.
Safe with the previous code: yes, it names the columns that it reads and writes. Until its workers are gone, runs in them do not
see what augments have added.
"""

from alembic import op

revision = "0008"
down_revision = "0007"

TABLES = """
ALTER TABLE events ADD COLUMN augmented JSONB;
COMMENT ON COLUMN events.augmented IS 'what augments added: workflows see it over data, field by field; null: nothing';

CREATE TABLE resource_numbers (
    account_id BIGINT NOT NULL,
    prefix TEXT NOT NULL,
    latest INTEGER NOT NULL,
    CONSTRAINT resource_numbers_pkey PRIMARY KEY (account_id, prefix),
    CONSTRAINT resource_numbers_account_id_fkey FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE
);
COMMENT ON TABLE resource_numbers IS 'how far the ids of CxEngage resources (PT1, TM1 …) have been counted';
COMMENT ON COLUMN resource_numbers.account_id IS 'the account that owns the row';
COMMENT ON COLUMN resource_numbers.prefix IS 'PT, TM, LI or AU';
COMMENT ON COLUMN resource_numbers.latest IS 'the highest number given out; none is given out twice';

CREATE TABLE patterns (
    account_id BIGINT NOT NULL,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    when_text TEXT,
    then_text TEXT,
    code TEXT,
    key TEXT,
    workflow_id UUID,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT patterns_pkey PRIMARY KEY (account_id, number),
    CONSTRAINT patterns_account_id_fkey FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE
);
COMMENT ON TABLE patterns IS 'patterns in CxEngage''s notation; those switched on are workflows as well';
COMMENT ON COLUMN patterns.account_id IS 'the account that owns the row';
COMMENT ON COLUMN patterns.number IS '1 is PT1';
COMMENT ON COLUMN patterns.name IS 'what its owner calls it';
COMMENT ON COLUMN patterns.description IS 'what it is for';
COMMENT ON COLUMN patterns.when_text IS 'what has to happen, in the notation of 4.1; null: not given';
COMMENT ON COLUMN patterns.then_text IS 'what is to be done, in the notation of 4.1; null: not given';
COMMENT ON COLUMN patterns.code IS 'both as one script, in the notation of 4.2; null: not given';
COMMENT ON COLUMN patterns.key IS 'the field that says whom the script is about; null: the key attribute';
COMMENT ON COLUMN patterns.workflow_id IS 'the workflow that it was compiled into, named PT1; it is switched on while that is enabled; null: never was';
COMMENT ON COLUMN patterns.created_at IS 'when it was made';
COMMENT ON COLUMN patterns.updated_at IS 'when it was last changed';

CREATE TABLE templates (
    account_id BIGINT NOT NULL,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    template TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT templates_pkey PRIMARY KEY (account_id, number),
    CONSTRAINT templates_account_id_fkey FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE
);
COMMENT ON TABLE templates IS 'texts that patterns refer to as +TM1';
COMMENT ON COLUMN templates.account_id IS 'the account that owns the row';
COMMENT ON COLUMN templates.number IS '1 is TM1';
COMMENT ON COLUMN templates.name IS 'what its owner calls it';
COMMENT ON COLUMN templates.description IS 'what it is for';
COMMENT ON COLUMN templates.template IS 'the text, in Mustache';
COMMENT ON COLUMN templates.created_at IS 'when it was made';
COMMENT ON COLUMN templates.updated_at IS 'when it was last changed';

CREATE TABLE listeners (
    account_id BIGINT NOT NULL,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    type TEXT NOT NULL,
    status BOOLEAN NOT NULL,
    mapping JSONB NOT NULL,
    options JSONB NOT NULL,
    more JSONB DEFAULT '{}' NOT NULL,
    received BIGINT DEFAULT 0 NOT NULL,
    last_received_at TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT listeners_pkey PRIMARY KEY (account_id, number),
    CONSTRAINT listeners_account_id_fkey FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE
);
COMMENT ON TABLE listeners IS 'where third parties post in a shape of their own; what they post with are keys of the scope listener:LI1';
COMMENT ON COLUMN listeners.account_id IS 'the account that owns the row';
COMMENT ON COLUMN listeners.number IS '1 is LI1';
COMMENT ON COLUMN listeners.name IS 'what its owner calls it';
COMMENT ON COLUMN listeners.description IS 'what it is for';
COMMENT ON COLUMN listeners.type IS 'what kind of third party posts to it, in its owner''s words';
COMMENT ON COLUMN listeners.status IS 'whether it takes events';
COMMENT ON COLUMN listeners.mapping IS 'field of the event: dotted path in what the third party posts';
COMMENT ON COLUMN listeners.options IS 'the owner''s, kept as given';
COMMENT ON COLUMN listeners.more IS 'other fields that were given (topic, hash …), kept as given';
COMMENT ON COLUMN listeners.received IS 'how many events it has taken';
COMMENT ON COLUMN listeners.last_received_at IS 'when it took the last one; null: none yet';
COMMENT ON COLUMN listeners.created_at IS 'when it was made';
COMMENT ON COLUMN listeners.updated_at IS 'when it was last changed';

CREATE TABLE augments (
    account_id BIGINT NOT NULL,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    type TEXT NOT NULL,
    url TEXT,
    attributes TEXT[],
    in_options BOOLEAN NOT NULL,
    columns TEXT[],
    rows INTEGER DEFAULT 0 NOT NULL,
    bytes INTEGER DEFAULT 0 NOT NULL,
    upload INTEGER DEFAULT 0 NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT augments_pkey PRIMARY KEY (account_id, number),
    CONSTRAINT augments_account_id_fkey FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE,
    CONSTRAINT augments_type_check CHECK (type IN ('file', 'api'))
);
COMMENT ON TABLE augments IS 'what is known beside the events and added to them before workflows look';
COMMENT ON COLUMN augments.account_id IS 'the account that owns the row';
COMMENT ON COLUMN augments.number IS '1 is AU1; they are asked in this order';
COMMENT ON COLUMN augments.name IS 'what its owner calls it';
COMMENT ON COLUMN augments.description IS 'what it is for';
COMMENT ON COLUMN augments.type IS 'file or api';
COMMENT ON COLUMN augments.url IS 'api: where it is asked; null: of a file';
COMMENT ON COLUMN augments.attributes IS 'the attributes that it may add; null: all it knows';
COMMENT ON COLUMN augments.in_options IS 'whether url and attributes were given, and are answered, inside of options';
COMMENT ON COLUMN augments.columns IS 'names of the file''s columns; null: no file yet';
COMMENT ON COLUMN augments.rows IS 'how many rows the file has';
COMMENT ON COLUMN augments.bytes IS 'how large the file was';
COMMENT ON COLUMN augments.upload IS 'grows with each file';
COMMENT ON COLUMN augments.created_at IS 'when it was made';
COMMENT ON COLUMN augments.updated_at IS 'when it was last changed';

CREATE TABLE augment_rows (
    account_id BIGINT NOT NULL,
    number INTEGER NOT NULL,
    lookup TEXT NOT NULL,
    position INTEGER NOT NULL,
    cells TEXT[] NOT NULL,
    CONSTRAINT augment_rows_pkey PRIMARY KEY (account_id, number, lookup),
    CONSTRAINT augment_rows_account_id_number_fkey FOREIGN KEY(account_id, number) REFERENCES augments (account_id, number) ON DELETE CASCADE
);
COMMENT ON TABLE augment_rows IS 'the rows of augments'' files';
COMMENT ON COLUMN augment_rows.account_id IS 'the account that owns the row';
COMMENT ON COLUMN augment_rows.number IS 'the augment';
COMMENT ON COLUMN augment_rows.lookup IS 'value of the first column';
COMMENT ON COLUMN augment_rows.position IS '1 is the first row of the file';
COMMENT ON COLUMN augment_rows.cells IS 'values of the other columns';
"""


# The months that there are already say it as well.
COMMENTS = """
DO $$
DECLARE part regclass;
BEGIN
    FOR part IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'events'::regclass LOOP
        EXECUTE format('COMMENT ON COLUMN %s.augmented IS %L', part, col_description('events'::regclass, (
            SELECT attnum FROM pg_attribute WHERE attrelid = 'events'::regclass AND attname = 'augmented')));
    END LOOP;
END
$$
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(COMMENTS)
