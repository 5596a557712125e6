//! YAML with places: every value knows its line and column, and every value of a mapping those of its key.
//!
//! A tree of our own over the parser's events, in one flat list: it needs no recursion to build or to drop, an alias is
//! a number and not a copy, and nothing that a text says makes it larger than its limits.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::CheckError;

/// A line and a column, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Place {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
}

/// Deeper than any manifest: a CustomResourceDefinition's schema has some 40 levels.
const DEEPEST: usize = 200;

/// Nodes that aliases may add to what is written: a few lines can ask for billions.
const MOST_BY_ALIASES: usize = 1_000_000;

/// A text of one or more documents.
#[derive(Debug)]
pub(super) struct Text {
    nodes: Vec<Stored>,
    /// The root of each document, and what is wrong in it.
    pub(super) documents: Vec<Document>,
    /// Where scalars are that look as if a comment of ours was in them, such as a script in a ConfigMap.
    pub(super) not_comments: Vec<(Place, Place)>,
}

/// One document.
#[derive(Debug)]
pub(super) struct Document {
    root: usize,
    /// Keys that stand twice in their mapping: the key, where it stands again, and the line where it stood first.
    pub(super) twice: Vec<(String, Place, usize)>,
}

#[derive(Debug)]
struct Stored {
    place: Place,
    /// Nodes in it with aliases written out.
    size: usize,
    data: Data,
}

#[derive(Debug)]
enum Data {
    /// Whether it is plain: `30` is a number, `"30"` is not.
    Scalar {
        text: String,
        plain: bool,
    },
    Sequence(Vec<usize>),
    Mapping(Vec<Entry>),
}

#[derive(Clone, Debug)]
struct Entry {
    key: String,
    /// Whether it is an unquoted `<<`.
    merge: bool,
    place: Place,
    node: usize,
}

/// What is being read: a collection that has not ended.
struct Open {
    place: Place,
    anchor: usize,
    data: Data,
    /// In a mapping, the key whose value comes next.
    key: Option<(String, bool, Place)>,
}

struct Reader {
    text: Text,
    open: Vec<Open>,
    anchors: HashMap<usize, usize>,
    by_aliases: usize,
    root: Option<usize>,
    twice: Vec<(String, Place, usize)>,
}

impl Text {
    pub(super) fn read(text: &str, comment: &str) -> Result<Self, CheckError> {
        let mut parser = Parser::new_from_str(text);
        let mut reader = Reader {
            text: Self {
                nodes: Vec::new(),
                documents: Vec::new(),
                not_comments: Vec::new(),
            },
            open: Vec::new(),
            anchors: HashMap::new(),
            by_aliases: 0,
            root: None,
            twice: Vec::new(),
        };
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| {
                let at = error.marker();
                CheckError::new(
                    error.info(),
                    Place {
                        line: at.line(),
                        column: at.col() + 1,
                    },
                )
            })?;
            reader.take(event, span, comment)?;
        }
        Ok(reader.text)
    }

    pub(super) fn root<'d>(&'d self, document: &Document) -> Node<'d> {
        Node {
            text: self,
            id: document.root,
            place: self.nodes[document.root].place,
        }
    }
}

fn place(span: Span) -> Place {
    Place {
        line: span.start.line(),
        column: span.start.col() + 1,
    }
}

impl Reader {
    fn take(&mut self, event: Event<'_>, span: Span, comment: &str) -> Result<(), CheckError> {
        let at = place(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                if text.contains(comment) {
                    let end = Place {
                        line: span.end.line(),
                        column: span.end.col() + 1,
                    };
                    self.text.not_comments.push((at, end));
                }
                let is_text = tag.is_some_and(|t| t.is_yaml_core_schema() && t.suffix == "str");
                let data = Data::Scalar {
                    text: text.into_owned(),
                    plain: style == ScalarStyle::Plain && !is_text,
                };
                self.node(at, 1, data, anchor)
            }
            Event::SequenceStart(anchor, _) => self.begin(at, anchor, Data::Sequence(Vec::new())),
            Event::MappingStart(anchor, _) => self.begin(at, anchor, Data::Mapping(Vec::new())),
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => self.alias(anchor, at),
            Event::DocumentEnd => {
                if let Some(root) = self.root.take() {
                    let twice = std::mem::take(&mut self.twice);
                    self.text.documents.push(Document { root, twice });
                }
                Ok(())
            }
            Event::DocumentStart(_) | Event::Nothing | Event::StreamStart | Event::StreamEnd => {
                Ok(())
            }
        }
    }

    fn begin(&mut self, at: Place, anchor: usize, data: Data) -> Result<(), CheckError> {
        if self.open.len() == DEEPEST {
            let why = format!("more than {DEEPEST} levels deep, which no manifest is");
            return Err(CheckError::new(why, at));
        }
        self.open.push(Open {
            place: at,
            anchor,
            data,
            key: None,
        });
        Ok(())
    }

    fn end(&mut self) -> Result<(), CheckError> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let sum = |ids: &mut dyn Iterator<Item = usize>| {
            ids.map(|id| self.text.nodes[id].size)
                .fold(1, usize::saturating_add)
        };
        let (size, data) = match open.data {
            Data::Sequence(items) => (sum(&mut items.iter().copied()), Data::Sequence(items)),
            Data::Mapping(entries) => {
                let size = sum(&mut entries.iter().map(|entry| entry.node));
                (size, Data::Mapping(self.settled(entries)?))
            }
            Data::Scalar { .. } => return Ok(()),
        };
        self.node(open.place, size, data, open.anchor)
    }

    /// Of a key that stands twice the last holds, as for Kubernetes; what `<<` brings in comes after the mapping's own.
    fn settled(&mut self, entries: Vec<Entry>) -> Result<Vec<Entry>, CheckError> {
        let mut known: HashMap<String, usize> = HashMap::with_capacity(entries.len());
        let mut settled: Vec<Entry> = Vec::with_capacity(entries.len());
        let mut merged = Vec::new();
        for entry in entries {
            if entry.merge {
                merged.extend(self.merged(&entry)?);
                continue;
            }
            if let Some(&first) = known.get(&entry.key) {
                let line = settled[first].place.line;
                self.twice.push((entry.key.clone(), entry.place, line));
                settled[first] = entry;
            } else {
                known.insert(entry.key.clone(), settled.len());
                settled.push(entry);
            }
        }
        for entry in merged {
            if !known.contains_key(&entry.key) {
                known.insert(entry.key.clone(), settled.len());
                settled.push(entry);
            }
        }
        Ok(settled)
    }

    fn merged(&self, entry: &Entry) -> Result<Vec<Entry>, CheckError> {
        let wrong = || CheckError::new("`<<` takes a mapping or a list of mappings", entry.place);
        let of = |id: usize| match &self.text.nodes[id].data {
            Data::Mapping(entries) => Ok(entries.clone()),
            Data::Scalar { .. } | Data::Sequence(_) => Err(wrong()),
        };
        match &self.text.nodes[entry.node].data {
            Data::Sequence(items) => {
                let mut all = Vec::new();
                for item in items {
                    all.extend(of(*item)?);
                }
                Ok(all)
            }
            Data::Mapping(_) | Data::Scalar { .. } => of(entry.node),
        }
    }

    fn alias(&mut self, anchor: usize, at: Place) -> Result<(), CheckError> {
        let Some(&id) = self.anchors.get(&anchor) else {
            return Err(CheckError::new("an alias inside of what it stands for", at));
        };
        let size = self.text.nodes[id].size;
        self.by_aliases = self.by_aliases.saturating_add(size);
        if self.by_aliases > MOST_BY_ALIASES {
            let why = format!("aliases stand for more than {MOST_BY_ALIASES} values");
            return Err(CheckError::new(why, at));
        }
        self.put(id, at)
    }

    fn node(
        &mut self,
        at: Place,
        size: usize,
        data: Data,
        anchor: usize,
    ) -> Result<(), CheckError> {
        let id = self.text.nodes.len();
        self.text.nodes.push(Stored {
            place: at,
            size,
            data,
        });
        if anchor > 0 {
            self.anchors.insert(anchor, id);
        }
        self.put(id, at)
    }

    /// Into the collection that is being read: an item, a key or a value.
    fn put(&mut self, id: usize, at: Place) -> Result<(), CheckError> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(id);
            return Ok(());
        };
        match &mut open.data {
            Data::Sequence(items) => items.push(id),
            Data::Mapping(entries) => match open.key.take() {
                Some((key, merge, place)) => entries.push(Entry {
                    key,
                    merge,
                    place,
                    node: id,
                }),
                None => match &self.text.nodes[id].data {
                    Data::Scalar { text, plain } => {
                        open.key = Some((text.clone(), *plain && text == "<<", at));
                    }
                    // `{{ .Values.name }}` is a mapping with a mapping for its key.
                    Data::Sequence(_) | Data::Mapping(_) => {
                        return Err(CheckError::new("a key that is not a word", at));
                    }
                },
            },
            Data::Scalar { .. } => {}
        }
        Ok(())
    }
}

/// A value, and where it stands: for a value of a mapping that is where its key is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node<'d> {
    text: &'d Text,
    id: usize,
    pub(super) place: Place,
}

impl<'d> Node<'d> {
    fn data(self) -> &'d Data {
        &self.text.nodes[self.id].data
    }

    /// The value of a key; none where it is null, which means what a missing key means.
    pub(super) fn at(self, key: &str) -> Option<Self> {
        let (_, value) = self.entries().find(|(name, _)| *name == key)?;
        (!value.is_null()).then_some(value)
    }

    pub(super) fn under(self, path: &[&str]) -> Option<Self> {
        path.iter().try_fold(self, |node, key| node.at(key))
    }

    /// Keys and values, nulls too.
    pub(super) fn entries(self) -> impl Iterator<Item = (&'d str, Self)> {
        let entries = match self.data() {
            Data::Mapping(entries) => &entries[..],
            Data::Scalar { .. } | Data::Sequence(_) => &[],
        };
        entries.iter().map(move |entry| {
            let value = Self {
                id: entry.node,
                place: entry.place,
                ..self
            };
            (entry.key.as_str(), value)
        })
    }

    pub(super) fn items(self) -> impl Iterator<Item = Self> {
        let items = match self.data() {
            Data::Sequence(items) => &items[..],
            Data::Scalar { .. } | Data::Mapping(_) => &[],
        };
        items.iter().map(move |id| Self {
            id: *id,
            place: self.text.nodes[*id].place,
            ..self
        })
    }

    /// The items of the list of this key.
    pub(super) fn list(self, key: &str) -> impl Iterator<Item = Self> {
        self.at(key).into_iter().flat_map(Self::items)
    }

    /// A scalar as it is written, without its quotes.
    pub(super) fn text(self) -> Option<&'d str> {
        match self.data() {
            Data::Scalar { text, .. } => Some(text),
            Data::Sequence(_) | Data::Mapping(_) => None,
        }
    }

    /// The text of the value of a key.
    pub(super) fn text_at(self, key: &str) -> Option<&'d str> {
        self.at(key).and_then(Self::text)
    }

    /// A whole number, which is not in quotes.
    pub(super) fn number(self) -> Option<i64> {
        let text = self.plain()?;
        let by_radix = [("0x", 16), ("0o", 8), ("0b", 2)]
            .into_iter()
            .find_map(|(mark, radix)| i64::from_str_radix(text.strip_prefix(mark)?, radix).ok());
        by_radix.or_else(|| text.parse().ok())
    }

    /// Whether it would be taken for a string: in quotes, or nothing else.
    pub(super) fn is_string(self) -> bool {
        match self.data() {
            Data::Scalar { plain: false, .. } => true,
            Data::Scalar { text, .. } => {
                let known = ["true", "false", "yes", "no", "on", "off"];
                text.parse::<f64>().is_err() && !known.contains(&text.to_ascii_lowercase().as_str())
            }
            Data::Sequence(_) | Data::Mapping(_) => false,
        }
    }

    pub(super) fn is_list(self) -> bool {
        matches!(self.data(), Data::Sequence(_))
    }

    /// As Kubernetes reads it, by YAML 1.1.
    pub(super) fn is_true(self) -> bool {
        self.plain()
            .is_some_and(|text| ["true", "yes", "on"].contains(&text.to_ascii_lowercase().as_str()))
    }

    fn is_null(self) -> bool {
        matches!(self.plain(), Some("" | "~" | "null" | "Null" | "NULL"))
    }

    fn plain(self) -> Option<&'d str> {
        match self.data() {
            Data::Scalar { text, plain: true } => Some(text),
            Data::Scalar { .. } | Data::Sequence(_) | Data::Mapping(_) => None,
        }
    }
}
