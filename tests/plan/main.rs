//! The plan, from the first hook to the report, on paused time: what every phase does whatever the code in it does.
//!
//! Time is tokio's and moves by itself when nothing runs, so a stop of ten minutes is over at once and ends on the
//! millisecond. Registries are fakes, since what is tested here is time and faults; the adapters are tested against
//! servers. Random tests print their seed and take it back from `PRESTOP_SEED`.
#![cfg(not(loom))]

mod clock;
mod hooks;
mod lame_duck;
mod latches;
mod main_future;
mod random;
mod registries;
mod sleep_variable;
mod start;
mod support;
mod work;
