//! The services that the other modules start as child processes.

use std::io::Read;
use std::time::Duration;

use prestop::{
    GracePeriod, HookName, HookSocket, Phase, ShutdownCoordinator, ShutdownCoordinatorBuilder,
};

/// Which program the child is.
pub const SCENE: &str = "PRESTOP_TEST_SCENE";

/// Says it to the test. libtest may have begun the line with the test's name.
fn say(what: impl std::fmt::Display) {
    println!("| {what}");
}

/// Resolves when the test closes our standard input.
async fn told_to_go_on() {
    let read = || std::io::stdin().read_to_end(&mut Vec::new());
    tokio::task::spawn_blocking(read).await.unwrap().unwrap();
}

fn builder() -> ShutdownCoordinatorBuilder {
    ShutdownCoordinator::builder()
        .grace_period(GracePeriod::from_secs(600).unwrap())
        .lame_duck(Duration::ZERO)
}

/// Not cut before the test has done what it is about.
fn long(name: &'static str) -> HookName {
    HookName::new(name).within(Duration::from_secs(200))
}

fn build(builder: ShutdownCoordinatorBuilder) -> ShutdownCoordinator {
    let c = match builder.hook_socket(HookSocket::from_env()).build() {
        Ok(c) => c,
        Err(error) => {
            assert!(error.is_hook_socket(), "{error}");
            eprintln!("prestop: {error}");
            std::process::exit(1);
        }
    };
    let h = c.handle();
    tokio::spawn(async move {
        for phase in Phase::ALL {
            h.wait_for(phase).await;
            say(phase);
        }
    });
    c
}

/// The process ends, whatever is under way.
fn die() {
    std::process::exit(3);
}

/// Its `pre_stop` hook, and with it the lame duck, ends when it is told to.
async fn serves() {
    let c = build(builder().pre_stop(long("told to go on"), |_| told_to_go_on()));
    let h = c.handle();
    h.spawn("mail queue", h.wait_for(Phase::Draining)).unwrap();
    c.run(h.draining()).await.unwrap().exit()
}

#[test]
#[ignore = "the program that the other tests start"]
fn child() {
    let Ok(scene) = std::env::var(SCENE) else {
        return;
    };
    // One thread: what a hook needs, it must not need of the service.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        match scene.as_str() {
            "serves" => serves().await,
            "serves for a second" => {
                let c = build(builder().lame_duck(Duration::from_secs(1)));
                let h = c.handle();
                c.run(h.draining()).await.unwrap().exit()
            }
            "does not serve long" => {
                let c = build(builder());
                let h = c.handle();
                c.run(h.draining()).await.unwrap().exit()
            }
            "dies when it is called" => {
                let c = build(builder().pre_stop(long("dies"), |_| async {
                    told_to_go_on().await;
                    die();
                }));
                let h = c.handle();
                let _ = c.run(h.draining()).await;
            }
            "blocks its only thread" => {
                let c = build(builder().on_started("blocks", |_| async {
                    say("blocked");
                    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
                }));
                let h = c.handle();
                c.run(h.draining()).await.unwrap().exit()
            }
            "opens its socket late" => {
                say("here");
                told_to_go_on().await;
                serves().await;
            }
            "starts slowly" => {
                let c = build(builder().on_started("slow", |_| told_to_go_on()));
                let h = c.handle();
                c.run(h.draining()).await.unwrap().exit()
            }
            "fails to start" => {
                let c = build(builder().on_started("open the database", |_| async {
                    told_to_go_on().await;
                    Err::<(), _>("no route to it")
                }));
                let h = c.handle();
                c.run(h.draining()).await.unwrap().exit()
            }
            other => panic!("no scene {other:?}"),
        }
    });
}
