-- The collation makes the order of pages the same on every server.
CREATE TABLE items (
    id         TEXT COLLATE "C" PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9._:-]{1,128}$'),
    quantity   INTEGER NOT NULL CHECK (quantity >= 1),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
