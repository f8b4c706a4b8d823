-- How many runs of each revision and status there are, without a look at each.
CREATE INDEX saga_run_definition ON saga_run (definition, status);
