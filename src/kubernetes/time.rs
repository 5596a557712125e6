//! The two forms of a moment in an answer: the API's own, and the header `Date`. Both in whole seconds since 1970.

/// A moment as the API writes it (`metav1.Time`): RFC 3339, always UTC, always whole seconds.
pub(super) fn of_the_api(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    let at = |from: usize, to: usize| -> Option<u64> {
        let digits = bytes.get(from..to)?;
        digits.iter().try_fold(0, |number, digit| {
            let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
            Some(number * 10 + digit)
        })
    };
    let form = |place: usize, byte: u8| bytes.get(place) == Some(&byte);
    let separated = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if bytes.len() != 20 || !form(19, b'Z') || !separated.iter().all(|&(p, b)| form(p, b)) {
        return None;
    }
    let (year, month, day) = (at(0, 4)?, at(5, 7)?, at(8, 10)?);
    let (hour, minute, second) = (at(11, 13)?, at(14, 16)?, at(17, 19)?);
    let is_real = (1970..).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    is_real.then(|| ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// Days from 1970 to this one. Years are counted from March on, so that the leap day is the last (Howard Hinnant,
/// "chrono-compatible low-level date algorithms").
const fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// A moment as HTTP writes it.
pub(super) fn of_http(text: &str) -> Option<u64> {
    let moment = httpdate::parse_http_date(text).ok()?;
    let since = moment.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    /// The same moment by another's arithmetic.
    fn rfc3339(seconds: u64) -> String {
        let http = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
        let (day, year, time) = (&http[5..7], &http[12..16], &http[17..25]);
        let names = "JanFebMarAprMayJunJulAugSepOctNovDec";
        let month = names.find(&http[8..11]).unwrap() / 3 + 1;
        format!("{year}-{month:02}-{day}T{time}Z")
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn both_forms_are_the_same_moment(seconds in 0..253_402_300_800_u64) {
            let text = rfc3339(seconds);
            prop_assert_eq!(of_the_api(&text), Some(seconds), "{}", text);
            let http = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
            prop_assert_eq!(of_http(&http), Some(seconds));
        }

        #[test]
        fn nothing_that_comes_panics(text in "\\PC{0,30}") {
            let _ = (of_the_api(&text), of_http(&text));
        }
    }

    #[test]
    fn what_is_no_moment_is_none() {
        assert_eq!(of_the_api("1970-01-01T00:00:00Z"), Some(0));
        for text in [
            "",
            "2026-11-22",
            "2026-11-22T10:00:00",
            "2026-11-22T10:00:00.5Z",
            "2026-11-22T10:00:00+01:00",
            "2026-13-22T10:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-00-22T10:00:00Z",
            "20x6-11-22T10:00:00Z",
        ] {
            assert_eq!(of_the_api(text), None, "{text:?}");
        }
    }
}
