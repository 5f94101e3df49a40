-- Events that were given up after this database was restored from a backup: acknowledged once, and not here any more. Rows are never
-- changed or deleted.
CREATE TABLE losses (
    seq          INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    pop          TEXT    NOT NULL REFERENCES pops (pop),
    first_offset INTEGER NOT NULL CHECK (first_offset > 0),
    last_offset  INTEGER NOT NULL CHECK (last_offset >= first_offset),
    at_ms        INTEGER NOT NULL,
    who          TEXT    NOT NULL
) STRICT;
CREATE INDEX losses_by_pop ON losses (pop);
