//! `prestop check`: a table of bad manifests with what is found in them, good ones in which nothing is, and the rules'
//! page. A manifest is a file; its first line says what is expected of it.
#![cfg(all(not(loom), feature = "check"))]

#[cfg(feature = "cli")]
mod cli;
mod page;
mod trouble;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use prestop::check::{Finding, Rule, Severity, check, check_all};

/// The files of a directory of manifests, each with its name and text.
fn manifests(dir: &str) -> Vec<(String, String)> {
    let dir = Path::new("tests/check").join(dir);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    let read = |file: PathBuf| {
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        (file.display().to_string(), text)
    };
    files.into_iter().map(read).collect()
}

/// `PS301:17`.
fn short(findings: &[Finding]) -> Vec<String> {
    let short = |f: &Finding| format!("{}:{}", f.rule, f.place.line);
    findings.iter().map(short).collect()
}

#[test]
fn every_bad_manifest_has_exactly_its_findings() {
    let files = manifests("bad");
    assert!(
        files.len() >= 60,
        "only {} bad manifests are left",
        files.len()
    );
    let mut wrong = String::new();
    for (name, text) in &files {
        let first = text.lines().next().unwrap_or_default();
        let expected: Vec<&str> = match first.strip_prefix("# expect: ") {
            Some(expected) => expected.split(' ').collect(),
            None => panic!("{name} does not say in its first line what is expected"),
        };
        match check(text) {
            Ok(found) if short(&found) == expected => {}
            Ok(found) => wrong += &format!("{name}: {expected:?} expected, {found:#?} found\n"),
            Err(error) => wrong += &format!("{name}: {error}\n"),
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// A rule that no manifest breaks is one that nobody has seen at work.
#[test]
fn every_rule_has_a_bad_manifest() {
    let mut seen = BTreeSet::new();
    for (_, text) in manifests("bad") {
        seen.extend(check(&text).expect("it is YAML").iter().map(|f| f.rule));
    }
    let all: BTreeSet<Rule> = Rule::ALL.iter().copied().collect();
    assert_eq!(seen, all);
}

#[test]
fn nothing_is_found_in_a_good_manifest() {
    let files = manifests("good");
    assert!(
        files.len() >= 15,
        "only {} good manifests are left",
        files.len()
    );
    let lines = |text: &str| text.lines().count();
    let large = files.iter().filter(|(_, text)| lines(text) > 500).count();
    assert!(large >= 2, "only {large} large manifests are left");
    for (name, text) in &files {
        assert_eq!(
            check(text).unwrap_or_else(|e| panic!("{name}:{e}")),
            [],
            "{name}"
        );
    }
}

/// What a manifest's line endings are does not move a finding.
#[test]
fn windows_line_endings_change_nothing() {
    for (name, text) in manifests("bad") {
        let unix = check(&text).expect("it is YAML");
        let windows = check(&text.replace('\n', "\r\n")).expect("it is YAML");
        assert_eq!(short(&unix), short(&windows), "{name}");
    }
}

/// A finding names the rule, the resource and the container, and says what to do.
#[test]
fn a_finding_says_where_and_what_to_do() {
    for (name, text) in manifests("bad") {
        for finding in check(&text).expect("it is YAML") {
            assert_eq!(finding.severity, finding.rule.severity());
            assert!(
                finding.message.len() > 20 && finding.advice.len() > 10,
                "{name}: {finding}"
            );
            assert!(
                finding.object == "comment" || finding.object.contains('/'),
                "{name}: {finding}"
            );
            // Hooks, signals and probes are a container's.
            let of_a_container = matches!(finding.rule.id().as_bytes()[2], b'2' | b'3' | b'4');
            assert!(
                finding.container.is_some() || !of_a_container,
                "{name}: {finding}"
            );
        }
    }
    let text = fs::read_to_string("tests/check/bad/ps101-env-differs.yaml").expect("a file");
    assert_eq!(
        check(&text).expect("it is YAML")[0].to_string(),
        "19:15: error[PS101] Deployment/orders, container orders: TERMINATION_GRACE_PERIOD_SECONDS is \"30\", but \
         terminationGracePeriodSeconds is 60: the process plans its stop by the wrong clock\n    \
         say the same number in both: value: \"60\""
    );
}

/// The sum in the message is the one that `build` fails with: the same code.
#[test]
fn the_arithmetic_is_that_of_the_builder() {
    let text =
        fs::read_to_string("tests/check/bad/ps105-visibility-does-not-fit.yaml").expect("a file");
    let found = check(&text).expect("it is YAML");
    struct Eureka;
    #[async_trait::async_trait]
    impl prestop::registry::Registry for Eureka {
        fn name(&self) -> &str {
            "registry"
        }
        fn visibility(&self) -> std::time::Duration {
            std::time::Duration::from_secs(65)
        }
        async fn register(
            &self,
            _: &prestop::registry::Instance,
            _: prestop::Deadline,
        ) -> Result<Box<dyn prestop::registry::Registration>, prestop::registry::RegistryError>
        {
            unreachable!("the coordinator is never built")
        }
    }
    let instance = prestop::registry::Instance::new("orders", ([127, 0, 0, 1], 80).into());
    let error = prestop::ShutdownCoordinator::builder_without_signals()
        .grace_period(prestop::GracePeriod::from_secs(30).expect("a grace period"))
        .pre_stop_elapsed(std::time::Duration::ZERO)
        .registry(Eureka, instance)
        .build()
        .expect_err("65 s do not fit into 30");
    assert!(error.is_budget());
    assert_eq!(found[0].message, error.to_string());
}

/// A PodDisruptionBudget and an autoscaler are held against what stands in another file.
#[test]
fn texts_are_checked_together() {
    let budget = "kind: PodDisruptionBudget\nmetadata: { name: a }\nspec:\n  minAvailable: 2\n  selector: { matchLabels: { app: a } }\n";
    let of = |replicas: u32, namespace: &str| {
        format!(
            "kind: StatefulSet\nmetadata: {{ name: a, namespace: {namespace} }}\nspec:\n  replicas: {replicas}\n  \
             template:\n    metadata: {{ labels: {{ app: a, b: c }} }}\n    spec: {{ containers: [] }}\n"
        )
    };
    let found = |other: &str| -> Vec<Vec<String>> {
        let checked = check_all([budget, other]);
        checked
            .into_iter()
            .map(|c| short(&c.expect("it is YAML").findings))
            .collect()
    };
    assert_eq!(found(&of(2, "default")), [vec!["PS503:4"], vec![]]);
    assert_eq!(found(&of(3, "default")), [vec![""; 0], vec![]]);
    assert_eq!(found(&of(2, "other")), [vec![""; 0], vec![]]);
    // One text that is no YAML does not keep the others from being checked.
    let checked = check_all([budget, "a: [", budget]);
    assert_eq!(
        checked.iter().map(Result::is_ok).collect::<Vec<_>>(),
        [true, false, true]
    );
}

#[test]
fn rules_have_ids_titles_and_severities() {
    let mut ids: Vec<&str> = Rule::ALL.iter().map(|rule| rule.id()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), Rule::ALL.len());
    for rule in Rule::ALL {
        assert_eq!(Rule::by_id(rule.id()), Some(*rule));
        assert!(rule.title().len() > 10, "{rule}");
    }
    assert_eq!(Rule::by_id("PS"), None);
    assert!(Severity::Error > Severity::Warning);
}

/// What this project shows to others to copy.
#[test]
fn our_own_manifests_pass() {
    let mut texts = Vec::new();
    for entry in fs::read_dir("examples/kind").expect("the example is there") {
        let file = entry.expect("an entry").path();
        if file.extension().is_some_and(|e| e == "yaml") {
            texts.push((
                file.display().to_string(),
                fs::read_to_string(&file).expect("a file"),
            ));
        }
    }
    assert!(texts.len() >= 4, "the manifests of examples/kind");
    for page in [
        "README.md",
        "src/docs/kubernetes.md",
        "src/docs/hooks.md",
        "src/docs/process.md",
    ] {
        let text = fs::read_to_string(page).expect("a page");
        for (number, block) in text.split("```yaml\n").skip(1).enumerate() {
            let block = block.split("\n```").next().expect("split yields one");
            // A step of a workflow.
            if block.starts_with("- run:") {
                continue;
            }
            texts.push((format!("{page}, snippet {number}"), whole(block)));
        }
    }
    let checked = check_all(texts.iter().map(|(_, text)| text.as_str()));
    let mut workloads = 0;
    for ((name, text), checked) in texts.iter().zip(checked) {
        let checked = checked.unwrap_or_else(|error| panic!("{name}:{error}\n{text}"));
        workloads += checked.workloads;
        // A snippet leaves out what it is not about.
        let absent = [Rule::PS401, Rule::PS003];
        let found: Vec<_> = checked
            .findings
            .iter()
            .filter(|f| !absent.contains(&f.rule))
            .collect();
        assert!(found.is_empty(), "{name}: {found:#?}\n{text}");
    }
    assert!(workloads >= 12, "only {workloads} workloads were checked");
}

/// A part of a pod as a whole one: its `spec`, what is in that, or what is in a container.
fn whole(block: &str) -> String {
    let has = |key: &str| block.lines().any(|line| line.starts_with(key));
    let indented =
        |by: &str| -> String { block.lines().map(|line| format!("{by}{line}\n")).collect() };
    if has("kind:") || has("apiVersion:") {
        block.to_owned()
    } else if has("spec:") {
        format!("kind: Pod\nmetadata: {{ name: snippet }}\n{block}\n")
    } else if has("containers:") || has("initContainers:") {
        format!(
            "kind: Pod\nmetadata: {{ name: snippet }}\nspec:\n{}",
            indented("  ")
        )
    } else {
        format!(
            "kind: Pod\nmetadata: {{ name: snippet }}\nspec:\n  containers:\n    - name: app\n      image: app:1\n{}",
            indented("      ")
        )
    }
}
