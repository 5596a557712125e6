//! [`Held`]: what keeps stock servers from being told to drain.

use std::sync::Arc;

use crate::handle::ShutdownHandle;
use crate::state::{Holdback, State};

/// One count in the state's holdback, for as long as it lives.
#[derive(Debug)]
pub(super) struct Held {
    state: Arc<State>,
    count: fn(&mut Holdback) -> &mut usize,
}

impl Held {
    pub(super) fn new(handle: &ShutdownHandle, count: fn(&mut Holdback) -> &mut usize) -> Self {
        let state = handle.state().clone();
        state.holdback.send_modify(|held| *count(held) += 1);
        Self { state, count }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.state
            .holdback
            .send_modify(|held| *(self.count)(held) -= 1);
    }
}
