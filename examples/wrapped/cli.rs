//! The name of a recipe, as `tally.rs` wants it.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strategy(pub &'static str);

impl Strategy {
    pub const fn name(self) -> &'static str {
        self.0
    }
}
