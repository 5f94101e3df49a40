-- Visitors whose events were erased. A row of `events` that was erased keeps its id, its place and its offset, so that it is known when it
-- comes again; nothing else of it is left: kind 'erased', format 0, no body.

-- What visitors' ids are hashed with, so that a list of ids tells nobody who was erased.
CREATE TABLE erasure_key (
    only INTEGER NOT NULL PRIMARY KEY CHECK (only = 1),
    key  BLOB    NOT NULL CHECK (length(key) = 32)
) STRICT;
INSERT INTO erasure_key (only, key) VALUES (1, randomblob(32));

-- `visitor_key` is SHA-256 over that key and the id. The id itself stays until every PoP has erased what it knows of the visitor. What
-- happened up to `erased_at_ms`, by the client's clock, is not taken in when it comes late.
CREATE TABLE erasures (
    number       INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    visitor_key  BLOB    NOT NULL UNIQUE CHECK (length(visitor_key) = 32),
    visitor      TEXT,
    erased_at_ms INTEGER NOT NULL,
    events       INTEGER NOT NULL
) STRICT;
CREATE INDEX erasures_open ON erasures (number) WHERE visitor IS NOT NULL;

-- The last erasure that a PoP has carried out.
ALTER TABLE pops ADD COLUMN erasures INTEGER NOT NULL DEFAULT 0 CHECK (erasures >= 0);
