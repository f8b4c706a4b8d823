-- What the service has seen of sagas, and what it answered: written in the transaction of the effect.
CREATE TABLE saga_barrier (
    run         TEXT COLLATE "C" NOT NULL,
    step        TEXT COLLATE "C" NOT NULL,
    item        BIGINT NOT NULL,
    incarnation BIGINT NOT NULL,
    op          TEXT COLLATE "C" NOT NULL CHECK (op IN ('action', 'compensation')),
    -- Of a committed row NULL means: fenced off by a compensation that came first.
    status      INTEGER,
    body        BYTEA NOT NULL DEFAULT '',
    created_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (run, step, item, incarnation, op)
);

-- For deleting what is old.
CREATE INDEX saga_barrier_by_age ON saga_barrier (created_at);
