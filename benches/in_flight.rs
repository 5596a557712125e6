//! What counting a piece of work in and out costs, beside the least it could cost (one atomic increment and
//! decrement on a line of its own) and beside `tokio_util`'s `TaskTracker::token`; alone and with two threads.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use prestop::ShutdownCoordinator;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// Times `work` while another thread does the same.
fn contended<W: Fn() + Sync>(rounds: u64, work: &W) -> Duration {
    let (ready, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            ready.store(true, Ordering::Release);
            while !stop.load(Ordering::Relaxed) {
                work();
            }
        });
        while !ready.load(Ordering::Acquire) {
            std::hint::spin_loop();
        }
        let begun = Instant::now();
        for _ in 0..rounds {
            work();
        }
        let took = begun.elapsed();
        stop.store(true, Ordering::Relaxed);
        took
    })
}

fn in_flight(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _in = runtime.enter();
    let coordinator = ShutdownCoordinator::builder_without_signals()
        .build()
        .expect("the defaults fit");
    let handle = coordinator.handle();
    let tracker = TaskTracker::new();
    let counter = AtomicUsize::new(0);

    let atomic = || {
        counter.fetch_add(1, Ordering::AcqRel);
        counter.fetch_sub(1, Ordering::AcqRel);
    };
    let count = || drop(black_box(handle.count().expect("open")));
    let guard = || drop(black_box(handle.guard("bench").expect("open")));
    let token = || drop(black_box(tracker.token()));

    let mut alone = c.benchmark_group("alone");
    alone.bench_function("atomic pair", |b| b.iter(atomic));
    alone.bench_function("count", |b| b.iter(count));
    alone.bench_function("guard with a name", |b| b.iter(guard));
    alone.bench_function("TaskTracker::token", |b| b.iter(token));
    alone.finish();

    let mut two = c.benchmark_group("two threads");
    two.bench_function("atomic pair, shared", |b| {
        b.iter_custom(|n| contended(n, &atomic));
    });
    two.bench_function("count", |b| b.iter_custom(|n| contended(n, &count)));
    two.bench_function("guard with a name", |b| {
        b.iter_custom(|n| contended(n, &guard));
    });
    two.bench_function("TaskTracker::token", |b| {
        b.iter_custom(|n| contended(n, &token));
    });
    two.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(300));
    targets = in_flight
}
criterion_main!(benches);
