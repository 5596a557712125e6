//! The page of the rules: a section for each, with a bad manifest in which it is found and a good one in which it is not.

use std::collections::BTreeMap;

use prestop::check::{Rule, check};

const PAGE: &str = include_str!("../../src/docs/check.md");

/// The sections by their ids, each with its heading and text.
fn sections() -> BTreeMap<&'static str, (&'static str, &'static str)> {
    let mut sections = BTreeMap::new();
    for section in PAGE.split("\n### ").skip(1) {
        let section = section.split("\n## ").next().expect("split yields one");
        let (heading, text) = section.split_once('\n').expect("a section has a text");
        let (id, title) = heading
            .split_once(": ")
            .expect("a heading is an id and a title");
        assert!(
            sections.insert(id, (title, text)).is_none(),
            "{id} has two sections"
        );
    }
    sections
}

#[test]
fn every_rule_has_its_section_and_every_section_its_rule() {
    let sections = sections();
    let ids: Vec<&str> = Rule::ALL.iter().map(|rule| rule.id()).collect();
    assert_eq!(sections.keys().copied().collect::<Vec<_>>(), ids);
    for rule in Rule::ALL {
        let (title, text) = sections[rule.id()];
        assert_eq!(title, rule.title(), "{rule}");
        assert!(
            text.contains(&format!("*{}.*", rule.severity())),
            "{rule} does not say how bad it is"
        );
    }
}

/// The first block of a section is bad and has this finding, the second is good and has not; both as they stand there.
#[test]
fn the_manifests_of_the_page_are_found_bad_and_good() {
    for (id, (_, text)) in sections() {
        let blocks: Vec<&str> = text
            .split("```yaml\n")
            .skip(1)
            .map(|rest| rest.split("\n```").next().expect("split yields one"))
            .collect();
        let [bad, good] = blocks[..] else {
            panic!(
                "{id} has {} manifests and not a bad and a good one",
                blocks.len()
            );
        };
        let found = |block: &str| -> Vec<&str> {
            let whole = whole(block);
            let found = check(&whole).unwrap_or_else(|error| panic!("{id}: {error}\n{whole}"));
            found.iter().map(|finding| finding.rule.id()).collect()
        };
        assert!(
            found(bad).contains(&id),
            "{id} is not found in its bad manifest: {:?}",
            found(bad)
        );
        assert!(
            !found(good).contains(&id),
            "{id} is found in its good manifest"
        );
    }
}

#[test]
fn the_page_s_own_example_is_silenced_and_the_readme_counts_the_rules() {
    let block = PAGE
        .split("## Silencing a rule")
        .nth(1)
        .expect("the chapter");
    let block = block.split("```yaml\n").nth(1).expect("its example");
    let block = block.split("\n```").next().expect("split yields one");
    assert!(block.contains("prestop: allow PS301") && block.contains("prestop.rs/allow: \"PS501"));
    assert_eq!(check(block), Ok(vec![]));
    let rules = Rule::ALL.len();
    assert!(include_str!("../../README.md").contains(&format!("[{rules} such mistakes]")));
    assert!(include_str!("../../CHANGELOG.md").contains(&format!("by {rules} rules")));
}

/// A section shows what it is about: a whole object, a part of its spec, of the pod's or of the container's.
fn whole(block: &str) -> String {
    let indented = |by: usize| -> String {
        let by = " ".repeat(by);
        block.lines().map(|line| format!("{by}{line}\n")).collect()
    };
    let head = "kind: Deployment\nmetadata: { name: page }\nspec:\n";
    let has = |keys: &[&str]| {
        let starts = |key: &&str| {
            block
                .lines()
                .any(|line| line.starts_with(&format!("{key}:")))
        };
        keys.iter().any(starts)
    };
    if has(&["kind"]) {
        block.to_owned()
    } else if has(&["replicas", "strategy", "template"]) {
        let template = "  template:\n    spec: { containers: [] }\n";
        format!(
            "{head}{}{}",
            indented(2),
            if has(&["template"]) { "" } else { template }
        )
    } else if has(&["metadata"]) {
        format!("{head}  template:\n{}", indented(4))
    } else if has(&[
        "containers",
        "terminationGracePeriodSeconds",
        "hostNetwork",
        "os",
    ]) {
        format!("{head}  template:\n    spec:\n{}", indented(6))
    } else {
        format!(
            "{head}  template:\n    spec:\n      containers:\n        - name: app\n          image: app:1\n{}",
            indented(10)
        )
    }
}
