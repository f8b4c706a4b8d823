-- What the service still has to tell others: written in the transaction of what it tells about.
CREATE TABLE outbox (
    position    BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id          TEXT COLLATE "C" NOT NULL,
    type        TEXT COLLATE "C" NOT NULL,
    subject     TEXT COLLATE "C" NOT NULL,
    data        JSONB NOT NULL,
    traceparent TEXT,
    attempts    INTEGER NOT NULL DEFAULT 0,
    -- Nobody takes it before; whoever takes it puts this off, so that two do not at once.
    due_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    error       TEXT,
    created_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE (type, subject, id)
)
-- Rows come and go: a part of the table is no measure of what there is to clean.
WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE INDEX outbox_by_due ON outbox (due_at);
