-- Amounts are minor units (cents): exact, and no question of rounding.
CREATE TABLE orders (
    order_id   BIGINT PRIMARY KEY CHECK (order_id BETWEEN 1 AND 9007199254740991),
    username   TEXT COLLATE "C" NOT NULL,
    amount     BIGINT NOT NULL CHECK (amount >= 0),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- For the list of one user's orders.
CREATE INDEX orders_by_username ON orders (username, order_id);

CREATE TABLE order_lines (
    order_id BIGINT NOT NULL REFERENCES orders ON DELETE CASCADE,
    position INTEGER NOT NULL,
    sku      TEXT NOT NULL,
    quantity INTEGER NOT NULL CHECK (quantity >= 1),
    PRIMARY KEY (order_id, position)
);

CREATE VIEW orders_with_lines AS
SELECT o.order_id, o.username, o.amount, l.skus, l.quantities
FROM orders o
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(sku ORDER BY position), '{}') AS skus,
           coalesce(array_agg(quantity ORDER BY position), '{}') AS quantities
    FROM order_lines
    WHERE order_id = o.order_id
) l;
