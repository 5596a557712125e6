//! Hooks, SIGTERM and hooks again, in any order and at any distance: one stop, one lame duck, nothing escalates.

use std::time::Duration;

use rustix::process::Signal;

use crate::process::*;

/// A run is repeated with `PRESTOP_TEST_SEED=<seed>`.
fn seeds() -> Vec<u64> {
    match std::env::var("PRESTOP_TEST_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..12).map(|_| fastrand::u64(0..1_000_000)).collect(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Hook,
    OwnHook,
    /// A hook that is killed before it has its answer.
    KilledHook,
    Term,
}

#[test]
fn any_order_is_one_stop() {
    for seed in seeds() {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut acts = vec![
            Act::Hook,
            Act::OwnHook,
            Act::KilledHook,
            Act::Term,
            Act::Term,
        ];
        random.shuffle(&mut acts);
        println!("seed {seed}: {acts:?}");

        let scratch = Scratch::new();
        let socket = scratch.socket();
        let mut service = Running::service("serves for a second", &socket);
        service.says("ready");
        let mut hooks = Vec::new();
        for act in acts {
            match act {
                Act::Hook => hooks.push(hook(&socket)),
                Act::OwnHook => {
                    hooks.push(Running::spawn(&mut own_binary(&socket, &["prestop"])));
                }
                Act::KilledHook => drop(hook(&socket)),
                Act::Term => {
                    if service.is_running() {
                        service.send(Signal::TERM);
                    }
                }
            }
            std::thread::park_timeout(Duration::from_millis(random.u64(0..60)));
        }
        // Each phase is said once, so there was one lame duck.
        for phase in ["pre_stop", "lame_duck", "draining", "stopping", "stopped"] {
            service.says(phase);
        }
        let ended = service.ended().with(0);
        assert!(ended.stderr.is_empty(), "{ended:?}");
        for hook in hooks {
            let ended = hook.ended();
            match ended.code {
                Some(0) => assert!(ended.stdout.contains("the lame duck is over"), "{ended:?}"),
                // On a machine that is very busy it came too late to find the process.
                Some(69 | 74) => assert!(ended.stderr.contains("hook.sock"), "{ended:?}"),
                _ => panic!("{ended:?}"),
            }
        }
    }
}
