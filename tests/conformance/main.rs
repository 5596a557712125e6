//! One suite that every adapter runs against its **real** server: a process of its own on free ports in a temporary
//! directory, found on `PATH`. A server that is not there is skipped aloud, or fails the tests where `CI` is set.
//!
//! What clients see is read by a [`Watcher`](watcher::Watcher) that shares no code with the adapter. Nothing here is
//! measured against the clock of a busy machine: tests wait for events and assert their order; the bounds are there to
//! end a test that hangs. The figures are in an ignored test:
//! `cargo test --release --all-features --test conformance -- --ignored --nocapture figures`.
//!
//! A new adapter: a file in `fixtures/` with a [`Fixture`](fixture::Fixture), and a line in `fixtures/mod.rs` and here.
#![cfg(all(unix, not(loom), feature = "memory"))]
// What may panic in a test may in its helpers; not every fixture uses every helper.
#![allow(clippy::print_stdout, clippy::unwrap_used, dead_code, unreachable_pub)]

mod child;
#[cfg(feature = "consul")]
mod consul_own;
mod contract;
#[cfg(all(feature = "nacos", feature = "zookeeper", feature = "tonic"))]
mod dubbo;
#[cfg(feature = "etcd")]
mod etcd_own;
#[cfg(feature = "eureka")]
mod eureka_own;
mod fixture;
mod fixtures;
mod java_servers;
#[cfg(feature = "nacos")]
mod nacos_own;
mod proxy;
mod raw;
#[cfg(all(feature = "etcd", feature = "zookeeper"))]
mod secrets;
#[cfg(all(feature = "consul", feature = "etcd", feature = "tls"))]
mod secure;
mod server;
mod site;
mod trouble;
mod watcher;
#[cfg(feature = "zookeeper")]
mod zookeeper_own;

/// Every test of the suite for one fixture, in a module of its own.
macro_rules! conformance {
    ($module:ident: $fixture:ty) => {
        mod $module {
            conformance!(@tests contract $fixture:
                a_registered_instance_is_seen_where_it_is,
                a_deregistered_instance_is_gone_and_no_heartbeat_brings_it_back,
                a_late_deregistration_leaves_the_successor_at_the_same_address,
                an_instance_is_gone_before_its_process_ends,
                a_killed_process_is_seen_until_its_entry_expires,
                a_registry_that_is_down_at_the_start_gets_the_instance_when_it_is_up,
                a_registry_that_is_down_at_the_stop_costs_at_most_the_leave_budget,
                a_registry_that_is_frozen_at_the_stop_costs_at_most_the_leave_budget,
                a_registry_that_forgot_the_instance_gets_it_again,
                a_registry_that_comes_back_during_the_stop_does_not_get_the_instance_again,
                a_process_that_panics_leaves_with_its_last_gasp,
                a_process_that_is_forced_to_exit_leaves_with_its_last_gasp,
                a_process_that_the_watchdog_ends_leaves_with_its_last_gasp,
                no_stop_at_any_moment_is_followed_by_a_resurrection,
            );
            conformance!(@tests trouble $fixture:
                a_slow_registry_is_left_all_the_same,
                a_registry_that_resets_connections_is_left_when_it_no_longer_does,
                a_registry_that_answers_an_error_is_asked_again_until_it_does_not,
                a_registry_that_only_answers_errors_costs_at_most_the_leave_budget,
                a_registry_that_is_cut_off_at_the_stop_costs_at_most_the_leave_budget,
                after_a_partition_the_instance_comes_back,
                a_dead_registry_does_not_hold_up_another_one,
            );

            /// The program that some of the tests start: see `child.rs`.
            #[test]
            #[ignore = "a part of other tests"]
            fn child() {
                crate::child::main::<$fixture>();
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "figures, for a quiet machine"]
            async fn figures() {
                crate::contract::figures::<$fixture>(module_path!()).await;
            }
        }
    };
    (@tests $file:ident $fixture:ty: $($test:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                crate::$file::$test::<$fixture>(module_path!()).await;
            }
        )*
    };
}

conformance!(memory: crate::fixtures::memory::Memory);
#[cfg(feature = "consul")]
conformance!(consul: crate::fixtures::consul::Consul);
#[cfg(feature = "etcd")]
conformance!(etcd: crate::fixtures::etcd::Etcd);
#[cfg(feature = "eureka")]
conformance!(eureka: crate::fixtures::eureka::Eureka);
#[cfg(feature = "zookeeper")]
conformance!(zookeeper: crate::fixtures::zookeeper::ZooKeeper);
#[cfg(feature = "nacos")]
conformance!(nacos: crate::fixtures::nacos::Nacos);
