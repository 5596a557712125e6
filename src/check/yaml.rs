//! YAML with places: every value knows its line and column.

use saphyr::{LoadableYamlNode, MarkedYaml};

use super::CheckError;

/// A line and a column, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Place {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
}

pub(super) type Node<'t> = MarkedYaml<'t>;

/// The documents of a text.
pub(super) fn documents(text: &str) -> Result<Vec<Node<'_>>, CheckError> {
    MarkedYaml::load_from_str(text).map_err(|error| {
        let marker = error.marker();
        CheckError {
            message: error.info().to_owned(),
            place: Place {
                line: marker.line(),
                column: marker.col() + 1,
            },
        }
    })
}

/// What is asked of a node; a value that is missing or null has nothing.
pub(super) trait Ask<'t> {
    fn place(&self) -> Place;
    fn at(&self, key: &str) -> Option<&Node<'t>>;
    fn under(&self, path: &[&str]) -> Option<&Node<'t>>;
    fn text(&self) -> Option<&str>;
    fn number(&self) -> Option<i64>;
    fn is_true(&self) -> bool;
    fn items(&self) -> &[Node<'t>];
    fn keys(&self) -> Vec<(&str, &Node<'t>)>;
    fn is_null(&self) -> bool;
}

impl<'t> Ask<'t> for Node<'t> {
    fn place(&self) -> Place {
        Place {
            line: self.span.start.line(),
            column: self.span.start.col() + 1,
        }
    }

    fn at(&self, key: &str) -> Option<&Node<'t>> {
        let value = self.data.as_mapping_get(key)?;
        (!value.is_null()).then_some(value)
    }

    fn under(&self, path: &[&str]) -> Option<&Node<'t>> {
        path.iter().try_fold(self, |node, key| node.at(key))
    }

    fn text(&self) -> Option<&str> {
        self.data.as_str()
    }

    fn number(&self) -> Option<i64> {
        self.data.as_integer()
    }

    fn is_true(&self) -> bool {
        self.data.as_bool() == Some(true)
    }

    fn items(&self) -> &[Node<'t>] {
        self.data.as_vec().map_or(&[], |items| &items[..])
    }

    fn keys(&self) -> Vec<(&str, &Node<'t>)> {
        let Some(mapping) = self.data.as_mapping() else {
            return Vec::new();
        };
        mapping
            .iter()
            .filter_map(|(key, value)| Some((key.data.as_str()?, value)))
            .collect()
    }

    fn is_null(&self) -> bool {
        self.data.is_null()
    }
}
