//! The time of an event as a publisher gives it (`ts`): Unix milliseconds, and plausible. What is no such time is told
//! apart by what it looks like, so that its publisher learns what to change.

use crate::limits::{TS_AHEAD_MAX_MS, TS_MIN_MS};
use crate::source::refusal::Reason;

/// What a time is that is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeFault {
    /// Unix seconds, which are so many ms.
    Seconds(u64),
    /// Unix microseconds.
    Microseconds(u64),
    /// Unix nanoseconds.
    Nanoseconds(u64),
    /// A number with a fraction or an exponent.
    Fraction,
    /// A date in words, as ISO 8601 has it or otherwise.
    Date,
    /// No number.
    NotNumber,
    /// Before 2000, whatever its unit.
    TooEarly,
    /// More than a day ahead, whatever its unit.
    TooLate,
}

/// Reads such a time. `at_ms` is when the source took the entry in, Unix ms: what is plausible is a function of the entry
/// alone, so that all nodes come to the same.
///
/// # Errors
/// What it is in place of one.
pub fn read_time(text: &str, at_ms: u64) -> Result<u64, TimeFault> {
    let plausible = TS_MIN_MS..=at_ms.saturating_add(TS_AHEAD_MAX_MS);
    let fault = |number: u64| {
        let seconds = number.saturating_mul(1_000);
        match number {
            _ if plausible.contains(&seconds) => TimeFault::Seconds(seconds),
            _ if plausible.contains(&(number / 1_000)) => TimeFault::Microseconds(number / 1_000),
            _ if plausible.contains(&(number / 1_000_000)) => TimeFault::Nanoseconds(number / 1_000_000),
            _ if number < TS_MIN_MS => TimeFault::TooEarly,
            _ => TimeFault::TooLate,
        }
    };
    if let Ok(number) = text.parse::<u64>() {
        return if plausible.contains(&number) { Ok(number) } else { Err(fault(number)) };
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        // Below 0, or past all that fits.
        return Err(if digits.len() < text.len() { TimeFault::TooEarly } else { TimeFault::TooLate });
    }
    let is_number = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'))
        && text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'))
        && text.parse::<f64>().is_ok();
    if is_number {
        let whole = text.split_once('.').and_then(|(whole, _)| whole.parse::<u64>().ok());
        return Err(match whole.map(fault) {
            // `time.time()` of Python, say.
            Some(seconds @ TimeFault::Seconds(_)) if !text.contains(['e', 'E']) => seconds,
            _ => TimeFault::Fraction,
        });
    }
    let is_date = text.bytes().filter(u8::is_ascii_digit).count() >= 4 && text.contains(['-', '/', ':', 'T', ',']);
    Err(if is_date { TimeFault::Date } else { TimeFault::NotNumber })
}

impl TimeFault {
    /// As metrics and logs call it.
    pub fn reason(self) -> Reason {
        match self {
            Self::Seconds(_) => Reason::TsSeconds,
            Self::Microseconds(_) => Reason::TsMicroseconds,
            Self::Nanoseconds(_) => Reason::TsNanoseconds,
            Self::Fraction => Reason::TsFraction,
            Self::Date => Reason::TsDate,
            Self::NotNumber => Reason::TsNotNumber,
            Self::TooEarly => Reason::TsTooEarly,
            Self::TooLate => Reason::TsTooLate,
        }
    }

    /// What it is, behind "is".
    pub fn what(self) -> &'static str {
        match self {
            Self::Seconds(_) => "a time in seconds",
            Self::Microseconds(_) => "a time in microseconds",
            Self::Nanoseconds(_) => "a time in nanoseconds",
            Self::Fraction => "a number with a fraction or an exponent",
            Self::Date => "a date in words",
            Self::NotNumber => "no number",
            Self::TooEarly => "a time before the year 2000",
            Self::TooLate => "a time more than a day ahead",
        }
    }

    /// What its publisher is to give in its place.
    pub fn remedy(self) -> String {
        match self {
            Self::Seconds(ms) => format!("give Unix milliseconds, 1,000 for each second: {ms}"),
            Self::Microseconds(ms) => format!("give Unix milliseconds, one for each 1,000 microseconds: {ms}"),
            Self::Nanoseconds(ms) => format!("give Unix milliseconds, one for each 1,000,000 nanoseconds: {ms}"),
            Self::Fraction => "give Unix milliseconds as a whole number, rounded".into(),
            Self::Date | Self::NotNumber => "give Unix milliseconds, such as 1723161256313".into(),
            Self::TooEarly | Self::TooLate => {
                "give the event's time in Unix milliseconds, or leave it out: it is then the time at which the source took it in"
                    .into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2024-08-08.
    const AT_MS: u64 = 1_723_161_256_313;

    #[test]
    fn a_time_in_milliseconds_is_taken_and_anything_else_is_told_apart() {
        let day = TS_AHEAD_MAX_MS;
        for (text, expected) in [
            ("1723161256313", Ok(1_723_161_256_313)),
            ("946684800000", Ok(946_684_800_000)),
            (&(AT_MS + day).to_string(), Ok(AT_MS + day)),
            (&(AT_MS + day + 1).to_string(), Err(TimeFault::TooLate)),
            ("946684799999", Err(TimeFault::TooEarly)),
            ("0", Err(TimeFault::TooEarly)),
            ("5", Err(TimeFault::TooEarly)),
            ("20240808", Err(TimeFault::TooEarly)),
            ("20240808123456", Err(TimeFault::TooLate)),
            ("-5", Err(TimeFault::TooEarly)),
            ("1723161256", Err(TimeFault::Seconds(1_723_161_256_000))),
            ("1723161256.313", Err(TimeFault::Seconds(1_723_161_256_000))),
            ("1723161256313000", Err(TimeFault::Microseconds(1_723_161_256_313))),
            ("1723161256313000000", Err(TimeFault::Nanoseconds(1_723_161_256_313))),
            ("1723161256313.0", Err(TimeFault::Fraction)),
            ("1.723e12", Err(TimeFault::Fraction)),
            ("-0.5", Err(TimeFault::Fraction)),
            ("2024-08-08T00:14:16.313Z", Err(TimeFault::Date)),
            ("2024-08-08 00:14:16", Err(TimeFault::Date)),
            ("Thu, 08 Aug 2024 00:14:16 GMT", Err(TimeFault::Date)),
            ("now", Err(TimeFault::NotNumber)),
            ("NaN", Err(TimeFault::NotNumber)),
            ("inf", Err(TimeFault::NotNumber)),
            ("1723161256313 ", Err(TimeFault::NotNumber)),
            ("99999999999999999999999", Err(TimeFault::TooLate)),
            ("18446744073709551615", Err(TimeFault::TooLate)),
        ] {
            assert_eq!(read_time(text, AT_MS), expected, "{text}");
        }
        assert!(read_time("1723161256313", u64::MAX).is_ok());
    }

    proptest! {
        #[test]
        fn what_is_taken_is_plausible_whatever_is_sent(text in ".{0,30}", number in any::<u64>(), at_ms in any::<u64>()) {
            for text in [text, number.to_string()] {
                if let Ok(ms) = read_time(&text, at_ms) {
                    prop_assert!((TS_MIN_MS..=at_ms.saturating_add(TS_AHEAD_MAX_MS)).contains(&ms));
                }
            }
        }
    }
}
