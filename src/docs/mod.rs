//! The long prose, as rustdoc, so that every snippet in it is compiled.

#[doc = include_str!("design.md")]
pub mod design {}
