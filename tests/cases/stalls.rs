//! Whether the machine stood still. The cases keep real clocks: a client that goes on "past the linger" is early when the
//! server's thread got no processor for as long, and nothing is proved by that.

// Real time is what it measures.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

/// What a case can bear: the grain of its clocks.
const BEARABLE: Duration = Duration::from_millis(50);
const TICK: Duration = Duration::from_millis(10);

/// When each stall ended, and its length.
static STALLS: Mutex<Vec<(Instant, Duration)>> = Mutex::new(Vec::new());

/// A thread that only sleeps, and notes when it slept too long.
fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::thread::spawn(|| {
            loop {
                let before = Instant::now();
                std::thread::sleep(TICK);
                let stalled = before.elapsed().saturating_sub(TICK);
                if stalled > BEARABLE {
                    STALLS.lock().unwrap().push((Instant::now(), stalled));
                }
            }
        });
    });
}

/// Since when somebody asks.
pub struct Since(Instant);

impl Since {
    pub fn now() -> Self {
        watch();
        Self(Instant::now())
    }

    /// The longest stall since then.
    pub fn longest(&self) -> Option<Duration> {
        // A stall that goes on is noted when it is over.
        std::thread::sleep(2 * TICK);
        let stalls = STALLS.lock().unwrap();
        let since = stalls.iter().filter(|(ended, _)| *ended >= self.0);
        since.map(|(_, length)| *length).max()
    }
}
