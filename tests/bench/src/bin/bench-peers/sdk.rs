//! Asks a PoP through the SDK.

use std::sync::Arc;
use std::time::Duration;

use bench::pop::Pop;
use bench::work::{COUNT, DEADLINE_MS, SLOT, Work};
use client_sdk::{Client, SlotId, SlotRequest, VisitorId};

use crate::load::{Asker, Served, visitor_of};

/// Asks through the SDK: QUIC, TLS 1.3.
pub struct SdkAsker {
    clients: Vec<Client>,
    visitors: Vec<VisitorId>,
    slot: SlotId,
}

impl SdkAsker {
    /// Opens so many connections.
    ///
    /// # Errors
    /// Where a client cannot connect.
    pub async fn of(pop: &Pop, work: &Work, connections: usize) -> anyhow::Result<Arc<Self>> {
        let clients = pop.clients(connections).await?;
        let visitors = work.visitors.iter().map(|visitor| visitor.id.clone()).collect();
        Ok(Arc::new(Self { clients, visitors, slot: SlotId::new(SLOT)? }))
    }
}

impl Asker for SdkAsker {
    async fn ask(&self, number: u64) -> anyhow::Result<Served> {
        let client = &self.clients[number as usize % self.clients.len()];
        let visitor = self.visitors[visitor_of(number, self.visitors.len())].clone();
        let deadline = Duration::from_millis(DEADLINE_MS.into());
        let ask = SlotRequest::new(visitor, self.slot.clone()).count(COUNT).deadline(deadline);
        let answer = client.recommend(ask).await?;
        let ranked = answer.served_by == client_sdk::ServedBy::Ranked;
        Ok(if ranked { Served::Ranked } else { Served::Fallback })
    }
}
