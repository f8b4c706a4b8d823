-- `reserved` is the sum of the lines that are held. Both change only under the lock of the item's row.
CREATE TABLE items (
    sku      TEXT COLLATE "C" PRIMARY KEY,
    on_hand  BIGINT NOT NULL CHECK (on_hand >= 0),
    reserved BIGINT NOT NULL DEFAULT 0 CHECK (reserved BETWEEN 0 AND on_hand)
);

CREATE TABLE reservations (
    id         TEXT COLLATE "C" PRIMARY KEY,
    state      TEXT NOT NULL DEFAULT 'Reserved' CHECK (state IN ('Reserved', 'GivenBack', 'Committed')),
    expires_at TIMESTAMPTZ NOT NULL
);

-- For deleting what is old.
CREATE INDEX reservations_by_expiry ON reservations (expires_at);

CREATE TABLE reservation_lines (
    reservation_id TEXT COLLATE "C" NOT NULL REFERENCES reservations ON DELETE CASCADE,
    sku            TEXT COLLATE "C" NOT NULL REFERENCES items,
    position       INTEGER NOT NULL,
    quantity       INTEGER NOT NULL CHECK (quantity >= 1),
    -- NULL: not held any more.
    held_until     TIMESTAMPTZ,
    PRIMARY KEY (reservation_id, sku)
);

-- For freeing what has expired.
CREATE INDEX reservation_lines_held ON reservation_lines (held_until) WHERE held_until IS NOT NULL;

-- What has expired counts as free, also before it is freed.
CREATE VIEW stock AS
SELECT i.sku, i.on_hand, i.reserved - coalesce(expired.quantity, 0) AS reserved
FROM items i
CROSS JOIN LATERAL (
    SELECT sum(quantity) AS quantity FROM reservation_lines WHERE sku = i.sku AND held_until <= now()
) expired;

CREATE VIEW reservations_with_lines AS
SELECT r.id,
       CASE WHEN r.state = 'Reserved' AND r.expires_at <= now() THEN 'Expired' ELSE r.state END AS status,
       (extract(epoch FROM r.expires_at) * 1000)::bigint AS expires_at_ms,
       l.skus, l.quantities
FROM reservations r
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(sku ORDER BY position), '{}') AS skus,
           coalesce(array_agg(quantity ORDER BY position), '{}') AS quantities
    FROM reservation_lines
    WHERE reservation_id = r.id
) l;
