//! [`RequestTicket`]: one request of a connection, until its answer was sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::connection::Connection;

/// Held by the response body of one request, and by its frames until they are sent.
pub(super) struct RequestTicket {
    pub(super) connection: Arc<Connection>,
    pub(super) key: usize,
    ended: AtomicBool,
    lost: AtomicBool,
}

impl RequestTicket {
    pub(super) const fn new(connection: Arc<Connection>, key: usize) -> Self {
        Self {
            connection,
            key,
            ended: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        }
    }

    /// The last frame of the answer was handed over.
    pub(super) fn ended(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// A part of the answer was dropped before it was sent.
    pub(super) fn lost(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }
}

impl Drop for RequestTicket {
    fn drop(&mut self) {
        // Cut, the request is a straggler, whatever its handler still made of that.
        let whole = *self.ended.get_mut() && !*self.lost.get_mut();
        let answered = whole && !self.connection.is_cut();
        self.connection.request_ended(self.key, answered);
    }
}
