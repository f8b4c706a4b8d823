-- Orders from before there was a status are as good as completed; so are those that the build before still writes while this one comes up.
ALTER TABLE orders
    ADD COLUMN status TEXT NOT NULL DEFAULT 'Completed'
    CHECK (status IN ('Pending', 'Placing', 'Confirmed', 'Rejected', 'Completed', 'Cancelling', 'Cancelled'));

CREATE OR REPLACE VIEW orders_with_lines AS
SELECT o.order_id, o.username, o.amount, l.skus, l.quantities, o.status
FROM orders o
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(sku ORDER BY position), '{}') AS skus,
           coalesce(array_agg(quantity ORDER BY position), '{}') AS quantities
    FROM order_lines
    WHERE order_id = o.order_id
) l;
