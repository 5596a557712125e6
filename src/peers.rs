//! [`Peers`]: the connections of stock servers by their two addresses, so that a layer finds the one its request came by.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use crate::sync::lock;

/// The server's address and the client's: no two open connections share both.
pub(crate) type Pair = (SocketAddr, SocketAddr);

/// A connection of a stock server, which does not know what its requests are.
// Only one kind of stock server says which connection a request came by.
#[cfg_attr(not(feature = "tonic"), allow(dead_code))]
pub(crate) trait Peer: Send + Sync {
    /// A request came by it, and whether that is exempt.
    fn request_began(self: Arc<Self>, exempt: bool);

    /// A request that came by it turned out to be exempt.
    fn request_became_exempt(self: Arc<Self>);

    /// The body of its answer ended, or was dropped.
    fn request_ended(self: Arc<Self>, exempt: bool);

    /// Cuts it, if all it does is exempt.
    fn cut_exempt(self: Arc<Self>);
}

/// All of them.
#[derive(Default)]
pub(crate) struct Peers(Mutex<HashMap<Pair, Arc<dyn Peer>>>);

#[cfg_attr(not(feature = "tonic"), allow(dead_code))]
impl Peers {
    pub(crate) fn enter(&self, pair: Pair, peer: Arc<dyn Peer>) {
        lock(&self.0).insert(pair, peer);
    }

    pub(crate) fn leave(&self, pair: &Pair) {
        let left = lock(&self.0).remove(pair);
        drop(left);
    }

    pub(crate) fn find(&self, pair: &Pair) -> Option<Arc<dyn Peer>> {
        lock(&self.0).get(pair).cloned()
    }

    /// Cuts every connection on which all that goes on is exempt.
    pub(crate) fn cut_exempt(&self) {
        // A copy: cutting may make a connection leave.
        let all: Vec<_> = lock(&self.0).values().cloned().collect();
        for peer in all {
            peer.cut_exempt();
        }
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers")
            .field("len", &lock(&self.0).len())
            .finish_non_exhaustive()
    }
}
