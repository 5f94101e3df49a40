//! All SQL but the tables themselves, which are in `migrations/`.

/// Takes the write lock at once, see `Storage::write`.
pub const BEGIN: &str = "BEGIN IMMEDIATE";
pub const PING: &str = "SELECT 1";

pub const POP_ENSURE: &str =
    "INSERT INTO pops (pop, upto, first_seen_at_ms) VALUES (?, 0, ?) ON CONFLICT (pop) DO NOTHING";
pub const POP_UPTO: &str = "SELECT upto FROM pops WHERE pop = ?";
pub const POP_MOVE: &str = "UPDATE pops SET upto = ? WHERE pop = ?";
pub const POPS: &str = "SELECT pop, upto, (SELECT coalesce(sum(last_offset - first_offset + 1), 0) FROM losses \
     WHERE losses.pop = pops.pop) FROM pops ORDER BY pop";
pub const POP: &str = "SELECT pop, upto, (SELECT coalesce(sum(last_offset - first_offset + 1), 0) FROM losses \
     WHERE losses.pop = pops.pop) FROM pops WHERE pop = ?";
pub const LOSS_INSERT: &str =
    "INSERT INTO losses (pop, first_offset, last_offset, at_ms, who) VALUES (?, ?, ?, ?, ?)";
/// Whether a node was ever heard of: it reported, or a token was made for it.
pub const NODE_KNOWN: &str = "SELECT EXISTS (SELECT 1 FROM nodes WHERE pop = ?1 AND node = ?2) \
     OR EXISTS (SELECT 1 FROM enrolments WHERE pop = ?1 AND node = ?2)";
/// The same of a PoP.
pub const POP_KNOWN: &str = "SELECT EXISTS (SELECT 1 FROM pops WHERE pop = ?1) \
     OR EXISTS (SELECT 1 FROM enrolments WHERE pop = ?1)";
pub const NODE_REPORT: &str = "INSERT INTO nodes (pop, node, report, seen_at_ms) VALUES (?, ?, ?, ?) \
     ON CONFLICT (pop, node) DO UPDATE SET report = excluded.report, seen_at_ms = excluded.seen_at_ms";
pub const NODES: &str = "SELECT pop, node, report, seen_at_ms FROM nodes ORDER BY pop, node";
pub const NODES_OF: &str = "SELECT pop, node, report, seen_at_ms FROM nodes WHERE pop = ? ORDER BY node";

pub const EVENTS_LAST_SEQ: &str = "SELECT coalesce(max(seq), 0) FROM events";
pub const EVENTS_NEW_BY_KIND: &str = "SELECT kind, count(*) FROM events WHERE seq > ? GROUP BY kind";
pub const COUNTER_ADD: &str = "INSERT INTO counters (scope, name, n) VALUES (?, ?, ?) \
     ON CONFLICT (scope, name) DO UPDATE SET n = n + excluded.n";
/// Moves a kind's count down: where events were erased.
pub const COUNTER_TAKE: &str = "UPDATE counters SET n = max(n - ?, 0) WHERE scope = 'kind' AND name = ?";
pub const COUNTERS: &str = "SELECT scope, name, n FROM counters";

/// Columns of one event's row, in the order of [`events_insert`]'s values.
pub const EVENT_COLUMNS: usize = 11;
const EVENTS_INSERT: &str = "INSERT INTO events \
     (id, pop, at_offset, visitor, kind, item, at_ms, received_at_ms, trace, format, body) VALUES ";

/// Inserts `rows` events; one whose id is known is passed over.
pub fn events_insert(rows: usize) -> String {
    let row = format!("({})", placeholders(EVENT_COLUMNS));
    format!("{EVENTS_INSERT}{} ON CONFLICT (id) DO NOTHING", vec![row; rows].join(","))
}

/// How many of `n` event ids are known.
pub fn events_known(n: usize) -> String {
    format!("SELECT count(*) FROM events WHERE id IN ({})", placeholders(n))
}

const EVENTS_RECENT: &str = "SELECT seq, pop, at_offset, received_at_ms, format, body FROM events";

/// The newest events, of a visitor or of a trace or of all.
pub fn events_recent(visitor: bool, trace: bool) -> String {
    // What was erased has no form. `+` keeps SQLite from using a second index where the trace's, which names a handful of rows, is the right one.
    let filter = match (visitor, trace) {
        (false, false) => " WHERE format > 0",
        (true, false) => " WHERE visitor = ? AND format > 0",
        (false, true) => " WHERE trace = ? AND format > 0",
        (true, true) => " WHERE +visitor = ? AND trace = ? AND format > 0",
    };
    format!("{EVENTS_RECENT}{filter} ORDER BY seq DESC LIMIT ?")
}

/// Events after one, oldest first, of a visitor or of all.
pub fn events_page(visitor: bool) -> String {
    let filter = if visitor { " WHERE visitor = ? AND seq > ?" } else { " WHERE seq > ?" };
    format!("{EVENTS_RECENT}{filter} AND format > 0 ORDER BY seq LIMIT ?")
}

pub const EVENTS_OF_BY_KIND: &str = "SELECT kind, count(*) FROM events WHERE visitor = ? GROUP BY kind";
/// Leaves of a visitor's events what must be known when they come again.
pub const EVENTS_BLANK: &str = "UPDATE events SET visitor = '', kind = 'erased', item = NULL, at_ms = 0, \
     trace = NULL, format = 0, body = x'' WHERE visitor = ?";
pub const ERASURE_KEY: &str = "SELECT key FROM erasure_key";
pub const ERASURE_DELETE: &str = "DELETE FROM erasures WHERE visitor_key = ?";
pub const ERASURE_INSERT: &str = "INSERT INTO erasures (visitor_key, visitor, erased_at_ms, events) \
     VALUES (?, ?, ?, ?) RETURNING number";
pub const ERASURE: &str = "SELECT number, erased_at_ms, events FROM erasures WHERE visitor_key = ?";
pub const ERASURES_ANY: &str = "SELECT 1 FROM erasures LIMIT 1";
/// The highest number ever given, also where its row is gone.
pub const ERASURES_LAST: &str = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'erasures'";
/// Numbers of what is not carried out everywhere move above all that were given.
pub const ERASURES_MOVE: &str = "UPDATE erasures SET number = number + ? WHERE visitor IS NOT NULL";
pub const ERASURES_SEQUENCE_DELETE: &str = "DELETE FROM sqlite_sequence WHERE name = 'erasures'";
pub const ERASURES_SEQUENCE_SET: &str = "INSERT INTO sqlite_sequence (name, seq) \
     SELECT 'erasures', max(?, coalesce(max(number), 0)) FROM erasures";
pub const ERASURES_AFTER: &str = "SELECT number, visitor, erased_at_ms FROM erasures \
     WHERE visitor IS NOT NULL AND number > ? ORDER BY number LIMIT ?";
/// Forgets the ids of visitors whom every PoP has erased.
pub const ERASURES_FORGET: &str = "UPDATE erasures SET visitor = NULL \
     WHERE visitor IS NOT NULL AND number <= (SELECT min(erasures) FROM pops)";
pub const POP_ERASURES: &str = "SELECT erasures FROM pops WHERE pop = ?";
pub const POP_ERASED: &str = "UPDATE pops SET erasures = max(erasures, ?) WHERE pop = ?";
pub const POPS_BEHIND: &str = "SELECT pop FROM pops WHERE erasures < ? ORDER BY pop";

/// Of `n` visitors, those who were erased.
pub fn erasures_of(n: usize) -> String {
    format!("SELECT visitor_key, erased_at_ms FROM erasures WHERE visitor_key IN ({})", placeholders(n))
}

pub const BUNDLE_LAST: &str = "SELECT coalesce(max(revision), 0) FROM bundles";
pub const BUNDLE_INSERT: &str = "INSERT INTO bundles \
     (revision, manifest, signature, note, rollback_of, published_at_ms) VALUES (?, ?, ?, ?, ?, ?)";
pub const BUNDLE: &str = "SELECT revision, manifest, signature, note, rollback_of, published_at_ms \
     FROM bundles WHERE revision = ?";
pub const BUNDLES: &str = "SELECT revision, manifest, signature, note, rollback_of, published_at_ms \
     FROM bundles ORDER BY revision DESC LIMIT ?";

pub const ROLLOUT_SET: &str = "INSERT INTO rollouts (revision, stage, rollout) VALUES (?, ?, ?) \
     ON CONFLICT (revision) DO UPDATE SET stage = excluded.stage, rollout = excluded.rollout";
pub const ROLLOUT: &str = "SELECT rollout FROM rollouts WHERE revision = ?";
pub const ROLLOUTS: &str = "SELECT rollout FROM rollouts ORDER BY revision DESC LIMIT ?";
pub const ROLLOUT_LAST: &str = "SELECT rollout FROM rollouts WHERE stage = ? ORDER BY revision DESC LIMIT 1";

pub const ARTIFACT_INSERT: &str = "INSERT INTO artifacts (digest, size, kind, stored_at_ms) \
     VALUES (?, ?, ?, ?) ON CONFLICT (digest) DO NOTHING";
pub const ARTIFACT_SIZE: &str = "SELECT size FROM artifacts WHERE digest = ?";
pub const ARTIFACTS_BYTES: &str = "SELECT coalesce(sum(size), 0) FROM artifacts";

pub const AUDIT_INSERT: &str = "INSERT INTO audit (at_ms, who, what, detail) VALUES (?, ?, ?, ?)";
pub const AUDIT: &str = "SELECT seq, at_ms, who, what, detail FROM audit ORDER BY seq DESC LIMIT ?";

pub const ENROLMENTS_ENDED: &str = "DELETE FROM enrolments WHERE expires_at_ms <= ?";
pub const ENROLMENTS_OPEN: &str = "SELECT count(*) FROM enrolments";
pub const ENROLMENT_INSERT: &str = "INSERT INTO enrolments (token, pop, node, names, made_by, expires_at_ms) \
     VALUES (?, ?, ?, ?, ?, ?)";
pub const ENROLMENT: &str = "SELECT names, made_by, expires_at_ms FROM enrolments \
     WHERE token = ? AND pop = ? AND node = ? AND expires_at_ms > ?";
/// Moves at most one row, once: whoever comes second moves none.
pub const ENROLMENT_USE: &str = "UPDATE enrolments SET used_key = ? \
     WHERE token = ? AND pop = ? AND node = ? AND expires_at_ms > ? AND used_key IS NULL";
pub const ENROLMENT_USED_BY: &str =
    "SELECT 1 FROM enrolments WHERE token = ? AND expires_at_ms > ? AND used_key = ?";
pub const REVOKED_INSERT: &str = "INSERT INTO revoked (pop, node, revoked_at_ms, reason) VALUES (?, ?, ?, ?) \
     ON CONFLICT (pop, node) DO NOTHING";
pub const REVOKED_COUNT: &str = "SELECT count(*) FROM revoked WHERE pop = ?";
pub const REVOKED_ONE: &str = "SELECT revoked_at_ms, reason FROM revoked WHERE pop = ? AND node = ?";
pub const REVOKED: &str = "SELECT pop, node, revoked_at_ms, reason FROM revoked ORDER BY pop, node";

fn placeholders(n: usize) -> String {
    vec!["?"; n].join(",")
}
