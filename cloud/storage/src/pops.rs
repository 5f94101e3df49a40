//! PoPs and their nodes: how far their events are durable, and how each node last said it is.

use proto::control::{Membership, NodeReport, NodeView, PopView};
use proto::{NodeId, Offset, PopId};

use crate::audit::{self, Change};
use crate::error::{AppendError, StorageError};
use crate::{Storage, events, from_sql, sql, to_sql};

type PopRow = (String, i64, i64);
type NodeRow = (String, i64, String, i64);

impl Storage {
    /// Keeps a node's report in place of its last one.
    pub async fn report(
        &self,
        pop: &PopId,
        node: NodeId,
        report: &NodeReport,
        seen_at_ms: u64,
    ) -> Result<(), StorageError> {
        let failed = || StorageError::database("keep a report");
        let json = serde_json::to_string(report).expect("a report has text keys and finite numbers only");
        let mut transaction = self.write("keep a report").await?;
        sqlx::query(sql::POP_ENSURE)
            .bind(pop.as_str())
            .bind(to_sql(seen_at_ms))
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        sqlx::query(sql::NODE_REPORT)
            .bind(pop.as_str())
            .bind(to_sql(node.0))
            .bind(json)
            .bind(to_sql(seen_at_ms))
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        transaction.commit().await.map_err(failed())
    }

    /// Every PoP that ever spoke, by name, with its nodes.
    pub async fn pops(&self) -> Result<Vec<PopView>, StorageError> {
        let failed = || StorageError::database("read PoPs");
        // One transaction, so that offsets and reports are of the same moment.
        let mut transaction = self.readers.begin().await.map_err(failed())?;
        let pops: Vec<PopRow> =
            sqlx::query_as(sql::POPS).fetch_all(&mut *transaction).await.map_err(failed())?;
        let nodes: Vec<NodeRow> =
            sqlx::query_as(sql::NODES).fetch_all(&mut *transaction).await.map_err(failed())?;
        let mut views: Vec<PopView> = pops.into_iter().filter_map(pop_view).collect();
        for row in nodes {
            // SQLite sorts text by its bytes, as `str` does.
            if let Ok(at) = views.binary_search_by(|view| view.pop.as_str().cmp(&row.0)) {
                views[at].nodes.extend(node_view(row));
            }
        }
        Ok(views)
    }

    /// One PoP, if it ever spoke.
    pub async fn pop(&self, pop: &PopId) -> Result<Option<PopView>, StorageError> {
        let failed = || StorageError::database("read a PoP");
        let mut transaction = self.readers.begin().await.map_err(failed())?;
        let row: Option<PopRow> = sqlx::query_as(sql::POP)
            .bind(pop.as_str())
            .fetch_optional(&mut *transaction)
            .await
            .map_err(failed())?;
        let nodes: Vec<NodeRow> = sqlx::query_as(sql::NODES_OF)
            .bind(pop.as_str())
            .fetch_all(&mut *transaction)
            .await
            .map_err(failed())?;
        Ok(row.and_then(pop_view).map(|mut view| {
            view.nodes.extend(nodes.into_iter().filter_map(node_view));
            view
        }))
    }
}

impl Storage {
    /// Gives up a PoP's events after `upto`, up to `acknowledged`: they were acknowledged before this database was restored, and are
    /// nowhere any more. The next event is due after them. Writes `change` into the audit log.
    pub async fn accept_loss(
        &self,
        pop: &PopId,
        upto: Offset,
        acknowledged: Offset,
        change: &Change,
    ) -> Result<(), AppendError> {
        let failed = || StorageError::database("give up lost events");
        let expected = Offset(upto.0 + 1);
        if acknowledged <= upto || acknowledged.0 > i64::MAX as u64 / 2 {
            return Err(AppendError::Gap { first: acknowledged, expected });
        }
        let mut transaction = self.write("give up lost events").await?;
        let now = events::upto(&mut transaction, pop).await?;
        if now != upto {
            return Err(AppendError::Gap { first: expected, expected: Offset(now.0 + 1) });
        }
        sqlx::query(sql::LOSS_INSERT)
            .bind(pop.as_str())
            .bind(to_sql(expected.0))
            .bind(to_sql(acknowledged.0))
            .bind(to_sql(change.at_ms))
            .bind(&change.who)
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        sqlx::query(sql::POP_MOVE)
            .bind(to_sql(acknowledged.0))
            .bind(pop.as_str())
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        audit::insert(&mut transaction, change).await.map_err(failed())?;
        transaction.commit().await.map_err(failed()).map_err(AppendError::from)
    }

    /// Whether a PoP has ever spoken to this cloud, or a token was made for it that has not ended.
    pub async fn knows_pop(&self, pop: &PopId) -> Result<bool, StorageError> {
        sqlx::query_scalar(sql::POP_KNOWN)
            .bind(pop.as_str())
            .fetch_one(&self.readers)
            .await
            .map_err(StorageError::database("look for a PoP"))
    }

    /// Whether a node has ever reported to this cloud, or a token was made for it that has not ended.
    pub async fn knows_node(&self, pop: &PopId, node: NodeId) -> Result<bool, StorageError> {
        sqlx::query_scalar(sql::NODE_KNOWN)
            .bind(pop.as_str())
            .bind(to_sql(node.0))
            .fetch_one(&self.readers)
            .await
            .map_err(StorageError::database("look for a node"))
    }
}

fn pop_view((pop, upto, lost): PopRow) -> Option<PopView> {
    let pop = PopId::new(&pop)
        .inspect_err(|e| tracing::error!(%pop, error = %e, "a stored PoP has an impossible name"))
        .ok()?;
    let (upto, lost) = (Offset(from_sql(upto)), from_sql(lost));
    Some(PopView { pop, upto, nodes: Vec::new(), ahead: None, diverged: None, lost })
}

/// A report that an older version stored may not be readable. It says how a node was, and the next one is seconds away, so
/// it is left out rather than an error for all PoPs.
fn node_view((pop, node, report, seen_at_ms): NodeRow) -> Option<NodeView> {
    let report = serde_json::from_str(&report)
        .inspect_err(|e| tracing::warn!(%pop, node, error = %e, "a stored report cannot be read"))
        .ok()?;
    Some(NodeView {
        node: NodeId(from_sql(node)),
        seen_at_ms: from_sql(seen_at_ms),
        report,
        membership: Membership::Unknown,
    })
}
