-- The collation makes the order of pages the same on every server.
CREATE TABLE users (
    username   TEXT COLLATE "C" PRIMARY KEY CHECK (username ~ '^[a-z0-9._-]{1,64}$'),
    email      TEXT,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
