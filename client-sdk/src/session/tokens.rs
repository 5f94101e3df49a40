//! Session tokens: what each visitor's next answer must have seen.
//!
//! A bounded map in two generations. When the younger is full, the older one folds into one floor a PoP, which then
//! speaks for every visitor who is not in the map: it asks for a little more than that visitor needs, never for
//! less, so forgetting a visitor cannot break read-your-writes.

use std::collections::HashMap;

use proto::{PopId, SessionToken, VisitorId};

/// PoPs that one client keeps floors and, for one visitor, tokens of. A client that moves through more keeps the
/// newest.
const POPS_MAX: usize = 4;

/// Tokens of one visitor, or the floors: at most [`POPS_MAX`], at most one a PoP.
type ByPop = Vec<SessionToken>;

/// The newest token of each visitor and PoP.
#[derive(Debug)]
pub(crate) struct Tokens {
    generation_len_max: usize,
    young: HashMap<VisitorId, ByPop>,
    old: HashMap<VisitorId, ByPop>,
    floors: ByPop,
}

impl Tokens {
    /// Keeps the tokens of at most `visitors_max` visitors apart.
    pub(crate) fn new(visitors_max: usize) -> Self {
        let generation_len_max = visitors_max.div_ceil(2).max(1);
        Self { generation_len_max, young: HashMap::new(), old: HashMap::new(), floors: Vec::new() }
    }

    /// The PoP acknowledged a write of this visitor.
    pub(crate) fn record(&mut self, visitor: &VisitorId, token: &SessionToken) {
        let mut tokens = match self.young.remove(visitor) {
            Some(tokens) => tokens,
            None => self.old.remove(visitor).unwrap_or_default(),
        };
        raise(&mut tokens, token);
        if self.young.len() >= self.generation_len_max {
            let full = std::mem::take(&mut self.young);
            for token in std::mem::replace(&mut self.old, full).into_values().flatten() {
                raise(&mut self.floors, &token);
            }
        }
        self.young.insert(visitor.clone(), tokens);
    }

    /// What a request of this visitor to this PoP must bring.
    pub(crate) fn token(&self, visitor: &VisitorId, pop: &PopId) -> Option<SessionToken> {
        let own = self.young.get(visitor).or_else(|| self.old.get(visitor));
        own.and_then(|tokens| of(tokens, pop)).or_else(|| of(&self.floors, pop)).cloned()
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

fn of<'a>(tokens: &'a [SessionToken], pop: &PopId) -> Option<&'a SessionToken> {
    tokens.iter().find(|token| token.pop == *pop)
}

/// Puts the token in, if it is newer than the one of its PoP. The most recently raised PoP stands last.
fn raise(tokens: &mut ByPop, token: &SessionToken) {
    let mut newest = token.clone();
    if let Some(at) = tokens.iter().position(|known| known.pop == token.pop) {
        newest.index = newest.index.max(tokens.remove(at).index);
    } else if tokens.len() == POPS_MAX {
        tokens.remove(0);
    }
    tokens.push(newest);
}

#[cfg(test)]
mod tests {
    use proto::UserId;

    use super::*;

    fn visitor(n: usize) -> VisitorId {
        VisitorId::User(UserId::new(format!("user-{n}")).unwrap())
    }

    fn pop(name: &str) -> PopId {
        PopId::new(name).unwrap()
    }

    fn token(name: &str, index: u64) -> SessionToken {
        SessionToken { pop: pop(name), index }
    }

    #[test]
    fn a_token_only_rises_and_belongs_to_one_visitor_and_one_pop() {
        let mut tokens = Tokens::new(8);
        tokens.record(&visitor(1), &token("a", 7));
        tokens.record(&visitor(1), &token("a", 5));
        tokens.record(&visitor(1), &token("b", 2));
        assert_eq!(tokens.token(&visitor(1), &pop("a")), Some(token("a", 7)));
        assert_eq!(tokens.token(&visitor(1), &pop("b")), Some(token("b", 2)));
        assert_eq!(tokens.token(&visitor(2), &pop("a")), None);
    }

    #[test]
    fn a_forgotten_visitor_is_covered_by_the_floor_and_the_map_stays_bounded() {
        let mut tokens = Tokens::new(10);
        for n in 0..1_000 {
            tokens.record(&visitor(n), &token("a", n as u64 + 1));
            assert!(tokens.len() <= 10);
        }
        for n in 0..1_000 {
            let found = tokens.token(&visitor(n), &pop("a")).expect("never none: the visitor has written");
            assert!(found.index > n as u64, "visitor {n} must see its write, got {}", found.index);
        }
    }

    #[test]
    fn the_pops_of_a_visitor_are_bounded_and_the_newest_stay() {
        let mut tokens = Tokens::new(8);
        for n in 0..10 {
            tokens.record(&visitor(1), &token(&format!("pop-{n}"), 1));
        }
        assert_eq!(tokens.token(&visitor(1), &pop("pop-0")), None);
        assert_eq!(tokens.token(&visitor(1), &pop("pop-9")), Some(token("pop-9", 1)));
        assert_eq!(tokens.young[&visitor(1)].len(), POPS_MAX);
    }
}
