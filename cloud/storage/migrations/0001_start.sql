-- What the cloud keeps. Text ids are stored as text, digests and UUIDs as bytes, times as milliseconds since 1970 UTC.

-- A PoP, and how far its events are durable here. `upto` grows in the transaction that stores the events.
CREATE TABLE pops (
    pop              TEXT    NOT NULL PRIMARY KEY,
    upto             INTEGER NOT NULL DEFAULT 0 CHECK (upto >= 0),
    first_seen_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The latest report of each node, as JSON (proto::control::NodeReport).
CREATE TABLE nodes (
    pop        TEXT    NOT NULL REFERENCES pops (pop),
    node       INTEGER NOT NULL,
    report     TEXT    NOT NULL,
    seen_at_ms INTEGER NOT NULL,
    PRIMARY KEY (pop, node)
) STRICT, WITHOUT ROWID;

-- Events. `id` is unique over all PoPs: an event is counted once per id, however often and from wherever it comes.
-- `body` is the whole event in proto's stored form; `format` says which version of that form. The other columns are what
-- can be asked for. `trace` is NULL where the event had none.
CREATE TABLE events (
    seq            INTEGER NOT NULL PRIMARY KEY,
    id             BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    pop            TEXT    NOT NULL REFERENCES pops (pop),
    at_offset      INTEGER NOT NULL,
    visitor        TEXT    NOT NULL,
    kind           TEXT    NOT NULL,
    item           TEXT,
    at_ms          INTEGER NOT NULL,
    received_at_ms INTEGER NOT NULL,
    trace          BLOB    CHECK (trace IS NULL OR length(trace) = 16),
    format         INTEGER NOT NULL,
    body           BLOB    NOT NULL
) STRICT;
CREATE INDEX events_by_visitor ON events (visitor);
CREATE INDEX events_by_trace ON events (trace) WHERE trace IS NOT NULL;

-- Counters of events, kept in the transaction that stores them: counting millions of rows is not a health check.
-- `scope` is 'kind' or 'pop'.
CREATE TABLE counters (
    scope TEXT    NOT NULL CHECK (scope IN ('kind', 'pop')),
    name  TEXT    NOT NULL,
    n     INTEGER NOT NULL CHECK (n >= 0),
    PRIMARY KEY (scope, name)
) STRICT, WITHOUT ROWID;

-- Published bundles. Rows are never changed or deleted, so a revision never goes back.
CREATE TABLE bundles (
    revision        INTEGER NOT NULL PRIMARY KEY CHECK (revision > 0),
    manifest        BLOB    NOT NULL,
    signature       BLOB    NOT NULL CHECK (length(signature) = 64),
    note            TEXT    NOT NULL,
    rollback_of     INTEGER REFERENCES bundles (revision),
    published_at_ms INTEGER NOT NULL
) STRICT;

-- Artifacts whose files are durable. `kind` is what the first uploader said it is; a bundle says for itself.
CREATE TABLE artifacts (
    digest       BLOB    NOT NULL PRIMARY KEY CHECK (length(digest) = 32),
    size         INTEGER NOT NULL CHECK (size >= 0),
    kind         TEXT    NOT NULL,
    stored_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Who changed what.
CREATE TABLE audit (
    seq    INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at_ms  INTEGER NOT NULL,
    who    TEXT    NOT NULL,
    what   TEXT    NOT NULL,
    detail TEXT    NOT NULL
) STRICT;
