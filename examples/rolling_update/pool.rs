//! Connections kept between requests.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Mutex as AsyncMutex;

use crate::wire::{Http1, Http2};

/// Idle HTTP/1.1 connections, the one that idled longest first.
///
/// First in, first out and a fixed size make every connection idle for about size / rate between two requests, which
/// is what clients with more connections than they need at the moment do, and what makes a server's close collide
/// with a new request.
pub struct KeepAlive {
    idle: Mutex<VecDeque<Member>>,
    /// Connections of the pool, idle and busy.
    members: Arc<AtomicUsize>,
    size: usize,
}

impl KeepAlive {
    pub fn new(size: usize) -> Self {
        Self {
            idle: Mutex::default(),
            members: Arc::default(),
            size,
        }
    }

    /// The oldest idle connection that is still open. None also while the pool is smaller than it should be: the
    /// connection dialled then makes up for one that was closed.
    pub fn take(&self) -> Option<Member> {
        let mut idle = self.idle();
        while self.members.load(Ordering::SeqCst) >= self.size {
            let member = idle.pop_front()?;
            if member.connection.is_open() {
                return Some(member);
            }
        }
        None
    }

    /// Gives a connection back after its answer was read.
    pub async fn put(&self, mut member: Member) {
        // The last body byte is read a moment before the connection can take the next request.
        if member.connection.sender.ready().await.is_ok() {
            self.idle().push_back(member);
        }
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Member>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that counts as one of the pool's for as long as it lives.
pub struct Member {
    pub connection: Http1,
    members: Arc<AtomicUsize>,
}

impl Member {
    pub fn new(pool: &KeepAlive, connection: Http1) -> Self {
        pool.members.fetch_add(1, Ordering::SeqCst);
        Self {
            connection,
            members: Arc::clone(&pool.members),
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.members.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A few long-lived HTTP/2 connections, used in turn.
pub struct Http2Pool {
    slots: Vec<Http2Slot>,
    turn: AtomicUsize,
}

impl Http2Pool {
    pub fn new(size: usize) -> Self {
        Self {
            slots: (0..size).map(|_| Http2Slot::default()).collect(),
            turn: AtomicUsize::new(0),
        }
    }

    pub fn next_slot(&self) -> &Http2Slot {
        let turn = self.turn.fetch_add(1, Ordering::SeqCst);
        &self.slots[turn % self.slots.len()]
    }
}

/// The place of one HTTP/2 connection. Requests that find it empty wait for one dial.
#[derive(Default)]
pub struct Http2Slot(AsyncMutex<Option<Http2>>);

impl Http2Slot {
    /// The connection of this place, and whether it was dialled just now. An old one stays open until the answers
    /// on it were read, but takes no more requests.
    ///
    /// # Errors
    ///
    /// As [`Http2::dial`].
    pub async fn open(&self, gateway: SocketAddr) -> Result<(Http2, bool), Option<SocketAddr>> {
        let mut place = self.0.lock().await;
        if let Some(connection) = place.as_ref().filter(|it| !it.sender.is_closed()) {
            return Ok((connection.clone(), false));
        }
        let connection = Http2::dial(gateway).await?;
        *place = Some(connection.clone());
        Ok((connection, true))
    }
}
