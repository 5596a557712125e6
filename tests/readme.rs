//! What the README says is run or read by somebody: its programs by the doc tests, its commands by CI, its manifest here.
#![cfg(not(loom))]

use serde_yaml_ng::Value;

const README: &str = include_str!("../README.md");

/// The fenced blocks of one language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    README
        .split(&fence)
        .skip(1)
        .map(|rest| {
            rest.split("\n```")
                .next()
                .expect("split yields at least one part")
        })
        .collect()
}

#[test]
fn every_block_is_of_a_kind_that_something_checks() {
    let mut open = false;
    for line in README.lines().filter(|line| line.starts_with("```")) {
        open = !open;
        let language = line.trim_start_matches('`');
        assert!(
            !open || ["rust,no_run", "sh", "yaml", "text"].contains(&language),
            "a block of {language:?} is checked by nobody"
        );
    }
    assert!(!open, "a block is not closed");
}

#[test]
fn the_program_is_short_and_the_one_of_the_crate_docs() {
    let program = blocks("rust,no_run")[0];
    assert!(program.lines().count() <= 20, "{program}");
    let docs: String = include_str!("../src/lib.rs")
        .lines()
        .skip_while(|line| *line != "//! ```no_run")
        .skip(1)
        .take_while(|line| *line != "//! ```")
        .map(|line| {
            line.trim_start_matches("//!")
                .trim_start_matches(' ')
                .to_owned()
                + "\n"
        })
        .collect();
    let flat = |text: &str| {
        text.lines()
            .map(|l| l.trim_start().to_owned() + "\n")
            .collect::<String>()
    };
    assert_eq!(flat(program), flat(&docs));
}

#[test]
fn ci_runs_the_two_commands() {
    let (run, tests) = (include_str!("../.ci/run"), include_str!("../.ci/tests"));
    let commands = blocks("sh");
    // CI builds nothing in release that the tests have built, and runs the tests with a net under them.
    for (command, script, line) in [
        (
            "cargo run --release --example rolling_update",
            run,
            "rolling_update=(cargo run --all-features --example rolling_update --)",
        ),
        (
            "cargo test --all-features",
            tests,
            "if cargo test --all-features 2>&1 | tee \"$log\"; then",
        ),
    ] {
        assert!(
            commands.contains(&command),
            "the README does not have {command:?} as a block of its own"
        );
        assert!(
            script.lines().any(|of_ci| of_ci.trim() == line),
            "CI does not run {command:?}: {line:?} is gone"
        );
    }
    for line in ["\"${rolling_update[@]}\" --json", ".ci/tests"] {
        assert!(
            run.lines().any(|of_ci| of_ci.starts_with(line)),
            "{line:?} is gone"
        );
    }
}

#[test]
fn the_deployment_says_the_grace_period_twice_and_names_its_ports() {
    let [manifest, step] = blocks("yaml")[..] else {
        panic!("one manifest and one step of a workflow are expected");
    };
    let step: Value = serde_yaml_ng::from_str(step).expect("valid YAML");
    // tests/check runs it.
    let install = step[0]["run"].as_str().expect("a command");
    assert!(README.contains(&format!("```sh\n{install}\n")), "{install}");
    assert_eq!(step[1]["run"], "prestop check --format github deploy/");
    let deployment: Value = serde_yaml_ng::from_str(manifest).expect("valid YAML");
    assert_eq!(deployment["kind"], "Deployment");
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let grace = pod["terminationGracePeriodSeconds"]
        .as_u64()
        .expect("a number");
    assert_eq!(container["env"][0]["name"], prestop::GracePeriod::VARIABLE);
    assert_eq!(container["env"][0]["value"], grace.to_string().as_str());

    let ports: Vec<_> = container["ports"]
        .as_sequence()
        .expect("ports")
        .iter()
        .map(|port| (&port["name"], &port["containerPort"]))
        .collect();
    assert_eq!(ports.len(), 2);
    for port in ports.iter().filter_map(|(_, number)| number.as_u64()) {
        assert!(
            README.contains(&format!("0.0.0.0:{port}")),
            "no program of the README listens on {port}"
        );
    }
    for (probe, path) in [
        ("startupProbe", "/startupz"),
        ("readinessProbe", "/readyz"),
        ("livenessProbe", "/livez"),
    ] {
        let get = &container[probe]["httpGet"];
        assert_eq!(get["path"], path);
        assert!(
            ports.iter().any(|(name, _)| **name == get["port"]),
            "{probe} asks an unknown port"
        );
    }
    assert_eq!(
        deployment["spec"]["selector"]["matchLabels"],
        deployment["spec"]["template"]["metadata"]["labels"]
    );
}
