//! The audit log: who changed what, and when. Lines are added and never changed.

use proto::control::AuditView;
use sqlx::SqliteConnection;

use crate::error::StorageError;
use crate::{Storage, from_sql, sql, to_sql};

/// Most lines that one query answers with.
pub const AUDIT_MAX: u32 = 1_000;
/// A line's text is cut at this many bytes.
pub const DETAIL_BYTES_MAX: usize = 2_048;

/// A line for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// When, milliseconds since 1970 UTC.
    pub at_ms: u64,
    /// Who asked for it.
    pub who: String,
    /// What was asked for, in one word with dots: `bundle.publish`, `artifact.store` …
    pub what: String,
    /// With what, and how it went.
    pub detail: String,
}

impl Storage {
    /// Adds a line.
    pub async fn audit(&self, change: &Change) -> Result<(), StorageError> {
        let failed = || StorageError::database("write the audit log");
        let mut transaction = self.write("write the audit log").await?;
        insert(&mut transaction, change).await.map_err(failed())?;
        transaction.commit().await.map_err(failed())
    }

    /// The last lines, newest first, at most `limit` and [`AUDIT_MAX`].
    pub async fn audit_recent(&self, limit: u32) -> Result<Vec<AuditView>, StorageError> {
        let rows: Vec<(i64, i64, String, String, String)> = sqlx::query_as(sql::AUDIT)
            .bind(i64::from(limit.min(AUDIT_MAX)))
            .fetch_all(&self.readers)
            .await
            .map_err(StorageError::database("read the audit log"))?;
        let view = |(seq, at_ms, who, what, detail)| AuditView {
            seq: from_sql(seq),
            at_ms: from_sql(at_ms),
            who,
            what,
            detail,
        };
        Ok(rows.into_iter().map(view).collect())
    }
}

pub(crate) async fn insert(connection: &mut SqliteConnection, change: &Change) -> Result<(), sqlx::Error> {
    sqlx::query(sql::AUDIT_INSERT)
        .bind(to_sql(change.at_ms))
        .bind(cut(&change.who))
        .bind(cut(&change.what))
        .bind(cut(&change.detail))
        .execute(connection)
        .await
        .map(drop)
}

fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(DETAIL_BYTES_MAX)).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        assert_eq!(cut("short"), "short");
        let long = "é".repeat(DETAIL_BYTES_MAX);
        assert_eq!(cut(&long).len(), DETAIL_BYTES_MAX);
        let odd = format!("x{long}");
        assert_eq!(cut(&odd).len(), DETAIL_BYTES_MAX - 1);
    }
}
