//! Erasures: what is known of a visitor goes, and does not come back with events that were under way.

use std::collections::{BTreeSet, HashMap};

use proto::control::ErasureView;
use proto::limits::ERASURES_MAX;
use proto::uplink::Erasure;
use proto::{Event, PopId, VisitorId};
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Row as _, SqliteConnection};

use crate::audit::{self, Change};
use crate::error::StorageError;
use crate::{Storage, from_sql, sql, to_sql};

/// Visitors per lookup.
const LOOKUP_CHUNK: usize = 256;

/// A number beyond this is no erasure's: millions a second would take a thousand years to it.
const ERASURE_NUMBER_MAX: u64 = 1 << 55;

/// The kind of an event of which nothing is left.
pub const ERASED: &str = "erased";

impl Storage {
    /// Erases a visitor's events, and has every PoP erase the visitor's profile. In one transaction with a line of the audit log, which names
    /// the visitor by its keyed hash. Doing it again erases what came since.
    pub async fn erase(
        &self,
        visitor: &VisitorId,
        who: &str,
        now_ms: u64,
    ) -> Result<ErasureView, StorageError> {
        let failed = || StorageError::database("erase a visitor");
        let mut transaction = self.write("erase a visitor").await?;
        let key = Key::read(&mut transaction).await.map_err(failed())?.of(visitor);
        let kinds: Vec<(String, i64)> = sqlx::query_as(sql::EVENTS_OF_BY_KIND)
            .bind(visitor.to_string())
            .fetch_all(&mut *transaction)
            .await
            .map_err(failed())?;
        sqlx::query(sql::EVENTS_BLANK)
            .bind(visitor.to_string())
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        let events: i64 = kinds.iter().map(|(_, n)| n).sum();
        for (kind, n) in &kinds {
            let take = sqlx::query(sql::COUNTER_TAKE).bind(n).bind(kind);
            take.execute(&mut *transaction).await.map_err(failed())?;
        }
        let add = sqlx::query(sql::COUNTER_ADD).bind("kind").bind(ERASED).bind(events);
        add.execute(&mut *transaction).await.map_err(failed())?;
        // A new number, so that PoPs that carried out an earlier one hear of this one.
        sqlx::query(sql::ERASURE_DELETE).bind(&key[..]).execute(&mut *transaction).await.map_err(failed())?;
        let number: i64 = sqlx::query_scalar(sql::ERASURE_INSERT)
            .bind(&key[..])
            .bind(visitor.to_string())
            .bind(to_sql(now_ms))
            .bind(events)
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed())?;
        let name: String = key[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let detail = format!("erasure {number} of visitor {name}…: {events} events");
        let change = Change { at_ms: now_ms, who: who.to_owned(), what: "visitor.erase".into(), detail };
        audit::insert(&mut transaction, &change).await.map_err(failed())?;
        let view = view(&mut transaction, number, now_ms, events).await?;
        transaction.commit().await.map_err(failed())?;
        Ok(view)
    }

    /// The last erasure of a visitor.
    pub async fn erasure(&self, visitor: &VisitorId) -> Result<Option<ErasureView>, StorageError> {
        let failed = || StorageError::database("read an erasure");
        let mut reader = self.readers.acquire().await.map_err(failed())?;
        let key = Key::read(&mut reader).await.map_err(failed())?.of(visitor);
        let found: Option<(i64, i64, i64)> = sqlx::query_as(sql::ERASURE)
            .bind(&key[..])
            .fetch_optional(&mut *reader)
            .await
            .map_err(failed())?;
        match found {
            Some((number, at_ms, events)) => {
                view(&mut reader, number, from_sql(at_ms), events).await.map(Some)
            }
            None => Ok(None),
        }
    }

    /// What a PoP has to erase: it has carried out all erasures up to number `after`. Ids of visitors whom every PoP has erased are
    /// forgotten here.
    pub async fn erasures_after(
        &self,
        pop: &PopId,
        after: u64,
        now_ms: u64,
    ) -> Result<Vec<Erasure>, StorageError> {
        let failed = || StorageError::database("read erasures");
        let last: i64 =
            sqlx::query_scalar(sql::ERASURES_LAST).fetch_one(&self.readers).await.map_err(failed())?;
        if (from_sql(last)..=ERASURE_NUMBER_MAX).contains(&after) && from_sql(last) != after {
            self.go_on_above(pop, after, now_ms).await?;
        }
        let open: Vec<(i64, String, i64)> = sqlx::query_as(sql::ERASURES_AFTER)
            .bind(to_sql(after))
            .bind(ERASURES_MAX as i64)
            .fetch_all(&self.readers)
            .await
            .map_err(failed())?;
        self.carried_out(pop, after, open.is_empty(), now_ms).await?;
        let erasure = |(number, visitor, at_ms): (i64, String, i64)| {
            let visitor = visitor.parse().map_err(|e| StorageError::Undecodable {
                what: "the visitor of an erasure".into(),
                source: proto::codec::CodecError::Malformed(format!("{e}")),
            })?;
            Ok(Erasure { number: from_sql(number), visitor, at_ms: from_sql(at_ms) })
        };
        open.into_iter().map(erasure).collect()
    }

    /// A PoP has carried out more than was ever asked of it here: this database is of a backup. Numbers go on above those that the PoP has
    /// had, and so do those of what is still to be erased: else it would take them for done.
    async fn go_on_above(&self, pop: &PopId, after: u64, now_ms: u64) -> Result<(), StorageError> {
        let failed = || StorageError::database("number erasures anew");
        let mut transaction = self.write("number erasures anew").await?;
        let last: i64 =
            sqlx::query_scalar(sql::ERASURES_LAST).fetch_one(&mut *transaction).await.map_err(failed())?;
        if from_sql(last) >= after {
            return Ok(());
        }
        let move_up = sqlx::query(sql::ERASURES_MOVE).bind(to_sql(after));
        move_up.execute(&mut *transaction).await.map_err(failed())?;
        for set in [
            sqlx::query(sql::ERASURES_SEQUENCE_DELETE),
            sqlx::query(sql::ERASURES_SEQUENCE_SET).bind(to_sql(after)),
        ] {
            set.execute(&mut *transaction).await.map_err(failed())?;
        }
        let detail = format!(
            "{pop} has carried out erasures {} to {after}, of which this cloud knows nothing: whoever was erased since the backup is \
             known here again; erase them again",
            last + 1
        );
        tracing::warn!(%pop, "{detail}");
        let change =
            Change { at_ms: now_ms, who: "cloud".into(), what: "visitor.erasures_lost".into(), detail };
        audit::insert(&mut transaction, &change).await.map_err(failed())?;
        transaction.commit().await.map_err(failed())
    }

    /// Notes how far a PoP has come; writes only where that is news.
    async fn carried_out(&self, pop: &PopId, after: u64, all: bool, now_ms: u64) -> Result<(), StorageError> {
        let failed = || StorageError::database("note what a PoP has erased");
        let last: i64 =
            sqlx::query_scalar(sql::ERASURES_LAST).fetch_one(&self.readers).await.map_err(failed())?;
        // A PoP that came after an erasure was carried out everywhere has nothing to erase.
        let upto = if all { last } else { to_sql(after).min(last) };
        let known: Option<i64> = sqlx::query_scalar(sql::POP_ERASURES)
            .bind(pop.as_str())
            .fetch_optional(&self.readers)
            .await
            .map_err(failed())?;
        if known.unwrap_or(0) >= upto {
            return Ok(());
        }
        let mut transaction = self.write("note what a PoP has erased").await?;
        sqlx::query(sql::POP_ENSURE)
            .bind(pop.as_str())
            .bind(to_sql(now_ms))
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        sqlx::query(sql::POP_ERASED)
            .bind(upto)
            .bind(pop.as_str())
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        sqlx::query(sql::ERASURES_FORGET).execute(&mut *transaction).await.map_err(failed())?;
        transaction.commit().await.map_err(failed())
    }
}

async fn view(
    connection: &mut SqliteConnection,
    number: i64,
    at_ms: u64,
    events: i64,
) -> Result<ErasureView, StorageError> {
    let failed = || StorageError::database("read who has erased a visitor");
    let waiting: Vec<String> =
        sqlx::query_scalar(sql::POPS_BEHIND).bind(number).fetch_all(connection).await.map_err(failed())?;
    let pop = |name: String| {
        PopId::new(name).map_err(|e| StorageError::Undecodable {
            what: "a PoP's id".into(),
            source: proto::codec::CodecError::Malformed(e.to_string()),
        })
    };
    let waiting = waiting.into_iter().map(pop).collect::<Result<_, _>>()?;
    Ok(ErasureView { number: from_sql(number), erased_at_ms: at_ms, events: from_sql(events), waiting })
}

/// What ids are hashed with.
struct Key(Vec<u8>);

impl Key {
    async fn read(connection: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        sqlx::query_scalar(sql::ERASURE_KEY).fetch_one(connection).await.map(Self)
    }

    fn of(&self, visitor: &VisitorId) -> [u8; 32] {
        Sha256::new().chain_update(&self.0).chain_update(visitor.to_string()).finalize().into()
    }
}

/// Who of a batch's visitors was erased, and until when; nobody, almost always, which one look tells.
#[derive(Debug, Default)]
pub(crate) struct Erased(HashMap<VisitorId, u64>);

impl Erased {
    pub(crate) async fn among(
        connection: &mut SqliteConnection,
        events: &[Event],
    ) -> Result<Self, sqlx::Error> {
        let any: Option<i64> = sqlx::query_scalar(sql::ERASURES_ANY).fetch_optional(&mut *connection).await?;
        if any.is_none() {
            return Ok(Self::default());
        }
        let key = Key::read(&mut *connection).await?;
        let visitors: BTreeSet<&VisitorId> = events.iter().map(|event| &event.visitor).collect();
        let keys: HashMap<Vec<u8>, &VisitorId> =
            visitors.into_iter().map(|visitor| (key.of(visitor).to_vec(), visitor)).collect();
        let mut erased = HashMap::new();
        let all: Vec<&Vec<u8>> = keys.keys().collect();
        for chunk in all.chunks(LOOKUP_CHUNK) {
            let text = sql::erasures_of(chunk.len());
            let mut query = sqlx::query(AssertSqlSafe(text)).persistent(false);
            for key in chunk {
                query = query.bind(key.as_slice());
            }
            for row in query.fetch_all(&mut *connection).await? {
                let (key, at_ms): (Vec<u8>, i64) =
                    (row.try_get("visitor_key")?, row.try_get("erased_at_ms")?);
                erased.extend(keys.get(&key).map(|visitor| ((*visitor).clone(), from_sql(at_ms))));
            }
        }
        Ok(Self(erased))
    }

    /// Whether an event is of before its visitor's erasure.
    pub(crate) fn has(&self, event: &Event) -> bool {
        self.0.get(&event.visitor).is_some_and(|at_ms| event.at_ms <= *at_ms)
    }
}
