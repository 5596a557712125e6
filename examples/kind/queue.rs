//! A worker: takes messages from a queue until the stop begins, and finishes what it has.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prestop::{Phase, ShutdownHandle};
use tokio::time::sleep;

use crate::{Done, say};

/// In place of Kafka, SQS or the like: there is always a next message, and what is not taken stays for other replicas.
struct Queue {
    last: u64,
}

impl Queue {
    /// Cancel safe: a message is taken at the very end.
    async fn next(&mut self) -> u64 {
        sleep(Duration::from_millis(200)).await;
        self.last += 1;
        self.last
    }
}

pub(crate) async fn consume(h: ShutdownHandle, done: Arc<Done>) {
    let mut queue = Queue { last: 0 };
    // Nothing is taken before the service has started, nothing once it begins to stop.
    h.wait_for(Phase::Ready).await;
    let stop = h.token(Phase::PreStop);
    while let Some(message) = stop.run_until_cancelled(queue.next()).await {
        say(format_args!("consumer: took {message}"));
        sleep(Duration::from_millis(500)).await; // the work
        done.messages.fetch_add(1, Ordering::Relaxed);
        say(format_args!("consumer: finished {message}"));
    }
    say("consumer: takes no more");
}
