//! Who may be a node: one-time tokens for those that enrol, and who was revoked.

use proto::control::RevokedNode;
use proto::limits::REVOKED_NODES_MAX;
use proto::{Digest, NodeId, PopId};

use crate::audit::{self, Change};
use crate::error::{EnrolError, StorageError};
use crate::{Storage, from_sql, sql, to_sql};

/// Most tokens that were made and have not ended.
pub const TOKENS_MAX: u64 = 10_000;

/// A one-time token, but for its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// For which PoP.
    pub pop: PopId,
    /// For which node.
    pub node: NodeId,
    /// What apps dial, for the node's certificate.
    pub names: Vec<String>,
    /// Who made it.
    pub made_by: String,
    /// Until when, milliseconds since 1970 UTC.
    pub expires_at_ms: u64,
}

impl Storage {
    /// Keeps a token by its SHA-256, and forgets those that have ended. Writes `change` into the audit log.
    pub async fn add_enrolment(
        &self,
        token: Digest,
        enrolment: &Enrolment,
        change: &Change,
    ) -> Result<(), EnrolError> {
        let failed = || StorageError::database("keep a token");
        let names = serde_json::to_string(&enrolment.names).expect("a list of texts is JSON");
        let mut transaction = self.write("keep a token").await?;
        sqlx::query(sql::ENROLMENTS_ENDED)
            .bind(to_sql(change.at_ms))
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        let (open,): (i64,) =
            sqlx::query_as(sql::ENROLMENTS_OPEN).fetch_one(&mut *transaction).await.map_err(failed())?;
        if from_sql(open) >= TOKENS_MAX {
            return Err(EnrolError::TooMany(TOKENS_MAX));
        }
        if is_revoked(&mut transaction, &enrolment.pop, enrolment.node).await.map_err(failed())? {
            return Err(EnrolError::Revoked { pop: enrolment.pop.clone(), node: enrolment.node });
        }
        sqlx::query(sql::ENROLMENT_INSERT)
            .bind(token.0.as_slice())
            .bind(enrolment.pop.as_str())
            .bind(to_sql(enrolment.node.0))
            .bind(names)
            .bind(&enrolment.made_by)
            .bind(to_sql(enrolment.expires_at_ms))
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        audit::insert(&mut transaction, change).await.map_err(failed())?;
        transaction.commit().await.map_err(failed()).map_err(EnrolError::from)
    }

    /// The token with this SHA-256, if it holds at `now_ms` for this node. It is looked up by its hash: how long that takes
    /// says nothing of the token.
    pub async fn enrolment(
        &self,
        token: Digest,
        pop: &PopId,
        node: NodeId,
        now_ms: u64,
    ) -> Result<Enrolment, EnrolError> {
        let row: Option<(String, String, i64)> = sqlx::query_as(sql::ENROLMENT)
            .bind(token.0.as_slice())
            .bind(pop.as_str())
            .bind(to_sql(node.0))
            .bind(to_sql(now_ms))
            .fetch_optional(&self.readers)
            .await
            .map_err(StorageError::database("look for a token"))?;
        let (names, made_by, expires_at_ms) = row.ok_or(EnrolError::Token)?;
        let names = serde_json::from_str(&names).map_err(|_| EnrolError::Token)?;
        let expires_at_ms = from_sql(expires_at_ms);
        Ok(Enrolment { pop: pop.clone(), node, names, made_by, expires_at_ms })
    }

    /// Uses a token up for the key with this SHA-256. Of two that race, one wins; the same key may come again. Writes `change`
    /// into the audit log at the first time.
    pub async fn use_enrolment(
        &self,
        token: Digest,
        enrolment: &Enrolment,
        key: Digest,
        change: &Change,
    ) -> Result<(), EnrolError> {
        let failed = || StorageError::database("use a token");
        let (pop, node) = (&enrolment.pop, enrolment.node);
        let mut transaction = self.write("use a token").await?;
        if is_revoked(&mut transaction, pop, node).await.map_err(failed())? {
            return Err(EnrolError::Revoked { pop: pop.clone(), node });
        }
        let used = sqlx::query(sql::ENROLMENT_USE)
            .bind(key.0.as_slice())
            .bind(token.0.as_slice())
            .bind(pop.as_str())
            .bind(to_sql(node.0))
            .bind(to_sql(change.at_ms))
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        if used.rows_affected() == 0 {
            let again: Option<(i64,)> = sqlx::query_as(sql::ENROLMENT_USED_BY)
                .bind(token.0.as_slice())
                .bind(to_sql(change.at_ms))
                .bind(key.0.as_slice())
                .fetch_optional(&mut *transaction)
                .await
                .map_err(failed())?;
            return again.map(drop).ok_or(EnrolError::Token);
        }
        audit::insert(&mut transaction, change).await.map_err(failed())?;
        transaction.commit().await.map_err(failed()).map_err(EnrolError::from)
    }

    /// Revokes a node, for ever, and writes `change` into the audit log. Who was revoked before stays so, with its first reason.
    pub async fn revoke(
        &self,
        pop: &PopId,
        node: NodeId,
        reason: &str,
        change: &Change,
    ) -> Result<RevokedNode, EnrolError> {
        let failed = || StorageError::database("revoke a node");
        let mut transaction = self.write("revoke a node").await?;
        let (known,): (i64,) = sqlx::query_as(sql::REVOKED_COUNT)
            .bind(pop.as_str())
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed())?;
        if from_sql(known) >= REVOKED_NODES_MAX as u64 {
            return Err(EnrolError::TooMany(REVOKED_NODES_MAX as u64));
        }
        let added = sqlx::query(sql::REVOKED_INSERT)
            .bind(pop.as_str())
            .bind(to_sql(node.0))
            .bind(to_sql(change.at_ms))
            .bind(reason)
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        if added.rows_affected() > 0 {
            audit::insert(&mut transaction, change).await.map_err(failed())?;
        }
        let (revoked_at_ms, reason): (i64, String) = sqlx::query_as(sql::REVOKED_ONE)
            .bind(pop.as_str())
            .bind(to_sql(node.0))
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed())?;
        transaction.commit().await.map_err(failed())?;
        Ok(RevokedNode { pop: pop.clone(), node, revoked_at_ms: from_sql(revoked_at_ms), reason })
    }

    /// Every node that was revoked, of every PoP, by PoP and node.
    pub async fn revoked(&self) -> Result<Vec<RevokedNode>, StorageError> {
        let rows: Vec<(String, i64, i64, String)> = sqlx::query_as(sql::REVOKED)
            .fetch_all(&self.readers)
            .await
            .map_err(StorageError::database("read who was revoked"))?;
        let view = |(pop, node, revoked_at_ms, reason): (String, i64, i64, String)| {
            let pop = PopId::new(&pop).ok()?;
            let (node, revoked_at_ms) = (NodeId(from_sql(node)), from_sql(revoked_at_ms));
            Some(RevokedNode { pop, node, revoked_at_ms, reason })
        };
        Ok(rows.into_iter().filter_map(view).collect())
    }
}

async fn is_revoked(
    transaction: &mut sqlx::SqliteConnection,
    pop: &PopId,
    node: NodeId,
) -> Result<bool, sqlx::Error> {
    let row: Option<(i64, String)> = sqlx::query_as(sql::REVOKED_ONE)
        .bind(pop.as_str())
        .bind(to_sql(node.0))
        .fetch_optional(transaction)
        .await?;
    Ok(row.is_some())
}
