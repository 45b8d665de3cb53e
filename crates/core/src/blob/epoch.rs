//! Reader epochs: what lets a started download finish without a write per download.
//!
//! A reader notes the current epoch *before* it takes its snapshot, and keeps the note until its
//! stream ends. The collector, when it first sees a condemned blob, ends the current epoch; the
//! blob's bytes may go once no note of that epoch or an earlier one is left. A reader whose
//! snapshot still had the blob noted an epoch no later than that (docs/transactions.md section 6).
//!
//! Not here: other gateways' readers; theirs is the oldest note in their heartbeat.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Keeps the content of inline blobs too, while a dump needs it: their records are removed with
/// their last reference, which does not harm a reader who keeps a snapshot; a dump cannot keep
/// one for so long. While there is a pin, such blobs are condemned instead, as all others are.
#[derive(Debug, Default)]
pub(crate) struct InlinePins {
    /// Held shared by every commit from its look at the pins to its end.
    commits: tokio::sync::RwLock<()>,
    pins: AtomicUsize,
}

/// Keeps inline content; dropped when its dump ends.
#[derive(Debug)]
pub(crate) struct InlinePin(Arc<InlinePins>);

impl InlinePins {
    /// Pins: no commit from the return of this on removes inline content. To be called before
    /// the snapshot is taken.
    pub(crate) async fn pin(self: &Arc<Self>) -> InlinePin {
        // Commits that have looked already end first: that is a moment.
        let _alone = self.commits.write().await;
        self.pins.fetch_add(1, Ordering::SeqCst);
        InlinePin(Arc::clone(self))
    }

    /// Whether there is a pin now.
    pub(crate) fn pinned(&self) -> bool {
        self.pins.load(Ordering::SeqCst) > 0
    }

    /// To be held from before [`InlinePins::pinned`] is asked to the end of the commit.
    pub(crate) async fn commit_window(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.commits.read().await
    }
}

impl Drop for InlinePin {
    fn drop(&mut self) {
        self.0.pins.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The epoch and the notes of this process.
#[derive(Debug, Default)]
pub(crate) struct Epochs(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    current: u64,
    notes: BTreeMap<u64, usize>,
}

/// A reader's note; dropped when its stream ends.
#[derive(Debug)]
pub(crate) struct Note {
    epochs: Arc<Epochs>,
    epoch: u64,
}

impl Epochs {
    /// Notes the current epoch. To be called before the snapshot is taken.
    pub(crate) fn note(self: &Arc<Self>) -> Note {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = state.current;
        *state.notes.entry(epoch).or_default() += 1;
        drop(state);
        Note { epochs: Arc::clone(self), epoch }
    }

    /// Ends the current epoch and answers it.
    pub(crate) fn advance(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = state.current;
        state.current += 1;
        ended
    }

    /// Whether every reader that noted `epoch` or an earlier one has ended.
    pub(crate) fn passed(&self, epoch: u64) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.notes.first_key_value().is_none_or(|(oldest, _)| *oldest > epoch)
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        let mut state = self.epochs.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = state.notes.get_mut(&self.epoch) {
            *count -= 1;
            if *count == 0 {
                state.notes.remove(&self.epoch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i_blob_2_an_epoch_has_passed_when_its_readers_have_ended() {
        let epochs = Arc::new(Epochs::default());
        let early = epochs.note();
        let ended = epochs.advance();
        let late = epochs.note();
        assert!(!epochs.passed(ended), "a reader from before may have seen the blob");
        drop(early);
        assert!(epochs.passed(ended), "the later reader cannot have");
        drop(late);
        assert!(epochs.passed(epochs.advance()));
    }
}
