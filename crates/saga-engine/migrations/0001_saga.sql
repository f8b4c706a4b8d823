-- Replicas of the engine. One whose time is up owns nothing any more.
CREATE TABLE saga_replica (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    -- Where the others reach it: http://10.0.0.1:8080
    address text NOT NULL,
    until timestamptz NOT NULL
);

-- A run belongs to the partition that its id names. The epoch grows with each owner; an append has to name it, and holds the row.
CREATE TABLE saga_partition (
    id int2 PRIMARY KEY,
    epoch int8 NOT NULL DEFAULT 0,
    owner uuid
) WITH (fillfactor = 50);

INSERT INTO saga_partition (id) SELECT generate_series(0, 63);

-- Revisions of definitions, as the operator handed them over. Runs name them by their number.
CREATE TABLE saga_definition (
    id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace text NOT NULL,
    saga text NOT NULL,
    revision text NOT NULL,
    -- The canonical form.
    definition text NOT NULL,
    -- New runs are made of it.
    is_current bool NOT NULL DEFAULT false,
    UNIQUE (namespace, saga, revision)
);

CREATE UNIQUE INDEX saga_definition_current ON saga_definition (namespace, saga) WHERE is_current;

-- Runs, the newest last: ids begin with the time.
CREATE TABLE saga_run (
    id uuid PRIMARY KEY,
    partition int2 NOT NULL,
    definition int4 NOT NULL REFERENCES saga_definition (id),
    -- What it was started by, and a digest of namespace, saga and key: the same again is the same run.
    key text,
    key_digest uuid UNIQUE,
    -- Of what it was started with.
    input_digest uuid NOT NULL,
    -- 0 Running, 1 Compensating, 2 Stuck, 3 Completed, 4 Compensated
    status int2 NOT NULL,
    -- Milliseconds since 1970, of the engine's clock.
    started_at int8 NOT NULL,
    ended_at int8,
    -- From then on it may go.
    purge_at int8
);

CREATE INDEX saga_run_live ON saga_run (partition) WHERE ended_at IS NULL;
CREATE INDEX saga_run_purge ON saga_run (purge_at) WHERE purge_at IS NOT NULL;

-- Records: the form of crates/saga-core/src/log.rs.
CREATE TABLE saga_record (
    run uuid NOT NULL,
    sequence int4 NOT NULL,
    -- Of the owner that wrote it.
    epoch int8 NOT NULL,
    record bytea NOT NULL,
    PRIMARY KEY (run, sequence)
);
