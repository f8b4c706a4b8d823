-- Two more statuses, of runs that have not begun: 5 it waits for its turn, 6 its turn has come and its owner is to let it begin.
CREATE INDEX saga_run_waiting ON saga_run (definition, id) WHERE status >= 5;

-- Lets as many of a saga's runs begin as `most` leaves room for (null: any number), the oldest first, and says whose turn it is of those
-- in the partitions that are claimed. What was said before is said again, until the run has begun.
CREATE FUNCTION saga_admit(of_namespace text, of_saga text, most int8, partitions int2[], epochs int8[])
RETURNS SETOF uuid LANGUAGE plpgsql AS $$
DECLARE
    definitions int4[];
    held int2[];
    room int8;
BEGIN
    -- Each statement sees what was committed before it: whoever comes second counts what the first has admitted.
    PERFORM pg_advisory_xact_lock(hashtextextended(of_namespace || '/' || of_saga, 0));
    definitions := ARRAY(SELECT id FROM saga_definition WHERE namespace = of_namespace AND saga = of_saga);
    -- A claim changes these rows, and so waits: whoever takes a partition over reads what was admitted before.
    held := ARRAY(
        SELECT p.id FROM saga_partition AS p
        JOIN unnest(partitions, epochs) AS c (id, epoch) ON p.id = c.id AND p.epoch = c.epoch
        FOR SHARE OF p
    );
    IF most IS NOT NULL THEN
        SELECT greatest(most - count(*), 0) INTO room
        FROM saga_run WHERE definition = ANY(definitions) AND status IN (0, 1, 2, 6);
    END IF;
    UPDATE saga_run SET status = 6
    WHERE status = 5 AND partition = ANY(held) AND id IN (
        SELECT w.id FROM unnest(definitions) AS d (id) CROSS JOIN LATERAL (
            SELECT r.id FROM saga_run AS r WHERE r.definition = d.id AND r.status = 5 ORDER BY r.id LIMIT room
        ) AS w
        ORDER BY w.id LIMIT room
    );
    RETURN QUERY SELECT r.id FROM saga_run AS r
        WHERE r.definition = ANY(definitions) AND r.status = 6 AND r.partition = ANY(held);
END $$;
