-- Amounts are minor units (cents): exact, and no question of rounding.
CREATE TABLE authorisations (
    id         TEXT COLLATE "C" PRIMARY KEY,
    username   TEXT NOT NULL,
    amount     BIGINT NOT NULL CHECK (amount >= 1),
    status     TEXT NOT NULL CHECK (status IN ('Authorised', 'Voided', 'Captured', 'Refunded')),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- Rows are only added. Those of one movement sum to zero, and no movement is there twice.
CREATE TABLE ledger (
    authorisation_id TEXT COLLATE "C" NOT NULL REFERENCES authorisations,
    position         BIGINT GENERATED ALWAYS AS IDENTITY,
    movement         TEXT NOT NULL CHECK (movement IN ('Authorise', 'Void', 'Capture', 'Refund')),
    account          TEXT NOT NULL CHECK (account IN ('Customer', 'Open', 'Shop')),
    amount           BIGINT NOT NULL CHECK (amount <> 0),
    created_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (authorisation_id, movement, account)
);
