-- Who may be a node.

-- One-time tokens with which nodes get their first certificate, by SHA-256: a token is shown once and never kept. `names` is a
-- JSON list of what apps dial. A token is used by one key (`used_key`: SHA-256 of the public key); the same key may come again
-- with it, should the answer have been lost.
CREATE TABLE enrolments (
    token         BLOB    NOT NULL PRIMARY KEY CHECK (length(token) = 32),
    pop           TEXT    NOT NULL,
    node          INTEGER NOT NULL CHECK (node > 0),
    names         TEXT    NOT NULL,
    made_by       TEXT    NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    used_key      BLOB    CHECK (used_key IS NULL OR length(used_key) = 32)
) STRICT, WITHOUT ROWID;
CREATE INDEX enrolments_by_end ON enrolments (expires_at_ms);

-- Nodes whose identity was revoked. Rows are never changed or deleted: their number is the version of a PoP's list.
CREATE TABLE revoked (
    pop           TEXT    NOT NULL,
    node          INTEGER NOT NULL CHECK (node > 0),
    revoked_at_ms INTEGER NOT NULL,
    reason        TEXT    NOT NULL,
    PRIMARY KEY (pop, node)
) STRICT, WITHOUT ROWID;
