ALTER TABLE reservations DROP CONSTRAINT reservations_state_check;
ALTER TABLE reservations
    ADD CONSTRAINT reservations_state_check CHECK (state IN ('Reserved', 'GivenBack', 'Committed', 'Returned'));
