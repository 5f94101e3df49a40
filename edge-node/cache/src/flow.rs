//! A body on its way from the origin, read by many. It is kept whole while it is small enough to be stored; what grows beyond that is
//! only passed through, no faster than the slowest of its readers takes it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// The other end was lost before the body's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

/// One body.
#[derive(Debug)]
pub struct Flow {
    kept_max: usize,
    state: Mutex<State>,
    /// Something came, or the end.
    came: Notify,
    /// Something was taken, or a reader left.
    taken: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// What is still held; the first of it is piece number `dropped`.
    pieces: VecDeque<Bytes>,
    dropped: usize,
    held: usize,
    /// It grew too large to be kept.
    passing: bool,
    /// Which piece each reader takes next.
    readers: BTreeMap<u64, usize>,
    readers_total: u64,
    end: Option<Result<(), Broken>>,
}

impl Flow {
    /// Nothing of it has come yet. At most `kept_max` bytes are held.
    pub fn new(kept_max: usize) -> Arc<Self> {
        Arc::new(Self { kept_max, state: Mutex::default(), came: Notify::new(), taken: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a piece: at once while all is kept, and else once the readers have taken enough. False: nobody wants it any more.
    pub async fn push(&self, piece: Bytes) -> bool {
        loop {
            let taken = self.taken.notified();
            {
                let mut state = self.state();
                state.passing |= state.held + piece.len() > self.kept_max;
                if state.passing {
                    state.drop_taken();
                    if state.readers.is_empty() {
                        return false;
                    }
                }
                // A piece larger than all that may be held goes alone.
                if !state.passing || state.pieces.is_empty() || state.held + piece.len() <= self.kept_max {
                    state.held += piece.len();
                    state.pieces.push_back(piece);
                    break;
                }
            }
            taken.await;
        }
        self.came.notify_waiters();
        true
    }

    /// Nothing comes any more.
    pub fn end(&self, end: Result<(), Broken>) {
        self.state().end.get_or_insert(end);
        self.came.notify_waiters();
    }

    /// The whole body, where it has ended well and was kept.
    pub fn whole(&self) -> Option<Vec<Bytes>> {
        let state = self.state();
        (state.end == Some(Ok(())) && !state.passing).then(|| state.pieces.iter().cloned().collect())
    }

    /// Reads from the beginning. `None`: the beginning is gone.
    pub fn read(self: &Arc<Self>) -> Option<Reader> {
        let mut state = self.state();
        if state.passing {
            return None;
        }
        let number = state.readers_total;
        state.readers_total += 1;
        state.readers.insert(number, 0);
        drop(state);
        Some(Reader { flow: Arc::clone(self), number })
    }
}

impl State {
    fn drop_taken(&mut self) {
        let next = self.readers.values().copied().min().unwrap_or(self.dropped + self.pieces.len());
        while self.dropped < next {
            let Some(piece) = self.pieces.pop_front() else { return };
            self.held -= piece.len();
            self.dropped += 1;
        }
    }
}

/// Takes a body piece by piece.
#[derive(Debug)]
pub struct Reader {
    flow: Arc<Flow>,
    number: u64,
}

impl Reader {
    /// The next piece; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// Where the body broke off.
    pub async fn next(&mut self) -> Option<Result<Bytes, Broken>> {
        loop {
            let came = self.flow.came.notified();
            if let Some(piece) = self.take() {
                self.flow.taken.notify_waiters();
                return piece.transpose();
            }
            came.await;
        }
    }

    /// `Some(Ok(None))`: the end. `None`: not yet.
    fn take(&self) -> Option<Result<Option<Bytes>, Broken>> {
        let mut state = self.flow.state();
        let at = *state.readers.get(&self.number)?;
        match state.pieces.get(at - state.dropped).cloned() {
            Some(piece) => {
                state.readers.insert(self.number, at + 1);
                Some(Ok(Some(piece)))
            }
            None => state.end.map(|end| end.map(|()| None)),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.flow.state().readers.remove(&self.number);
        self.flow.taken.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(byte: u8, len: usize) -> Bytes {
        vec![byte; len].into()
    }

    async fn rest(mut reader: Reader) -> Result<Vec<u8>, Broken> {
        let mut all = Vec::new();
        while let Some(piece) = reader.next().await {
            all.extend_from_slice(&piece?);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn each_reader_gets_all_whenever_it_comes() {
        let flow = Flow::new(100);
        let early = tokio::spawn(rest(flow.read().unwrap()));
        assert!(flow.push(piece(1, 10)).await);
        let late = tokio::spawn(rest(flow.read().unwrap()));
        assert!(flow.push(piece(2, 10)).await);
        assert!(flow.whole().is_none());
        flow.end(Ok(()));
        let after = rest(flow.read().unwrap()).await.unwrap();
        assert_eq!((after.len(), flow.whole().unwrap().len()), (20, 2));
        assert_eq!((early.await.unwrap().unwrap(), late.await.unwrap().unwrap()), (after.clone(), after));
    }

    #[tokio::test]
    async fn what_comes_goes_on_without_a_reader() {
        let flow = Flow::new(100);
        drop(flow.read());
        assert!(flow.push(piece(1, 10)).await);
        flow.end(Ok(()));
        assert!(flow.whole().is_some());
    }

    #[tokio::test]
    async fn a_body_that_broke_off_says_so_and_is_not_whole() {
        let flow = Flow::new(100);
        assert!(flow.push(piece(1, 10)).await);
        flow.end(Err(Broken));
        flow.end(Ok(()));
        assert_eq!(rest(flow.read().unwrap()).await, Err(Broken));
        assert!(flow.whole().is_none());
    }

    #[tokio::test]
    async fn what_is_too_large_to_keep_comes_no_faster_than_it_is_taken() {
        let flow = Flow::new(100);
        let (mut slow, quick) = (flow.read().unwrap(), tokio::spawn(rest(flow.read().unwrap())));
        let pushing = {
            let flow = flow.clone();
            tokio::spawn(async move {
                for byte in 0..50 {
                    assert!(flow.push(piece(byte, 30)).await);
                    assert!(flow.state().held <= 100);
                }
                flow.end(Ok(()));
            })
        };
        let mut taken = 0;
        while let Some(piece) = slow.next().await {
            assert!(piece.unwrap().iter().all(|byte| *byte == taken));
            taken += 1;
            tokio::task::yield_now().await;
        }
        pushing.await.unwrap();
        assert_eq!((taken, quick.await.unwrap().unwrap().len()), (50, 1_500));
        assert!(flow.whole().is_none() && flow.read().is_none());
    }

    #[tokio::test]
    async fn what_is_only_passed_through_ends_with_its_last_reader() {
        let flow = Flow::new(10);
        let reader = flow.read().unwrap();
        assert!(flow.push(piece(0, 20)).await, "one piece goes alone");
        let pushing = tokio::spawn({
            let flow = flow.clone();
            async move { flow.push(piece(1, 20)).await }
        });
        tokio::task::yield_now().await;
        drop(reader);
        assert!(!pushing.await.unwrap());
    }
}
