//! `# prestop: allow PS301 reason`, and the annotation `prestop.rs/allow`.

use super::rule::Rule;
use super::yaml::{Ask, Node, Place};
use super::{Finding, Found};

const ANNOTATION: &str = "prestop.rs/allow";
const COMMENT: &str = "prestop: allow ";

/// What the annotation of an object silences.
pub(super) struct Silences {
    rules: Vec<Rule>,
    wrong: Vec<(Place, String)>,
    unused: Vec<(Place, Rule)>,
}

impl Silences {
    pub(super) fn of(object: &Node<'_>) -> Self {
        let mut silences = Self {
            rules: Vec::new(),
            wrong: Vec::new(),
            unused: Vec::new(),
        };
        let Some(annotation) = object.under(&["metadata", "annotations", ANNOTATION]) else {
            return silences;
        };
        for part in annotation.text().unwrap_or_default().split(';') {
            match parse(part) {
                Ok(rule) => {
                    silences.rules.push(rule);
                    silences.unused.push((annotation.place(), rule));
                }
                Err(why) => silences.wrong.push((annotation.place(), why)),
            }
        }
        silences
    }

    pub(super) fn apply(mut self, found: Found) -> Vec<Finding> {
        let Found { object, findings } = found;
        let mut left = Vec::new();
        for finding in findings {
            if self.rules.contains(&finding.rule) {
                self.unused.retain(|(_, rule)| *rule != finding.rule);
            } else {
                left.push(finding);
            }
        }
        left.extend(
            self.wrong
                .into_iter()
                .map(|(place, why)| no_reason(place, &object, why)),
        );
        left.extend(
            self.unused
                .into_iter()
                .map(|(place, rule)| unused(place, &object, rule)),
        );
        left
    }
}

/// Comments silence in their own line and the one below.
pub(super) fn comments(text: &str, findings: &mut Vec<Finding>) {
    for (i, line) in text.lines().enumerate() {
        let Some((before, comment)) = line.split_once('#') else {
            continue;
        };
        let Some(part) = comment.trim_start().strip_prefix(COMMENT) else {
            continue;
        };
        let place = Place {
            line: i + 1,
            column: before.chars().count() + 1,
        };
        match parse(part) {
            Ok(rule) => {
                let lines = [place.line, place.line + 1];
                let before = findings.len();
                findings.retain(|f| f.rule != rule || !lines.contains(&f.place.line));
                if findings.len() == before {
                    findings.push(unused(place, "comment", rule));
                }
            }
            Err(why) => findings.push(no_reason(place, "comment", why)),
        }
    }
}

/// An id, and after it a reason.
fn parse(part: &str) -> Result<Rule, String> {
    let part = part.trim();
    let (id, reason) = part.split_once(char::is_whitespace).unwrap_or((part, ""));
    let Some(rule) = Rule::ALL.iter().find(|rule| rule.id() == id) else {
        return Err(format!("`{id}` is the id of no rule"));
    };
    if reason.trim().is_empty() {
        return Err(format!("{rule} is silenced without a reason"));
    }
    Ok(*rule)
}

fn no_reason(place: Place, object: &str, why: String) -> Finding {
    Finding {
        rule: Rule::PS001,
        severity: Rule::PS001.severity(),
        place,
        object: object.to_owned(),
        message: why,
        advice: format!(
            "write the rule and why it does not hold here: `{COMMENT}PS301 tini is the entry point`"
        ),
    }
}

fn unused(place: Place, object: &str, rule: Rule) -> Finding {
    Finding {
        rule: Rule::PS002,
        severity: Rule::PS002.severity(),
        place,
        object: object.to_owned(),
        message: format!("{rule} ({}) finds nothing here", rule.title()),
        advice: "remove it, or it hides the next mistake of that kind".to_owned(),
    }
}
