//! The grace period: what the process knows of it, and what has to fit into it.

use std::time::Duration;

use crate::budget::{self, Budget, GracePeriod, LameDuck};

use super::document::{Node, Place};
use super::finding::Found;
use super::hooks;
use super::object::{Container, Object, Pod, number, wrong_type};
use super::rule::Rule;

/// The annotation of the pod that says how long clients of a registry may still call.
const VISIBILITY: &str = "prestop.rs/registry-visibility-seconds";

pub(super) fn check(object: Object<'_>, pod: Pod<'_>, found: &mut Found) {
    number(pod.spec.at("terminationGracePeriodSeconds"), found);
    types(pod, found);
    let Some(grace) = pod.grace() else { return };
    let said = pod.grace_place();
    if grace == 0 {
        found.add(
            Rule::PS103,
            said,
            "terminationGracePeriodSeconds: 0 is Kubernetes' word for \"kill at once\": nothing is left, drained or flushed",
            "give it the time of the slowest request and 15 s more; 30 is the default",
        );
    } else if (1..=3).contains(&grace) && object.serves() {
        found.add(
            Rule::PS104,
            said,
            format!("{grace} s are too short for a lame duck: kube-proxy alone takes about one second to hear of the stop"),
            "give it at least 10 s",
        );
    }
    // The annotation is the pod's, and said of one container: the one that uses this crate, else the first.
    let service = pod
        .containers()
        .position(Container::speaks_prestop)
        .unwrap_or(0);
    for (number, container) in pod.running().enumerate() {
        found.container = container.name();
        told(pod, container, grace, found);
        let annotation = pod.annotation(VISIBILITY);
        let annotation = annotation.filter(|_| number == service);
        fits(pod, container, grace, annotation, found);
    }
    found.container = None;
}

/// What the API server refuses before any of this matters: numbers as values of variables, commands in one string.
fn types(pod: Pod<'_>, found: &mut Found) {
    for container in pod.running() {
        found.container = container.name();
        for value in container.0.list("env").filter_map(|var| var.at("value")) {
            if !value.is_string() {
                wrong_type(value, "a text, in quotes", found);
            }
        }
        for key in ["command", "args"] {
            if let Some(words) = container.0.at(key).filter(|words| !words.is_list()) {
                wrong_type(words, "a list of words", found);
            }
        }
    }
    found.container = None;
}

/// `TERMINATION_GRACE_PERIOD_SECONDS`, or what outweighs it for `prestop run`, against the spec.
fn told(pod: Pod<'_>, container: Container<'_>, grace: i64, found: &mut Found) {
    let name = GracePeriod::VARIABLE;
    let flag = "--grace-period";
    if let Some((text, place)) = option(container, flag) {
        if text.parse() != Ok(grace) && grace > 0 && !text.contains("$(") {
            found.add(
                Rule::PS101,
                place,
                format!("{flag} is {text:?}, but terminationGracePeriodSeconds is {grace}: `prestop run` plans the stop by the wrong clock"),
                format!("say the same number in both: {flag}={grace}"),
            );
        }
        return;
    }
    if let Some(value) = container.literal(name) {
        let text = value.text().unwrap_or_default();
        let told: Option<i64> = text.parse().ok();
        if told != Some(grace) && grace > 0 {
            let default = match pod.spec.at("terminationGracePeriodSeconds") {
                Some(_) => "",
                None => ", the default",
            };
            found.add(
                Rule::PS101,
                value.place,
                format!("{name} is {text:?}, but terminationGracePeriodSeconds is {grace}{default}: the process plans its stop by the wrong clock"),
                format!("say the same number in both: value: \"{grace}\""),
            );
        }
    } else if grace > 0 && grace != 30 && container.speaks_prestop() && !container.may_have(name) {
        found.add(
            Rule::PS102,
            container.0.place,
            format!("the process plans with 30 s, but terminationGracePeriodSeconds is {grace}, which nothing in the pod tells it (kubernetes#50032)"),
            format!("add env {name}: \"{grace}\""),
        );
    }
}

/// The budget that the crate itself will make of what the manifest says.
fn fits(
    pod: Pod<'_>,
    container: Container<'_>,
    grace: i64,
    annotation: Option<Node<'_>>,
    found: &mut Found,
) {
    let by_flag = ["--lame-duck", "--visibility"]
        .iter()
        .any(|flag| option(container, flag).is_some());
    if !container.speaks_prestop() && annotation.is_none() && !by_flag {
        return;
    }
    let Some(grace) = u64::try_from(grace)
        .ok()
        .and_then(|g| GracePeriod::from_secs(g).ok())
    else {
        return;
    };
    let (variable, flag) = ("PRESTOP_LAME_DUCK", "--lame-duck");
    let lame_duck = setting(container, variable, flag, Rule::PS107, found);
    let (variable, flag) = ("PRESTOP_VISIBILITY", "--visibility");
    let visibility = match annotation {
        Some(said) => {
            let text = said.text().unwrap_or_default();
            length(text, said.place, VISIBILITY, Rule::PS105, found)
        }
        None => setting(container, variable, flag, Rule::PS105, found),
    };
    let told = container.literal(budget::SLEEP_VARIABLE);
    let told = told.and_then(|value| budget::sleep_from(value.text()?));
    let slept = container.hook("preStop").and_then(hooks::slept);
    let slept = slept.and_then(|slept| Duration::try_from_secs_f64(slept.seconds).ok());
    let budget = Budget {
        grace,
        pre_stop_elapsed: slept.or(told).unwrap_or_default(),
        lame_duck: LameDuck {
            length: lame_duck.map(|(length, _)| length),
            until_quiet: None,
            on_kubernetes: true,
        },
        longest_hook: None,
        visibility: visibility.map(|(length, _)| ("registry".to_owned(), length)),
    };
    if budget.pre_stop_elapsed + Duration::from_secs(2) >= budget.grace.length() {
        // PS201 has said so.
        return;
    }
    let Err(error) = budget.check() else { return };
    let advice = "the process refuses to start with the same arithmetic (`build` fails)";
    let without = Budget {
        visibility: None,
        ..budget
    };
    match visibility {
        Some((_, at)) if without.check().is_ok() => {
            found.add(Rule::PS105, at, error.to_string(), advice);
        }
        _ => {
            let at = lame_duck.map_or(pod.grace_place(), |(_, at)| at);
            found.add(Rule::PS107, at, error.to_string(), advice);
        }
    }
}

/// A length that `prestop run` takes from its arguments or from a variable, and where it stands.
fn setting(
    container: Container<'_>,
    variable: &str,
    flag: &str,
    rule: Rule,
    found: &mut Found,
) -> Option<(Duration, Place)> {
    if let Some((text, place)) = option(container, flag) {
        return length(text, place, flag, rule, found);
    }
    let said = container.literal(variable)?;
    length(said.text()?, said.place, variable, rule, found)
}

/// What an option of `prestop run` is given, in its own word behind a `=` or in the next one.
fn option<'d>(container: Container<'d>, flag: &str) -> Option<(&'d str, Place)> {
    let words = container.prestop_run()?;
    for (at, word) in words.iter().enumerate() {
        match word.text().and_then(|text| text.strip_prefix(flag)) {
            Some("") => {
                let value = words.get(at + 1)?;
                return Some((value.text()?, value.place));
            }
            Some(rest) => {
                if let Some(value) = rest.strip_prefix('=') {
                    return Some((value, word.place));
                }
            }
            None => {}
        }
    }
    None
}

fn length(
    text: &str,
    place: Place,
    name: &str,
    rule: Rule,
    found: &mut Found,
) -> Option<(Duration, Place)> {
    if text.contains("$(") {
        // A variable's value, known in the cluster.
        return None;
    }
    let length = seconds(text);
    if length.is_none() {
        let advice = match rule {
            Rule::PS107 => "a whole or decimal number: 10, say; in quotes where it is a variable",
            _ => "65 for Eureka, say; in quotes, as all annotations and variables",
        };
        found.add(
            rule,
            place,
            format!("{name} is {text:?}, which is no number of seconds"),
            advice,
        );
    }
    length.map(|length| (length, place))
}

/// `25`, `25s`, `0.5`: as the binary reads them.
fn seconds(text: &str) -> Option<Duration> {
    let number = text.strip_suffix('s').unwrap_or(text).parse().ok()?;
    Duration::try_from_secs_f64(number).ok()
}
