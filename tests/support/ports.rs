//! Ports for servers that are told where to listen.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::Mutex;

/// A port of 127.0.0.1 that is free, was given to nobody else in this process, and lies below those that the kernel gives
/// to clients (32768 and up, by its default): it is still free when the server starts.
pub fn free_port() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().expect("no panic inside");
    loop {
        let address = SocketAddr::from(([127, 0, 0, 1], fastrand::u16(10_000..32_000)));
        if TcpListener::bind(address).is_ok() && given.insert(address.port()) {
            return address;
        }
    }
}
