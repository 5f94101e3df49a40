//! Events: stored once per id, in the one transaction that also moves their PoP's offset and the counters.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use proto::control::{EventCounts, EventPage, EventView};
use proto::limits::APPEND_EVENTS_MAX;
use proto::{Event, Offset, PopId, TraceId};
use sqlx::query::{Query, QueryScalar};
use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, Row, Sqlite, SqliteConnection};

use crate::erasures::{ERASED, Erased};
use crate::error::{AppendError, StorageError};
use crate::{Storage, from_sql, sql, to_sql};

/// Version of the form in which `events.body` holds an event: [`proto::codec::encode`] of protocol 1.
const FORMAT: i64 = 1;
/// Stands for [`FORMAT`] where an event was erased: there is no body.
const FORMAT_ERASED: i64 = 0;
/// Rows per INSERT, largest first. A few fixed sizes keep every statement prepared, whatever the batches' lengths are;
/// the largest needs 256 × 11 variables, of the 32,766 that SQLite allows.
const INSERT_LADDER: [usize; 5] = [256, 64, 16, 4, 1];
/// Ids per lookup.
const KNOWN_CHUNK: usize = 256;
/// Most events that one query answers with.
pub const RECENT_MAX: u32 = 1_000;

/// Bytes of stored events after which a page of an export ends.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Every event of the PoP up to and including this offset is durable.
    pub upto: Offset,
    /// Events counted for the first time, by kind.
    pub counted: BTreeMap<String, u64>,
    /// Events that were sent again by their PoP, or are known from another one.
    pub known: u64,
}

/// Which events to show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only of this visitor, as `u:<user>` or `d:<device>`.
    pub visitor: Option<String>,
    /// Only of this trace.
    pub trace: Option<TraceId>,
}

impl Storage {
    /// Stores a PoP's events from offset `first` on, and returns once they are durable.
    ///
    /// What lies at or below the PoP's offset is passed over after a check that it is what was stored. On an error nothing
    /// of the batch is stored, and it can be sent again.
    pub async fn append(
        &self,
        pop: &PopId,
        first: Offset,
        events: &[Event],
        received_at_ms: u64,
    ) -> Result<Appended, AppendError> {
        let mut transaction = self.write("append events").await?;
        let upto = upto(&mut transaction, pop).await?;
        let skip = overlap(upto, first, events.len())?;
        let (again, fresh) = events.split_at(skip);
        check_known(&mut transaction, first, again).await?;
        if fresh.is_empty() {
            return Ok(Appended { upto, counted: BTreeMap::new(), known: skip as u64 });
        }
        let start = Offset(first.0 + skip as u64);
        let counted = insert(&mut transaction, pop, start, fresh, received_at_ms)
            .await
            .map_err(StorageError::database("append events"))?;
        let upto = Offset(start.0 + fresh.len() as u64 - 1);
        count(&mut transaction, pop, upto, &counted).await.map_err(StorageError::database("count events"))?;
        transaction.commit().await.map_err(StorageError::database("commit events"))?;
        let known = events.len() as u64 - counted.values().sum::<u64>();
        Ok(Appended { upto, counted, known })
    }

    /// How far a PoP's events are durable; 0: none.
    pub async fn position(&self, pop: &PopId) -> Result<Offset, StorageError> {
        let mut reader = self.readers.acquire().await.map_err(StorageError::database("read an offset"))?;
        upto(&mut reader, pop).await
    }

    /// Events counted so far, from counters: cheap at any size.
    pub async fn event_counts(&self) -> Result<EventCounts, StorageError> {
        let rows: Vec<(String, String, i64)> = sqlx::query_as(sql::COUNTERS)
            .fetch_all(&self.readers)
            .await
            .map_err(StorageError::database("count events"))?;
        let mut counts = EventCounts { total: 0, by_kind: BTreeMap::new(), by_pop: BTreeMap::new() };
        for (scope, name, n) in rows {
            let n = from_sql(n);
            if scope == "kind" {
                counts.total += n;
                counts.by_kind.insert(name, n);
            } else {
                counts.by_pop.insert(name, n);
            }
        }
        Ok(counts)
    }

    /// The events that came last, newest first, at most `limit` and [`RECENT_MAX`].
    pub async fn events_recent(&self, filter: &Filter, limit: u32) -> Result<Vec<EventView>, StorageError> {
        let text = sql::events_recent(filter.visitor.is_some(), filter.trace.is_some());
        // The text is made of constants only; every value is bound.
        let mut query = sqlx::query(AssertSqlSafe(text));
        if let Some(visitor) = &filter.visitor {
            query = query.bind(visitor);
        }
        if let Some(trace) = filter.trace {
            query = query.bind(trace.0.to_be_bytes().to_vec());
        }
        let rows = query
            .bind(i64::from(limit.min(RECENT_MAX)))
            .fetch_all(&self.readers)
            .await
            .map_err(StorageError::database("read events"))?;
        rows.iter().map(view).collect()
    }

    /// Events after a cursor, of one visitor or of all, oldest first: at most `limit` and [`RECENT_MAX`], and no more than about a megabyte.
    /// Reads only, page by page, so that it stands in the way of no append, however long the whole takes.
    pub async fn events_page(
        &self,
        after: u64,
        visitor: Option<&str>,
        limit: u32,
    ) -> Result<EventPage, StorageError> {
        let failed = || StorageError::database("read a page of events");
        let mut reader = self.readers.acquire().await.map_err(failed())?;
        // Before the page: what is committed meanwhile is of a later page, and never passed over.
        let last: i64 =
            sqlx::query_scalar(sql::EVENTS_LAST_SEQ).fetch_one(&mut *reader).await.map_err(failed())?;
        let last = from_sql(last);
        let limit = limit.clamp(1, RECENT_MAX);
        let mut query = sqlx::query(AssertSqlSafe(sql::events_page(visitor.is_some())));
        if let Some(visitor) = visitor {
            query = query.bind(visitor);
        }
        let mut rows = query.bind(to_sql(after)).bind(i64::from(limit)).fetch(&mut *reader);
        let (mut events, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await.map_err(failed())? {
            bytes += row.try_get::<&[u8], _>("body").map_err(failed())?.len();
            events.push(view(&row)?);
            if bytes >= PAGE_BYTES_MAX {
                break;
            }
        }
        let full = bytes >= PAGE_BYTES_MAX || events.len() >= limit as usize;
        let read = events.last().map_or(after, |event| event.seq);
        Ok(EventPage { events, next: if full { read } else { read.max(last) }, last })
    }
}

/// How many of a batch's first events lie at or below `upto`. Pure.
fn overlap(upto: Offset, first: Offset, events: usize) -> Result<usize, AppendError> {
    let impossible = AppendError::Impossible { first, events };
    if first.0 == 0 || events > APPEND_EVENTS_MAX || first.0 > i64::MAX as u64 - APPEND_EVENTS_MAX as u64 {
        return Err(impossible);
    }
    let expected = Offset(upto.0 + 1);
    if first > expected {
        return Err(AppendError::Gap { first, expected });
    }
    Ok(usize::try_from(expected.0 - first.0).map_or(events, |known| known.min(events)))
}

pub(crate) async fn upto(connection: &mut SqliteConnection, pop: &PopId) -> Result<Offset, StorageError> {
    let upto: Option<i64> = sqlx::query_scalar(sql::POP_UPTO)
        .bind(pop.as_str())
        .fetch_optional(connection)
        .await
        .map_err(StorageError::database("read an offset"))?;
    Ok(Offset(upto.map_or(0, from_sql)))
}

/// Events that come again must be events that are here.
async fn check_known(
    connection: &mut SqliteConnection,
    first: Offset,
    again: &[Event],
) -> Result<(), AppendError> {
    for chunk in again.chunks(KNOWN_CHUNK) {
        let ids: std::collections::BTreeSet<[u8; 16]> = chunk.iter().map(|e| *e.id.0.as_bytes()).collect();
        let mut query: QueryScalar<'_, Sqlite, i64, SqliteArguments> =
            sqlx::query_scalar(AssertSqlSafe(sql::events_known(ids.len()))).persistent(false);
        for id in &ids {
            query = query.bind(id.to_vec());
        }
        let known =
            query.fetch_one(&mut *connection).await.map_err(StorageError::database("look up events"))?;
        if from_sql(known) != ids.len() as u64 {
            return Err(AppendError::Rewritten { first, last: Offset(first.0 + again.len() as u64 - 1) });
        }
    }
    Ok(())
}

/// Inserts what is new of `events`, and says how much that was, by kind.
async fn insert(
    connection: &mut SqliteConnection,
    pop: &PopId,
    first: Offset,
    events: &[Event],
    received_at_ms: u64,
) -> Result<BTreeMap<String, u64>, sqlx::Error> {
    sqlx::query(sql::POP_ENSURE)
        .bind(pop.as_str())
        .bind(to_sql(received_at_ms))
        .execute(&mut *connection)
        .await?;
    let erased = Erased::among(&mut *connection, events).await?;
    let before: i64 = sqlx::query_scalar(sql::EVENTS_LAST_SEQ).fetch_one(&mut *connection).await?;
    let mut rest = events;
    let mut offset = first.0;
    while let Some(rows) = INSERT_LADDER.into_iter().find(|rows| *rows <= rest.len()) {
        let (chunk, after) = rest.split_at(rows);
        let mut query = sqlx::query(AssertSqlSafe(sql::events_insert(rows)));
        for event in chunk {
            query = if erased.has(event) {
                bind_erased(query, pop, offset, event, received_at_ms)
            } else {
                bind(query, pop, offset, event, received_at_ms)
            };
            offset += 1;
        }
        query.execute(&mut *connection).await?;
        rest = after;
    }
    // One connection writes, so every row after `before` is of this batch.
    let counted: Vec<(String, i64)> =
        sqlx::query_as(sql::EVENTS_NEW_BY_KIND).bind(before).fetch_all(connection).await?;
    Ok(counted.into_iter().map(|(kind, n)| (kind, from_sql(n))).collect())
}

fn bind<'q>(
    query: Query<'q, Sqlite, SqliteArguments>,
    pop: &'q PopId,
    offset: u64,
    event: &'q Event,
    received_at_ms: u64,
) -> Query<'q, Sqlite, SqliteArguments> {
    let trace = (event.trace != TraceId::default()).then(|| event.trace.0.to_be_bytes().to_vec());
    query
        .bind(event.id.0.as_bytes().as_slice())
        .bind(pop.as_str())
        .bind(to_sql(offset))
        .bind(event.visitor.to_string())
        .bind(event.kind.name())
        .bind(event.kind.item().map(|item| item.as_str()))
        .bind(to_sql(event.at_ms))
        .bind(to_sql(received_at_ms))
        .bind(trace)
        .bind(FORMAT)
        .bind(proto::codec::encode(event))
}

/// What must be known of an event when it comes again, and nothing of its visitor.
fn bind_erased<'q>(
    query: Query<'q, Sqlite, SqliteArguments>,
    pop: &'q PopId,
    offset: u64,
    event: &'q Event,
    received_at_ms: u64,
) -> Query<'q, Sqlite, SqliteArguments> {
    query
        .bind(event.id.0.as_bytes().as_slice())
        .bind(pop.as_str())
        .bind(to_sql(offset))
        .bind("")
        .bind(ERASED)
        .bind(None::<&str>)
        .bind(0_i64)
        .bind(to_sql(received_at_ms))
        .bind(None::<Vec<u8>>)
        .bind(FORMAT_ERASED)
        .bind(Vec::<u8>::new())
}

async fn count(
    connection: &mut SqliteConnection,
    pop: &PopId,
    upto: Offset,
    counted: &BTreeMap<String, u64>,
) -> Result<(), sqlx::Error> {
    let total = counted.values().sum::<u64>();
    let kinds = counted.iter().map(|(kind, n)| ("kind", kind.as_str(), *n));
    for (scope, name, n) in kinds.chain([("pop", pop.as_str(), total)]) {
        sqlx::query(sql::COUNTER_ADD)
            .bind(scope)
            .bind(name)
            .bind(to_sql(n))
            .execute(&mut *connection)
            .await?;
    }
    sqlx::query(sql::POP_MOVE).bind(to_sql(upto.0)).bind(pop.as_str()).execute(connection).await.map(drop)
}

fn view(row: &sqlx::sqlite::SqliteRow) -> Result<EventView, StorageError> {
    let failed = || StorageError::database("read an event");
    let format: i64 = row.try_get("format").map_err(failed())?;
    let body: Vec<u8> = row.try_get("body").map_err(failed())?;
    let undecodable = |source| StorageError::Undecodable { what: "an event".into(), source };
    if format != FORMAT {
        let reason = format!("format {format} is not known to this version");
        return Err(undecodable(proto::codec::CodecError::Malformed(reason)));
    }
    let event: Event = proto::codec::decode(&body).map_err(undecodable)?;
    let pop: String = row.try_get("pop").map_err(failed())?;
    let pop = PopId::new(pop)
        .map_err(|e| undecodable(proto::codec::CodecError::Malformed(format!("its PoP's id: {e}"))))?;
    let number = |column: &str| Ok(from_sql(row.try_get(column).map_err(failed())?));
    Ok(EventView::new(number("seq")?, pop, Offset(number("at_offset")?), number("received_at_ms")?, event))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_is_what_lies_at_or_below_the_offset() {
        let overlap = |upto, first, events| overlap(Offset(upto), Offset(first), events);
        assert_eq!(overlap(0, 1, 5).unwrap(), 0);
        assert_eq!(overlap(5, 6, 5).unwrap(), 0);
        assert_eq!(overlap(5, 4, 5).unwrap(), 2);
        assert_eq!(overlap(9, 1, 5).unwrap(), 5);
        assert_eq!(overlap(5, 6, 0).unwrap(), 0);
        assert!(matches!(overlap(5, 7, 1), Err(AppendError::Gap { first: Offset(7), expected: Offset(6) })));
        assert!(matches!(overlap(5, 0, 1), Err(AppendError::Impossible { .. })));
        assert!(matches!(overlap(5, u64::MAX, 1), Err(AppendError::Impossible { .. })));
        assert!(matches!(overlap(0, 1, APPEND_EVENTS_MAX + 1), Err(AppendError::Impossible { .. })));
    }
}
