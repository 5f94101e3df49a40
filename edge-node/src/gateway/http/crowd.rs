//! Connections that share the door's places. Where few are left, the one that uses its own least is ended, so that newcomers find one:
//! whoever takes all of them and does nothing keeps nobody out.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::activity::Activity;

/// Of so many, picked at random, the one is ended that was used the longest ago: nearly as good as knowing of all of them, and as quick
/// with ten thousand as with ten.
const PICKED: usize = 16;
/// What is being answered counts as unused only after this.
const STALLED: Duration = Duration::from_secs(2);

/// Places that are kept for newcomers, and the part of all of them that these are at most.
const FREE_LEAST: usize = 64;
const FREE_SHARE: usize = 8;

/// All connections of a door.
#[derive(Debug)]
pub(super) struct Crowd {
    members: Mutex<Vec<Arc<Member>>>,
    free_least: usize,
}

#[derive(Debug)]
struct Member {
    activity: Arc<Activity>,
    displaced: CancellationToken,
    /// Where it is among the others.
    at: AtomicUsize,
}

impl Crowd {
    /// A door with so many places.
    pub(super) fn of(places: usize) -> Self {
        Self { members: Mutex::default(), free_least: FREE_LEAST.min(places / FREE_SHARE) }
    }

    /// Before somebody joins who leaves so many places: where these are few, it ends a connection that is not used, and says so.
    pub(super) fn makes_room(&self, places_left: usize) -> bool {
        places_left < self.free_least && self.displaces()
    }

    /// One more.
    pub(super) fn join(self: &Arc<Self>) -> Joined {
        let (mut members, displaced) = (self.members(), CancellationToken::new());
        let at = AtomicUsize::new(members.len());
        let member = Arc::new(Member { activity: Activity::new(), displaced, at });
        members.push(Arc::clone(&member));
        Joined { crowd: Arc::clone(self), member }
    }

    fn displaces(&self) -> bool {
        let members = self.members();
        let picked = (0..PICKED.min(members.len())).map(|_| &members[fastrand::usize(..members.len())]);
        let unused = picked.filter(|member| !member.displaced.is_cancelled()).filter_map(|member| {
            member.activity.unused_for(STALLED).map(|unused_for| (unused_for, &member.displaced))
        });
        let least_used = unused.max_by_key(|(unused_for, _)| *unused_for);
        least_used.inspect(|(_, displaced)| displaced.cancel()).is_some()
    }

    fn members(&self) -> MutexGuard<'_, Vec<Arc<Member>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection among them, until this is dropped.
#[derive(Debug)]
pub(super) struct Joined {
    crowd: Arc<Crowd>,
    member: Arc<Member>,
}

impl Joined {
    /// What is asked on it.
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.member.activity
    }

    /// Waits until it has to make room.
    pub(super) async fn displaced(&self) {
        self.member.displaced.cancelled().await;
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        let mut members = self.crowd.members();
        let at = self.member.at.load(Ordering::Relaxed);
        members.swap_remove(at);
        if let Some(moved) = members.get(at) {
            moved.at.store(at, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_least_used_makes_room() {
        // Sixteen picks of three miss one of them once in six hundred times.
        fastrand::seed(1);
        let crowd = Arc::new(Crowd::of(80));
        assert!(!crowd.makes_room(10) && crowd.free_least == 10, "there is room");
        assert!(!crowd.displaces(), "nobody is there");
        let answering = crowd.join();
        let _busy = answering.activity().begin();
        assert!(!crowd.displaces(), "what is being answered is used");
        let silent = crowd.join();
        tokio::time::advance(STALLED / 2).await;
        let used = crowd.join();
        drop(used.activity().begin());
        // Whoever is picked at random: in the end it is the one that was used the longest ago, and each is ended once.
        for wanted in [&silent, &used] {
            while !crowd.displaces() {}
            wanted.displaced().await;
        }
        assert!(!crowd.displaces());
        tokio::time::advance(STALLED).await;
        while !crowd.displaces() {}
        answering.displaced().await;
        drop((silent, answering));
        assert_eq!(used.member.at.load(Ordering::Relaxed), 0);
        assert_eq!(crowd.members().len(), 1);
    }
}
