//! Which bundle is offered to which PoP: a new one first to the canary PoPs, and to all once it has proved itself there.
//!
//! Pure: it hears of publications, reports and the time, and says what follows; [`crate::Registry`] stores that and acts on it.
//!
//! ```text
//!              every node of each canary has served it for hold_s, and answers well
//! published ─▶ canary ──────────────────────────────────────────────────────────────▶ promoted: offered to all
//!                │ refused · answers worse · no proof within verdict_within_s
//!                └───────▶ stopped: never offered again; what was promoted last comes as a newer revision, to all
//! ```
//!
//! A publication while another is on trial supersedes that one. Nodes that are no members of a canary neither prove nor refuse.

mod config;
mod health;

use std::collections::{BTreeMap, BTreeSet};

use proto::control::{AnswerCounts, NodeReport, NodeView, PopView, RolloutStage, RolloutView};
use proto::{NodeId, PopId, Revision};

pub use config::Config;

/// A node that said nothing for longer is not known to live: what it serves is counted anew when it speaks again. Nodes report
/// more often (`uplink.report_every_ms`).
pub const SILENT_MS: u64 = 30_000;

/// What is offered to whom.
#[derive(Debug, Clone)]
pub struct Rollout {
    config: Config,
    promoted: Option<Revision>,
    stopped: Option<Revision>,
    trial: Option<Trial>,
    /// Who is a member, by the leader of each PoP that says so.
    members: BTreeMap<PopId, BTreeSet<NodeId>>,
}

/// A bundle on trial.
#[derive(Debug, Clone)]
struct Trial {
    view: RolloutView,
    /// None: no PoP has come yet that it could be tried on.
    until_ms: Option<u64>,
    refusal: Option<String>,
    nodes: BTreeMap<(PopId, NodeId), Seen>,
}

/// What is known of a canary's node during a trial.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// When it last reported in this trial.
    at_ms: u64,
    /// Since when it serves the bundle on trial without a break.
    since_ms: Option<u64>,
    answers: AnswerCounts,
    /// It serves another bundle, whatever its number.
    other: bool,
    /// The number of a bundle that is active there and in the way: as new as the one on trial, and another.
    beyond: Option<Revision>,
}

/// On whom the next bundle is tried.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The canary PoPs; empty: the first that speaks.
    pub canaries: Vec<PopId>,
    /// Their nodes that live: each has to prove it.
    pub nodes: Vec<(PopId, NodeId)>,
    /// How they answered until now.
    pub before: AnswerCounts,
    /// Whether the bundle has another catalog than the one before.
    pub new_catalog: bool,
}

/// What was asked for by hand cannot be: this revision is not on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotOnTrial;

impl Rollout {
    /// What a restart goes on with: the newest promoted and stopped rollouts, and the one on trial. Its time begins anew, as
    /// nobody was heard meanwhile.
    pub fn load(config: Config, known: impl IntoIterator<Item = RolloutView>, now_ms: u64) -> Self {
        let mut rollout =
            Self { config, promoted: None, stopped: None, trial: None, members: BTreeMap::new() };
        for view in known {
            match view.stage {
                RolloutStage::Promoted => rollout.promoted = rollout.promoted.max(Some(view.revision)),
                RolloutStage::Stopped => rollout.stopped = rollout.stopped.max(Some(view.revision)),
                RolloutStage::Superseded => {}
                RolloutStage::Canary => rollout.trial = Some(Trial::of(view, &rollout.config, now_ms)),
            }
        }
        rollout
    }

    /// What this PoP is offered.
    pub fn offered(&self, pop: &PopId) -> Option<Revision> {
        self.on_trial(pop).or(self.promoted)
    }

    fn on_trial(&self, pop: &PopId) -> Option<Revision> {
        let trial = self.trial.as_ref()?;
        trial.view.canaries.contains(pop).then_some(trial.view.revision)
    }

    /// What every PoP is offered, but canaries during a trial.
    pub fn promoted(&self) -> Option<Revision> {
        self.promoted
    }

    /// The rollout on trial.
    pub fn trial(&self) -> Option<&RolloutView> {
        self.trial.as_ref().map(|trial| &trial.view)
    }

    /// The same, with how its canaries have answered from it until now.
    pub fn trial_until_now(&self) -> Option<RolloutView> {
        let trial = self.trial.as_ref()?;
        Some(RolloutView { during: trial.answers(), ..trial.view.clone() })
    }

    /// The number that the bundle on trial must be above: a canary has another bundle under its number or a later one, from before
    /// this cloud was restored, and never takes it.
    pub fn taken(&self) -> Option<Revision> {
        let trial = self.trial.as_ref()?;
        trial.nodes.values().filter_map(|seen| seen.beyond).max()
    }

    /// True: the canaries still have to get what was promoted last, as a newer revision than the one that was stopped.
    pub fn needs_recovery(&self) -> bool {
        self.trial.is_none() && self.promoted.is_some() && self.stopped > self.promoted
    }

    /// On whom a bundle that is published now is tried: the PoPs of the settings, else the first by id of those that live.
    pub fn plan(&self, pops: &[PopView], arrived: &BTreeSet<PopId>, now_ms: u64) -> Plan {
        let alive = |seen_at_ms: u64| now_ms.saturating_sub(seen_at_ms) <= SILENT_MS;
        let canaries = if self.config.canary_pops.is_empty() {
            let reported = pops.iter().filter(|pop| pop.nodes.iter().any(|node| alive(node.seen_at_ms)));
            reported.map(|pop| &pop.pop).chain(arrived).min().cloned().into_iter().collect()
        } else {
            self.config.canary_pops.clone()
        };
        let mut plan = Plan { canaries, ..Plan::default() };
        for pop in pops.iter().filter(|pop| plan.canaries.contains(&pop.pop)) {
            let counts = |node: &&NodeView| alive(node.seen_at_ms) && self.is_member(&pop.pop, node.node);
            for node in pop.nodes.iter().filter(counts) {
                plan.nodes.push((pop.pop.clone(), node.node));
                plan.before = plan.before.plus(node.report.answers);
            }
        }
        // A bundle that had no verdict is no measure for the next one.
        if let Some(trial) = self.trial.as_ref().filter(|trial| trial.view.canaries == plan.canaries) {
            plan.before = trial.view.before;
        }
        plan
    }

    /// A bundle was published: it goes on trial. Gives what has changed.
    pub fn begin(&mut self, revision: Revision, plan: Plan, now_ms: u64) -> Vec<RolloutView> {
        let mut changed = self.supersede(revision, now_ms);
        let view = RolloutView {
            revision,
            stage: RolloutStage::Canary,
            canaries: plan.canaries,
            began_at_ms: now_ms,
            ended_at_ms: None,
            reason: "on trial".to_owned(),
            before: plan.before,
            during: AnswerCounts::default(),
            new_catalog: plan.new_catalog,
        };
        changed.push(view.clone());
        let mut trial = Trial::of(view, &self.config, now_ms);
        trial.nodes = plan.nodes.into_iter().map(|node| (node, Seen::default())).collect();
        self.trial = Some(trial);
        changed
    }

    /// Contents that were proved before were published anew: they go to all at once. Gives what has changed.
    pub fn begin_proved(&mut self, revision: Revision, reason: &str, now_ms: u64) -> Vec<RolloutView> {
        let mut changed = self.supersede(revision, now_ms);
        self.promoted = self.promoted.max(Some(revision));
        changed.push(RolloutView {
            revision,
            stage: RolloutStage::Promoted,
            canaries: Vec::new(),
            began_at_ms: now_ms,
            ended_at_ms: Some(now_ms),
            reason: reason.to_owned(),
            before: AnswerCounts::default(),
            during: AnswerCounts::default(),
            new_catalog: false,
        });
        changed
    }

    fn supersede(&mut self, by: Revision, now_ms: u64) -> Vec<RolloutView> {
        let reason = format!("revision {by} was published before its verdict");
        self.end(RolloutStage::Superseded, reason, now_ms).into_iter().collect()
    }

    /// A PoP speaks. If nobody was there to try a bundle on, it is the one. Gives what has changed.
    pub fn arrived(&mut self, pop: &PopId, now_ms: u64) -> Option<RolloutView> {
        let trial = self.trial.as_mut().filter(|trial| trial.view.canaries.is_empty())?;
        trial.view.canaries = vec![pop.clone()];
        trial.until_ms = Some(self.config.until_ms(now_ms));
        Some(trial.view.clone())
    }

    /// A PoP's leader says who its members are: nobody else proves anything.
    pub fn members(&mut self, pop: &PopId, members: BTreeSet<NodeId>) {
        if let Some(trial) = &mut self.trial {
            trial.nodes.retain(|(of, node), _| of != pop || members.contains(node));
        }
        self.members.insert(pop.clone(), members);
    }

    fn is_member(&self, pop: &PopId, node: NodeId) -> bool {
        self.members.get(pop).is_none_or(|members| members.contains(&node))
    }

    /// A node says what it serves: `other` where that is, by its digest, not the bundle on trial. `beyond`: what is active in its PoP,
    /// where that is another bundle under the same number or a later one.
    pub fn stands(&mut self, pop: &PopId, node: NodeId, other: bool, beyond: Option<Revision>) {
        let Some(trial) = self.trial.as_mut() else { return };
        if let Some(seen) = trial.nodes.get_mut(&(pop.clone(), node)) {
            (seen.other, seen.beyond) = (other, beyond);
        }
    }

    /// A node of a PoP reports.
    pub fn heard(&mut self, pop: &PopId, node: NodeId, report: &NodeReport, now_ms: u64) {
        if !self.is_member(pop, node) {
            return;
        }
        let Some(trial) = self.trial.as_mut().filter(|trial| trial.view.canaries.contains(pop)) else {
            return;
        };
        let revision = trial.view.revision;
        let seen = trial.nodes.entry((pop.clone(), node)).or_default();
        // It was away, or has begun anew: what it served before proves nothing.
        let broken = now_ms.saturating_sub(seen.at_ms) > SILENT_MS
            || report.answers.answers < seen.answers.answers
            || report.revision != revision;
        if broken {
            *seen = Seen { other: seen.other, beyond: seen.beyond, ..Seen::default() };
        }
        seen.at_ms = now_ms;
        if report.revision == revision {
            seen.since_ms = seen.since_ms.or(Some(now_ms));
            seen.answers = report.answers;
        }
        if report.unfit == revision {
            let why = report.bundle_error.as_deref().unwrap_or("it does not say why");
            trial.refusal.get_or_insert_with(|| format!("node {node} of {pop} refuses it: {why}"));
        }
    }

    /// The verdict, if there is enough to go by. Gives what has changed.
    pub fn judge(&mut self, now_ms: u64) -> Option<RolloutView> {
        let (stage, reason) = self.trial.as_ref()?.verdict(&self.config, now_ms)?;
        self.end(stage, reason, now_ms)
    }

    /// Ends the trial of `revision` by hand: offers it to all, or to nobody any more. Gives what has changed.
    pub fn decide(
        &mut self,
        revision: Revision,
        stage: RolloutStage,
        reason: &str,
        now_ms: u64,
    ) -> Result<RolloutView, NotOnTrial> {
        if self.trial().is_none_or(|view| view.revision != revision) {
            return Err(NotOnTrial);
        }
        self.end(stage, reason.to_owned(), now_ms).ok_or(NotOnTrial)
    }

    fn end(&mut self, stage: RolloutStage, reason: String, now_ms: u64) -> Option<RolloutView> {
        let trial = self.trial.take()?;
        let during = trial.answers();
        let view = RolloutView { stage, reason, during, ended_at_ms: Some(now_ms), ..trial.view };
        match stage {
            RolloutStage::Promoted => self.promoted = self.promoted.max(Some(view.revision)),
            RolloutStage::Stopped => self.stopped = self.stopped.max(Some(view.revision)),
            RolloutStage::Canary | RolloutStage::Superseded => {}
        }
        Some(view)
    }
}

impl Trial {
    fn of(view: RolloutView, config: &Config, now_ms: u64) -> Self {
        let until_ms = (!view.canaries.is_empty()).then(|| config.until_ms(now_ms));
        Self { view, until_ms, refusal: None, nodes: BTreeMap::new() }
    }

    /// How the canaries answered from the bundle on trial.
    fn answers(&self) -> AnswerCounts {
        self.nodes.values().fold(AnswerCounts::default(), |sum, seen| sum.plus(seen.answers))
    }

    fn verdict(&self, config: &Config, now_ms: u64) -> Option<(RolloutStage, String)> {
        let until_ms = self.until_ms?;
        if let Some(refusal) = &self.refusal {
            return Some((RolloutStage::Stopped, refusal.clone()));
        }
        let (before, during) = (self.view.before, self.answers());
        if let Some(worse) = health::worse(before, during, self.view.new_catalog) {
            return Some((RolloutStage::Stopped, worse));
        }
        let (ends, hold_s, answers) = (now_ms >= until_ms, config.hold_s, during.answers);
        let promoted = |reason: String| Some((RolloutStage::Promoted, reason));
        match self.unproved(config, now_ms) {
            Some(who) if ends => {
                let reason = format!("not proved within {} s: {who}", config.verdict_within_s);
                Some((RolloutStage::Stopped, reason))
            }
            Some(_) => None,
            None if answers >= health::ANSWERS_MIN => promoted(format!(
                "each canary has served it for {hold_s} s and answers well: {answers} answers"
            )),
            None if answers == 0 => promoted(format!(
                "each canary has served it for {hold_s} s; nobody asked, so only that it opens is proved"
            )),
            // So few say little: more may come.
            None if !ends => None,
            None => match health::failing(during) {
                Some(worse) => Some((RolloutStage::Stopped, worse)),
                None => promoted(format!(
                    "nothing went wrong in {} s; {answers} answers are too few to compare",
                    config.verdict_within_s
                )),
            },
        }
    }

    /// Who has not served it for long enough.
    fn unproved(&self, config: &Config, now_ms: u64) -> Option<String> {
        let silent = |pop: &&PopId| !self.nodes.keys().any(|(of, _)| of == *pop);
        if let Some(pop) = self.view.canaries.iter().find(silent) {
            return Some(format!("no node of {pop} has reported"));
        }
        let holds = |seen: &Seen| {
            let since = seen.since_ms.is_some_and(|since| now_ms.saturating_sub(since) >= config.hold_ms());
            since && !seen.other && now_ms.saturating_sub(seen.at_ms) <= SILENT_MS
        };
        let ((pop, node), seen) = self.nodes.iter().find(|(_, seen)| !holds(seen))?;
        Some(match seen.other {
            true => format!("node {node} of {pop} serves another bundle"),
            false => format!("node {node} of {pop} has not served it for {} s", config.hold_s),
        })
    }
}

#[cfg(test)]
mod tests;
