//! The report as people and machines read it.
#![cfg(all(feature = "serde", not(loom)))]

use std::time::Duration;

use prestop::registry::Instance;
use prestop::registry::memory::MemoryRegistry;
use prestop::{GracePeriod, HookName, Phase, Reason, ShutdownCoordinator, ShutdownReport};

/// A stop in which something of each kind went wrong.
async fn eventful() -> ShutdownReport {
    let instance = Instance::new("orders", ([10, 0, 0, 5], 8080).into()).with_id("orders-1");
    let c = ShutdownCoordinator::builder_without_signals()
        .grace_period(GracePeriod::from_secs(30).expect("seconds"))
        .registry(MemoryRegistry::new(), instance)
        .on_started("warm cache", |_| tokio::time::sleep(Duration::from_secs(2)))
        .pre_stop(
            HookName::new("pause").within(Duration::from_secs(1)),
            |_| std::future::pending::<()>(),
        )
        .on_stopped("flush", |_| async { Err::<(), _>("the collector is gone") })
        .build()
        .expect("it fits");
    let h = c.handle();
    h.spawn("stuck job", std::future::pending::<()>())
        .expect("open");
    let trigger = h.clone();
    tokio::spawn(async move {
        trigger.wait_for(Phase::Ready).await;
        // Registered by then: nothing else happens in a paused second.
        tokio::time::sleep(Duration::from_secs(1)).await;
        trigger.trigger(Reason::requested("a test"));
    });
    c.run(h.draining()).await.expect("it ran")
}

#[tokio::test(start_paused = true)]
async fn the_table_says_what_happened_on_one_screen() {
    let report = eventful().await;
    let text = report.to_string();
    let table: Vec<_> = text.lines().collect();
    assert_eq!(
        table[..table.len() - 1],
        [
            "stopped in 24.600 s of 30 s (requested: a test): FORCED, work was cut, exit code 72",
            "  phase            at most        used",
            "  pre_stop         4.500 s     0.000 s",
            "  lame_duck        0.000 s     1.000 s",
            "  draining        23.600 s    23.600 s",
            "  stopping         3.900 s     0.000 s",
            "  on_started       2.000 s  warm cache  done",
            "  pre_stop         1.000 s  pause       TIMED OUT",
            "  on_stopped       0.000 s  flush       FAILED: the collector is gone",
            "  registry         0.000 s  memory  removed",
            "  requests: 0 finished (0 while stopping), 0 cut, 0 refused, 0 abandoned by client or handler",
        ],
        "{report}"
    );
    let cut = table.last().expect("lines");
    assert!(
        cut.starts_with("  cut: task \"stuck job\" (tests/report.rs:"),
        "{cut}"
    );
    assert!(cut.ends_with("old"), "{cut}");
}

#[tokio::test(start_paused = true)]
async fn the_json_has_lengths_in_milliseconds() {
    let report = eventful().await;
    let json = serde_json::to_value(&report).expect("it serialises");
    assert_eq!(json["complete"], true);
    assert_eq!(json["reason"]["requested"], "a test");
    assert!(json["pod"].is_null(), "nobody was asked");
    assert_eq!(json["grace_ms"], 30_000);
    let phases = json["phases"].as_array().expect("an array");
    assert_eq!(phases[0]["phase"], "pre_stop");
    let sum: u64 = phases
        .iter()
        .map(|p| p["used_ms"].as_u64().expect("a number"))
        .sum();
    assert_eq!(json["total_ms"], sum, "S12");
    assert_eq!(json["hooks"][1]["stage"], "pre_stop");
    assert_eq!(json["hooks"][1]["outcome"], "timed_out");
    assert_eq!(
        json["hooks"][2]["outcome"]["failed"],
        "the collector is gone"
    );
    assert_eq!(json["registries"][0]["outcome"], "removed");
    assert_eq!(json["stragglers"][0]["kind"], "task");
    assert_eq!(json["requests"]["finished"], 0);
}
