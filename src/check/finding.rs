//! [`Finding`] and [`CheckError`]: what a check says.

use std::fmt;

use super::document::Place;
use super::rule::{Rule, Severity};

/// What a rule found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Finding {
    /// Which rule.
    pub rule: Rule,
    /// How bad it is.
    pub severity: Severity,
    /// Where in the text: the key, where it is about the value of one; the container, where something is missing.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub place: Place,
    /// The object, as in `Deployment/orders`.
    pub object: String,
    /// The container, where it is about one.
    pub container: Option<String>,
    /// What is wrong, and why that matters.
    pub message: String,
    /// What to do.
    pub advice: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { line, column } = self.place;
        let (severity, rule, object) = (self.severity, self.rule, &self.object);
        write!(f, "{line}:{column}: {severity}[{rule}] {object}")?;
        if let Some(container) = &self.container {
            write!(f, ", container {container}")?;
        }
        write!(f, ": {}\n    {}", self.message, self.advice)
    }
}

/// A text that cannot be read as manifests: it is no YAML, or a template that was not rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CheckError {
    /// What the parser found, and what to do.
    pub message: String,
    /// Where.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub place: Place,
}

impl CheckError {
    pub(super) fn new(message: impl Into<String>, place: Place) -> Self {
        Self {
            message: message.into(),
            place,
        }
    }
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { line, column } = self.place;
        write!(f, "{line}:{column}: {}", self.message)
    }
}

impl std::error::Error for CheckError {}

/// What was found in one text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checked {
    /// In the order of their places.
    pub findings: Vec<Finding>,
    /// How many Kubernetes objects of any kind are in it.
    pub objects: usize,
    /// How many of them have pods, and were looked into.
    pub workloads: usize,
}

/// What was found in one object, so far.
pub(super) struct Found {
    pub(super) object: String,
    /// The one that is looked at.
    pub(super) container: Option<String>,
    pub(super) findings: Vec<Finding>,
}

impl Found {
    pub(super) fn new(object: String) -> Self {
        Self {
            object,
            container: None,
            findings: Vec::new(),
        }
    }

    pub(super) fn add(
        &mut self,
        rule: Rule,
        at: Place,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.findings.push(Finding {
            rule,
            severity: rule.severity(),
            place: at,
            object: self.object.clone(),
            container: self.container.clone(),
            message: message.into(),
            advice: advice.into(),
        });
    }
}
