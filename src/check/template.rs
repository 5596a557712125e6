//! Templates that were not rendered: Helm's are no YAML, or YAML that means something else.

use super::document::{Node, Place};
use super::finding::CheckError;
use super::object::Object;

const ADVICE: &str = "this looks like a template (`{{`), and only what it renders to can be checked: \
    `helm template RELEASE CHART | prestop check -`, or `kubectl kustomize DIRECTORY | prestop check -`";

/// What the parser found, and why, where that is known.
pub(super) fn explain(text: &str, error: &CheckError) -> CheckError {
    let mut lines = text.lines().take(error.place.line);
    if lines.any(|line| !line.trim_start().starts_with('#') && line.contains("{{")) {
        return CheckError::new(
            format!("it is not YAML: {}; {ADVICE}", error.message),
            error.place,
        );
    }
    CheckError::new(format!("it is not YAML: {}", error.message), error.place)
}

/// Where the name or the image of an object is a template in quotes. Elsewhere `{{` is a text like any other: Vault's
/// annotations and Prometheus' alerts have it when they are rendered.
pub(super) fn unrendered(object: Object<'_>) -> Option<Place> {
    let name = object.node.under(&["metadata", "name"]);
    let pod = object.pod();
    let images = pod
        .into_iter()
        .flat_map(|pod| pod.containers().map(|c| c.0.at("image")));
    let is_template = |node: &Node<'_>| node.text().is_some_and(|text| text.contains("{{"));
    std::iter::once(name)
        .chain(images)
        .flatten()
        .find(is_template)
        .map(|node| node.place)
}

pub(super) fn error(place: Place) -> CheckError {
    CheckError::new(ADVICE, place)
}
