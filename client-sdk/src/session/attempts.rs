//! One request within its deadline, over several nodes.
//!
//! Every node asked gets a quarter of the time that is left; where it is far, four round trips, up to half; but at most
//! a second. The last one gets all of it. A node that is silent for that long is not given up: another is asked beside
//! it, and the first answer counts (a hedge, Dean and Barroso, "The tail at scale", 2013). A node that fails, or says
//! that another should be asked, is left at once. A node that sheds load is obeyed: the request pauses as long as it
//! said. At most `attempts_max` questions are asked in all, so a slow PoP sees a bounded multiple of its load.

use proto::{ErrorReply, Retry};

use super::{Address, Nodes, backoff_ms};

/// Limits of [`Attempts`].
#[derive(Debug, Clone)]
pub(crate) struct AttemptsRules {
    /// Most questions for one request.
    pub(crate) attempts_max: u32,
    /// Longest silence before another node is asked, however long the request's deadline.
    pub(crate) silence_max_ms: u64,
    /// Silence shorter than this never counts against a node, however short the request's deadline.
    pub(crate) silence_min_ms: u64,
    /// First pause before a node that failed this request is asked again, when there is no other.
    pub(crate) backoff_base_ms: u64,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask this node now, beside what is in flight.
    Ask(Address),
    /// Nothing to begin before this time: wait for what is in flight, then ask again what to do.
    Wait(u64),
    /// The request has failed.
    GiveUp(GiveUp),
}

/// Why a request has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GiveUp {
    /// The time is over, or is too short for the pause that is due.
    Deadline,
    /// Nobody is left to ask.
    Exhausted,
}

/// How one question failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The node answered with an error.
    Refused(ErrorReply),
    /// The node could not be reached, or the connection broke.
    Unreachable,
    /// The question's time was over before anything came.
    Silent,
    /// A connection that had worked has ended, as it does at its maximum age: dial again, once.
    Ended,
}

#[derive(Debug)]
struct Flight {
    address: Address,
    asked_at_ms: u64,
    patient_until_ms: u64,
    late: bool,
}

/// The state of one request.
#[derive(Debug)]
pub(crate) struct Attempts {
    rules: AttemptsRules,
    deadline_ms: u64,
    made: u32,
    tried: Vec<Address>,
    flights: Vec<Flight>,
    paused_until_ms: u64,
    redialled: bool,
    silent: Vec<(Address, u64)>,
}

impl Attempts {
    /// A request that must be answered before `deadline_ms`.
    pub(crate) fn new(rules: AttemptsRules, deadline_ms: u64) -> Self {
        Self {
            rules,
            deadline_ms,
            made: 0,
            tried: Vec::new(),
            flights: Vec::new(),
            paused_until_ms: 0,
            redialled: false,
            silent: Vec::new(),
        }
    }

    /// What to do now. Nodes that were silent for too long are told to `nodes`.
    pub(crate) fn next(&mut self, nodes: &mut Nodes, now_ms: u64, random: f64) -> Step {
        self.note_silence(nodes, now_ms, random);
        if now_ms >= self.deadline_ms {
            return Step::GiveUp(GiveUp::Deadline);
        }
        if let Some(until_ms) = self.flights.iter().filter(|f| !f.late).map(|f| f.patient_until_ms).min() {
            return Step::Wait(until_ms.min(self.deadline_ms));
        }
        if self.made >= self.rules.attempts_max {
            return self.wait_or(GiveUp::Exhausted);
        }
        if now_ms < self.paused_until_ms {
            return self.pause_until(self.paused_until_ms);
        }
        match self.candidate(nodes, now_ms, random) {
            Some((address, 0)) => self.ask(nodes, address, now_ms),
            Some((_, wait_ms)) => self.pause_until(now_ms.saturating_add(wait_ms)),
            None if self.paused_until_ms > now_ms => self.pause_until(self.paused_until_ms),
            None => self.wait_or(GiveUp::Exhausted),
        }
    }

    /// A question failed. `Some`: the request has failed with it.
    pub(crate) fn failed(
        &mut self,
        address: &Address,
        failure: &Failure,
        nodes: &mut Nodes,
        now_ms: u64,
        random: f64,
    ) -> Option<ErrorReply> {
        let flight = self.flights.extract_if(.., |flight| flight.address == *address).next();
        match failure {
            Failure::Refused(reply) => match reply.code.retry() {
                Retry::Never => return Some(reply.clone()),
                Retry::Elsewhere => {
                    nodes.failed(address, now_ms, random);
                }
                Retry::Later => {
                    let pause_ms = reply.retry_after_ms.map_or(self.rules.backoff_base_ms, u64::from);
                    let until_ms = now_ms.saturating_add(pause_ms);
                    nodes.held(address, until_ms);
                    self.tried.retain(|tried| tried != address);
                    self.paused_until_ms = self.paused_until_ms.max(until_ms);
                }
            },
            Failure::Ended if !self.redialled => {
                self.redialled = true;
                self.made -= 1;
                self.tried.retain(|tried| tried != address);
            }
            Failure::Ended | Failure::Unreachable => {
                nodes.failed(address, now_ms, random);
            }
            // At the deadline, this may be heard before the silence is noted.
            Failure::Silent => {
                if let Some(flight) = flight.filter(|flight| !flight.late) {
                    self.blame_silence(&flight, nodes, now_ms, random);
                }
            }
        }
        None
    }

    /// Takes the nodes that were silent for too long since the last call, each with when it was asked.
    pub(crate) fn take_silent(&mut self) -> Vec<(Address, u64)> {
        std::mem::take(&mut self.silent)
    }

    /// How many questions were asked.
    pub(crate) fn made(&self) -> u32 {
        self.made
    }

    fn note_silence(&mut self, nodes: &mut Nodes, now_ms: u64, random: f64) {
        let mut flights = std::mem::take(&mut self.flights);
        for flight in flights.iter_mut().filter(|f| !f.late && now_ms >= f.patient_until_ms) {
            flight.late = true;
            self.blame_silence(flight, nodes, now_ms, random);
        }
        self.flights = flights;
    }

    /// Counts silence against the node, unless it was too short to mean anything.
    fn blame_silence(&mut self, flight: &Flight, nodes: &mut Nodes, now_ms: u64, random: f64) {
        if now_ms.saturating_sub(flight.asked_at_ms) >= self.rules.silence_min_ms {
            nodes.failed(&flight.address, now_ms, random);
            self.silent.push((flight.address.clone(), flight.asked_at_ms));
        }
    }

    /// The node to ask, and its wait. When all have been tried, those that failed may be asked again after a pause.
    fn candidate(&mut self, nodes: &Nodes, now_ms: u64, random: f64) -> Option<(Address, u64)> {
        if let Some(found) = nodes.choose(now_ms, &self.tried) {
            return Some(found);
        }
        let asked: Vec<Address> = self.flights.iter().map(|flight| flight.address.clone()).collect();
        if self.tried.len() > asked.len() {
            self.tried = asked;
            let base_ms = self.rules.backoff_base_ms;
            self.paused_until_ms = now_ms + backoff_ms(self.made, base_ms, base_ms * 8, random).max(1);
        }
        None
    }

    fn ask(&mut self, nodes: &Nodes, address: Address, now_ms: u64) -> Step {
        self.made += 1;
        self.tried.push(address.clone());
        let others = nodes.choose(now_ms, &self.tried).is_some_and(|(_, wait_ms)| wait_ms == 0);
        let left_ms = self.deadline_ms - now_ms;
        let share_ms = match others && self.made < self.rules.attempts_max {
            true => {
                let far_ms = nodes.rtt_ms(&address).saturating_mul(4);
                let share_ms = left_ms.div_ceil(4).max(far_ms).min(left_ms.div_ceil(2));
                share_ms.min(self.rules.silence_max_ms)
            }
            false => left_ms,
        };
        self.flights.push(Flight {
            address: address.clone(),
            asked_at_ms: now_ms,
            patient_until_ms: now_ms + share_ms,
            late: false,
        });
        Step::Ask(address)
    }

    fn pause_until(&self, until_ms: u64) -> Step {
        if until_ms < self.deadline_ms { Step::Wait(until_ms) } else { self.wait_or(GiveUp::Deadline) }
    }

    /// What is in flight may still answer until the deadline; with nothing in flight there is no point in waiting.
    fn wait_or(&self, reason: GiveUp) -> Step {
        if self.flights.is_empty() { Step::GiveUp(reason) } else { Step::Wait(self.deadline_ms) }
    }
}

#[cfg(test)]
mod tests {
    use proto::Code;

    use super::super::NodeRules;
    use super::*;

    struct Play {
        nodes: Nodes,
        attempts: Attempts,
    }

    impl Play {
        fn new(names: &[&str], deadline_ms: u64) -> Self {
            let rules = NodeRules { nodes_max: 8, backoff_base_ms: 100, backoff_max_ms: 2_000, near_us: 500 };
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut nodes = Nodes::new(rules, &names);
            for (at, name) in names.iter().enumerate() {
                nodes.measured(name, 10_000 * (at as u64 + 1));
            }
            nodes.settle(0, 0.0);
            let rules = AttemptsRules {
                attempts_max: 3,
                silence_max_ms: 1_000,
                silence_min_ms: 20,
                backoff_base_ms: 20,
            };
            Self { nodes, attempts: Attempts::new(rules, deadline_ms) }
        }

        fn next(&mut self, now_ms: u64) -> Step {
            self.attempts.next(&mut self.nodes, now_ms, 1.0)
        }

        /// Waits as told until something else is to be done, and when that is.
        fn wait(&mut self, mut now_ms: u64) -> (Step, u64) {
            loop {
                match self.next(now_ms) {
                    Step::Wait(until_ms) => now_ms = until_ms,
                    step => return (step, now_ms),
                }
            }
        }

        fn failed(&mut self, name: &str, failure: Failure, now_ms: u64) -> Option<ErrorReply> {
            self.attempts.failed(&Address::from(name), &failure, &mut self.nodes, now_ms, 1.0)
        }
    }

    fn ask(name: &str) -> Step {
        Step::Ask(Address::from(name))
    }

    fn refused(code: Code) -> Failure {
        Failure::Refused(ErrorReply::new(code, "test"))
    }

    #[test]
    fn silence_asks_the_next_node_beside_it_after_its_share_of_what_is_left() {
        let mut play = Play::new(&["a", "b", "c"], 200);
        assert_eq!(play.next(0), ask("a"));
        assert_eq!(play.next(0), Step::Wait(50));
        assert_eq!(play.next(50), ask("b"));
        // 20 ms away: four round trips would be 80 ms, but half of what is left is 75.
        assert_eq!(play.next(50), Step::Wait(125));
        assert_eq!(play.next(125), ask("c"));
        assert_eq!(play.next(125), Step::Wait(200));
        assert_eq!(play.next(200), Step::GiveUp(GiveUp::Deadline));
        // All were silent for long enough to be left alone; the first to be ready again is the first that was silent.
        assert_eq!(play.nodes.choose(200, &[]).unwrap(), (Address::from("a"), 0));
        let silent: Vec<_> =
            play.attempts.take_silent().into_iter().map(|(a, at)| (a.to_string(), at)).collect();
        assert_eq!(silent, [("a".to_owned(), 0), ("b".to_owned(), 50), ("c".to_owned(), 125)]);
    }

    #[test]
    fn a_long_deadline_does_not_mean_a_long_wait_for_a_silent_node() {
        let mut play = Play::new(&["a", "b", "c"], 60_000);
        assert_eq!(play.wait(0), (ask("a"), 0));
        assert_eq!(play.wait(0), (ask("b"), 1_000));
        assert_eq!(play.wait(1_000), (ask("c"), 2_000));
        assert_eq!(play.next(2_000), Step::Wait(60_000));
    }

    #[test]
    fn elsewhere_and_broken_connections_move_on_at_once() {
        let mut play = Play::new(&["a", "b", "c"], 200);
        assert_eq!(play.next(0), ask("a"));
        assert_eq!(play.failed("a", refused(Code::NotReady), 3), None);
        assert_eq!(play.next(3), ask("b"));
        assert_eq!(play.failed("b", Failure::Unreachable, 5), None);
        assert_eq!(play.next(5), ask("c"));
        assert_eq!(play.failed("c", refused(Code::Unavailable), 9), None);
        assert_eq!(play.next(9), Step::GiveUp(GiveUp::Exhausted));
        assert_eq!(play.attempts.made(), 3);
    }

    #[test]
    fn a_final_refusal_returns() {
        let mut play = Play::new(&["a", "b"], 200);
        assert_eq!(play.next(0), ask("a"));
        let reply = play.failed("a", refused(Code::Invalid), 1).expect("it is final");
        assert_eq!(reply.code, Code::Invalid);
    }

    #[test]
    fn a_node_that_sheds_load_is_obeyed() {
        let mut play = Play::new(&["a"], 500);
        assert_eq!(play.next(0), ask("a"));
        let shed = |ms| Failure::Refused(ErrorReply::new(Code::Overloaded, "busy").retry_after_ms(ms));
        assert_eq!(play.failed("a", shed(120), 10), None);
        assert_eq!(play.next(10), Step::Wait(130));
        assert_eq!(play.next(130), ask("a"));
        // A pause that does not fit into the deadline is not waited for.
        assert_eq!(play.failed("a", shed(10_000), 140), None);
        assert_eq!(play.next(140), Step::GiveUp(GiveUp::Deadline));
    }

    #[test]
    fn an_ended_connection_is_dialled_again_once_and_does_not_count() {
        let mut play = Play::new(&["a", "b"], 200);
        assert_eq!(play.next(0), ask("a"));
        assert_eq!(play.failed("a", Failure::Ended, 1), None);
        assert_eq!(play.next(1), ask("a"));
        assert_eq!(play.attempts.made(), 1);
        assert_eq!(play.failed("a", Failure::Ended, 2), None);
        assert_eq!(play.next(2), ask("b"));
    }

    #[test]
    fn a_single_node_has_all_the_time_and_is_asked_again_after_a_pause() {
        let mut play = Play::new(&["a"], 1_000);
        assert_eq!(play.next(0), ask("a"));
        assert_eq!(play.next(1), Step::Wait(1_000));
        assert_eq!(play.failed("a", refused(Code::NotReady), 10), None);
        assert_eq!(play.wait(10), (ask("a"), 110));
        assert_eq!(play.failed("a", Failure::Unreachable, 120), None);
        assert_eq!(play.wait(120), (ask("a"), 320), "the second pause is twice as long");
        assert_eq!(play.failed("a", Failure::Unreachable, 330), None);
        assert_eq!(play.next(330), Step::GiveUp(GiveUp::Exhausted));
    }

    #[test]
    fn a_silent_node_is_not_asked_twice_while_it_is_in_flight() {
        let mut play = Play::new(&["a", "b"], 1_000);
        assert_eq!(play.next(0), ask("a"));
        assert_eq!(play.next(500), ask("b"));
        assert_eq!(play.failed("b", Failure::Unreachable, 510), None);
        // Only b may be asked again, after its pause; a is still being waited for.
        let (step, now_ms) = play.wait(510);
        assert_eq!(step, ask("b"));
        assert!((520..1_000).contains(&now_ms), "{now_ms}");
    }

    #[test]
    fn a_deadline_too_short_for_any_answer_blames_nobody() {
        let mut play = Play::new(&["a", "b"], 10);
        assert_eq!(play.next(0), ask("a"));
        assert_eq!(play.next(5), ask("b"));
        assert_eq!(play.next(10), Step::GiveUp(GiveUp::Deadline));
        assert_eq!(play.nodes.choose(10, &[]).unwrap().0, Address::from("a"));
    }

    #[test]
    fn a_question_whose_time_is_over_counts_as_silence_once() {
        let mut play = Play::new(&["a"], 100);
        assert_eq!(play.next(0), ask("a"));
        assert_eq!(play.failed("a", Failure::Silent, 100), None);
        assert_eq!(play.attempts.take_silent(), [(Address::from("a"), 0)]);
        assert_eq!(play.nodes.choose(100, &[]), Some((Address::from("a"), 100)));
        // Noted as late before its time was over: blamed then, and not again.
        let mut play = Play::new(&["a", "b"], 100);
        assert_eq!(play.next(0), ask("a"));
        assert_eq!(play.next(50), ask("b"));
        assert_eq!(play.failed("a", Failure::Silent, 100), None);
        assert_eq!(play.attempts.take_silent(), [(Address::from("a"), 0)]);
        // Too short to mean anything.
        let mut play = Play::new(&["a"], 10);
        assert_eq!(play.next(0), ask("a"));
        assert_eq!(play.failed("a", Failure::Silent, 10), None);
        assert!(play.attempts.take_silent().is_empty());
        assert_eq!(play.nodes.choose(10, &[]), Some((Address::from("a"), 0)));
    }

    /// Whatever happens, a request ends by its deadline, asks at most `attempts_max` + 1 redial, and every wait
    /// lies ahead.
    #[test]
    fn any_course_of_events_ends_in_time() {
        let kinds = [Code::NotReady, Code::Overloaded, Code::Internal];
        for seed in 0_u64..2_000 {
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut roll = move |n: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % n
            };
            let names = &["a", "b", "c"][..1 + roll(3) as usize];
            let mut play = Play::new(names, 1 + roll(400));
            let (mut now_ms, mut flying, mut steps) = (0, Vec::new(), 0);
            loop {
                steps += 1;
                assert!(steps < 200, "seed {seed}: no end");
                match play.next(now_ms) {
                    Step::Ask(address) => {
                        assert!(!flying.contains(&address), "seed {seed}: {address} asked twice at once");
                        flying.push(address);
                    }
                    Step::GiveUp(_) => break,
                    Step::Wait(until_ms) => {
                        assert!(until_ms > now_ms, "seed {seed}: a wait of no time at {now_ms}");
                        assert!(until_ms <= play.attempts.deadline_ms, "seed {seed}");
                        if flying.is_empty() || roll(2) == 0 {
                            now_ms = until_ms;
                            continue;
                        }
                        now_ms += roll(until_ms - now_ms);
                        let address = flying.swap_remove(roll(flying.len() as u64) as usize);
                        let failure = match roll(5) {
                            0 => Failure::Ended,
                            1 => Failure::Unreachable,
                            n => refused(kinds[n as usize - 2]),
                        };
                        play.failed(&address, failure, now_ms);
                    }
                }
            }
            assert!(play.attempts.made() <= 3, "seed {seed}");
        }
    }
}
