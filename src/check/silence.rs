//! `# prestop: allow PS301 reason`, and the annotation `prestop.rs/allow`.

use super::document::{Node, Place, Text};
use super::finding::{Finding, Found};
use super::object::Object;
use super::rule::Rule;

const ANNOTATION: &str = "prestop.rs/allow";

/// How a comment begins, after its `#`.
pub(super) const COMMENT: &str = "prestop: allow";

/// An annotation of the object or of its pod template silences in all of the object.
pub(super) fn by_annotations(object: Object<'_>, found: Found) -> Vec<Finding> {
    let own = object.node.under(&["metadata", "annotations", ANNOTATION]);
    let template = object.pod().and_then(|pod| pod.annotation(ANNOTATION));
    let mut annotations: Vec<Node<'_>> = [own, template].into_iter().flatten().collect();
    // Of a Pod they are the same.
    annotations.dedup_by_key(|annotation| annotation.place);
    let Found {
        object: name,
        mut findings,
        ..
    } = found;
    let mut wrong = Vec::new();
    for annotation in annotations {
        let text = annotation.text().unwrap_or_default();
        for part in text
            .split([';', '\n'])
            .filter(|part| !part.trim().is_empty())
        {
            silence(
                part,
                annotation.place,
                &name,
                &mut findings,
                &mut wrong,
                |_| true,
            );
        }
    }
    findings.extend(wrong);
    findings
}

/// A comment behind something silences in its own line, one that stands alone in the next line that is none.
pub(super) fn by_comments(text: &str, read: &Text, findings: &mut Vec<Finding>) {
    if !text.contains(COMMENT) {
        return;
    }
    let lines: Vec<&str> = text.lines().collect();
    let mut wrong = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((place, part)) = comment(line, at + 1) else {
            continue;
        };
        let is_text = |(from, to): &(Place, Place)| (*from..*to).contains(&place);
        if read.not_comments.iter().any(is_text) {
            continue;
        }
        let alone = line.trim_start().starts_with('#');
        let is_code = |line: &&&str| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with('#')
        };
        let below = lines[at..]
            .iter()
            .position(|line| is_code(&line))
            .map(|n| at + 1 + n);
        let line = if alone {
            below.unwrap_or(at + 1)
        } else {
            at + 1
        };
        silence(part, place, "comment", findings, &mut wrong, |f| {
            f.place.line == line
        });
    }
    findings.extend(wrong);
}

/// The comment of ours in a line: where its `#` is, and what comes after the word `allow`.
fn comment(line: &str, number: usize) -> Option<(Place, &str)> {
    for (at, _) in line.match_indices('#') {
        let before = &line[..at];
        let after = line[at + 1..].trim_start().strip_prefix(COMMENT);
        if let Some(part) = after
            && (before.is_empty() || before.ends_with([' ', '\t']))
        {
            let column = before.chars().count() + 1;
            return Some((
                Place {
                    line: number,
                    column,
                },
                part,
            ));
        }
    }
    None
}

/// Takes what one silence is for out of the findings, and says what is wrong with the silence.
fn silence(
    part: &str,
    place: Place,
    object: &str,
    findings: &mut Vec<Finding>,
    wrong: &mut Vec<Finding>,
    reaches: impl Fn(&Finding) -> bool,
) {
    let mut say = |rule: Rule, message: String, advice: &str| {
        let mut found = Found::new(object.to_owned());
        found.add(rule, place, message, advice);
        wrong.extend(found.findings);
    };
    let rules = match parse(part) {
        Ok(rules) => rules,
        Err(why) => {
            let advice = "write the rule and why it does not hold here, as in \
                `prestop: allow PS301 nobody sends it requests`";
            return say(Rule::PS001, why, advice);
        }
    };
    for rule in rules {
        let before = findings.len();
        findings.retain(|finding| finding.rule != rule || !reaches(finding));
        if findings.len() == before {
            say(
                Rule::PS002,
                format!("{rule} ({}) finds nothing here", rule.title()),
                "remove it, or it hides the next mistake of that kind",
            );
        }
    }
}

/// Ids, separated by commas, and after them a reason.
fn parse(part: &str) -> Result<Vec<Rule>, String> {
    let part = part.trim();
    let (ids, reason) = part.split_once(char::is_whitespace).unwrap_or((part, ""));
    let ids = ids.trim_end_matches(':');
    let rules: Result<Vec<Rule>, String> = ids
        .split(',')
        .map(|id| Rule::by_id(id).ok_or_else(|| format!("{id:?} is the id of no rule")))
        .collect();
    let rules = rules?;
    if !reason.contains(char::is_alphanumeric) {
        return Err(format!("{ids} is silenced without a reason"));
    }
    Ok(rules)
}
