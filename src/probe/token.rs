//! [`HookToken`]: what an `httpGet` hook must know.

use std::fmt;

use subtle::ConstantTimeEq;

use crate::error::{Error, Kind};

/// The secret in the header `X-Prestop-Token` of an `httpGet` preStop hook: without it anybody who reaches the pod could
/// stop it (S15).
///
/// At least 16 visible ASCII characters. Compared in constant time; its length is no secret. `Debug` does not show it.
#[derive(Clone)]
pub struct HookToken(String);

impl HookToken {
    /// Less could be guessed by trying.
    const SHORTEST: usize = 16;

    /// The token itself.
    ///
    /// # Errors
    ///
    /// [`Error::is_hook_token`] for less than 16 characters, and for what a header cannot carry unchanged: anything but
    /// visible ASCII.
    pub fn new(token: impl Into<String>) -> Result<Self, Error> {
        Self::checked("the token of the httpGet hook", token.into())
    }

    /// The token in this environment variable, best filled from a `Secret`. (The manifest's `httpHeaders` cannot refer
    /// to one: there the token stands in plain text, for all who may read the Deployment.)
    ///
    /// # Errors
    ///
    /// [`Error::is_hook_token`] when the variable is not set, and as [`new`](Self::new).
    pub fn from_env(variable: &str) -> Result<Self, Error> {
        match std::env::var(variable) {
            Ok(token) => Self::checked(variable, token),
            Err(e) => Err(Error::new(Kind::HookToken {
                from: variable.to_owned(),
                problem: "is not there",
            })
            .with_source(e)),
        }
    }

    fn checked(from: &str, token: String) -> Result<Self, Error> {
        let problem = if !token.bytes().all(|b| b.is_ascii_graphic()) {
            "holds something else than visible ASCII characters"
        } else if token.len() < Self::SHORTEST {
            "is shorter than 16 characters"
        } else {
            return Ok(Self(token));
        };
        let from = from.to_owned();
        Err(Error::new(Kind::HookToken { from, problem }))
    }

    pub(super) fn is(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }
}

impl fmt::Debug for HookToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookToken(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_long_and_visible_and_never_shown() {
        let token = HookToken::new("0123456789abcdef").expect("16 characters");
        assert!(token.is(b"0123456789abcdef"));
        for wrong in [
            "",
            "0123456789abcde",
            "0123456789abcdeF",
            "0123456789abcdef0",
        ] {
            assert!(!token.is(wrong.as_bytes()), "{wrong:?}");
        }
        assert_eq!(format!("{token:?}"), "HookToken(..)");
        for bad in [
            "",
            "0123456789abcde",
            "0123456789 abcdef",
            "0123456789abcdéf",
            "0123456789abcdef\n",
        ] {
            let error = HookToken::new(bad).expect_err("refused");
            assert!(error.is_hook_token(), "{error}");
            assert!(
                bad.is_empty() || !error.to_string().contains(bad),
                "{error}"
            );
        }
        let error = HookToken::from_env("PRESTOP_TEST_NO_SUCH_VARIABLE").expect_err("not set");
        assert!(
            error.to_string().contains("PRESTOP_TEST_NO_SUCH_VARIABLE"),
            "{error}"
        );
    }
}
