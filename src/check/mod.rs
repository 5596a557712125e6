//! Finds in manifests what would lose requests in a rollout, before the deploy.
//!
//! ```
//! use prestop::check::{Rule, check};
//!
//! let findings = check(
//!     "apiVersion: apps/v1
//! kind: Deployment
//! metadata: { name: orders }
//! spec:
//!   replicas: 3
//!   template:
//!     spec:
//!       terminationGracePeriodSeconds: 60
//!       containers:
//!         - name: app
//!           image: orders:1
//!           env:
//!             - name: TERMINATION_GRACE_PERIOD_SECONDS
//!               value: '30'
//! ",
//! )?;
//! assert_eq!(findings[0].rule, Rule::PS101);
//! assert_eq!((findings[0].place.line, findings[0].container.as_deref()), (14, Some("app")));
//! # Ok::<(), prestop::check::CheckError>(())
//! ```
//!
//! The binary's `prestop check FILE...` is this with files, formats and exit codes. The rules, one section each, and how
//! one is silenced with a reason: [`_docs::check`](crate::_docs::check).

mod document;
mod finding;
mod hooks;
mod mend;
mod object;
mod pod;
mod probes;
mod rollout;
mod rule;
mod shell;
mod signals;
mod silence;
mod template;

pub use document::Place;
pub use finding::{CheckError, Checked, Finding};
pub use rule::{Rule, Severity};

use document::Text;
use finding::Found;
use object::Object;

/// Checks every Deployment, StatefulSet, DaemonSet, ReplicaSet, Pod, Job, CronJob and PodDisruptionBudget in a text of
/// one or more YAML documents, in a `List` too; what else is in it is passed over. Findings come in the order of their
/// places.
///
/// # Errors
///
/// When the text is not YAML, or a template that was not rendered; with line and column.
pub fn check(text: &str) -> Result<Vec<Finding>, CheckError> {
    match check_all([text]).pop() {
        Some(checked) => checked.map(|checked| checked.findings),
        None => Ok(Vec::new()),
    }
}

/// Checks several texts that are applied together: a PodDisruptionBudget in one of them is held against a Deployment in
/// another. One result for each, in their order.
pub fn check_all<'t>(texts: impl IntoIterator<Item = &'t str>) -> Vec<Result<Checked, CheckError>> {
    let texts: Vec<&str> = texts.into_iter().map(without_mark).collect();
    let read: Vec<_> = texts.iter().map(|text| read(text)).collect();
    let objects: Vec<Vec<Object<'_>>> = read
        .iter()
        .map(|text| text.as_ref().map(object::all).unwrap_or_default())
        .collect();
    let together: Vec<Object<'_>> = objects.iter().flatten().copied().collect();
    let mut checked = Vec::with_capacity(texts.len());
    for ((text, read), objects) in texts.iter().zip(&read).zip(&objects) {
        checked.push(match read {
            Err(error) => Err(error.clone()),
            Ok(_) if objects.iter().any(|o| template::unrendered(*o).is_some()) => {
                let at = objects.iter().find_map(|o| template::unrendered(*o));
                Err(template::error(at.unwrap_or(Place { line: 1, column: 1 })))
            }
            Ok(read) => Ok(Checked {
                findings: findings(text, read, objects, &together),
                objects: objects.len(),
                workloads: objects.iter().filter(|o| o.pod().is_some()).count(),
            }),
        });
    }
    checked
}

/// Editors on Windows put a byte order mark first.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Characters that are read again, at the most, to mend what stands too far left: some of that is in many manifests,
/// much of it in none.
const MOST_READ_AGAIN: usize = 16 << 20;

fn read(text: &str) -> Result<Text, CheckError> {
    let mut read = Text::read(text, silence::COMMENT);
    let mut mended = String::new();
    let mut again = 0;
    let mut last = None;
    while let Err(error) = &read {
        let before = if again == 0 { text } else { &mended };
        again += before.len();
        match mend::quoted(before, &error.message, error.place) {
            Some(better) if again <= MOST_READ_AGAIN && last != Some(error.place) => {
                last = Some(error.place);
                mended = better;
            }
            _ => return Err(template::explain(text, error)),
        }
        read = Text::read(&mended, silence::COMMENT);
    }
    read
}

fn findings(
    text: &str,
    read: &Text,
    objects: &[Object<'_>],
    together: &[Object<'_>],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for object in objects {
        let mut found = Found::new(object.name());
        if let Some(pod) = object.pod() {
            pod::check(*object, pod, &mut found);
            signals::check(*object, pod, &mut found);
            hooks::check(pod, &mut found);
            probes::check(*object, pod, &mut found);
        }
        rollout::check(*object, together, &mut found);
        if object.is_checked() {
            object::twice(*object, objects, read, &mut found);
        }
        findings.extend(silence::by_annotations(*object, found));
    }
    silence::by_comments(text, read, &mut findings);
    findings.sort_by_key(|finding| (finding.place, finding.rule));
    findings.dedup();
    findings
}
