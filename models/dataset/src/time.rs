//! Timestamps as people and programs write them: numbers since 1970 in seconds, milliseconds, microseconds or nanoseconds,
//! and dates with or without a time and a zone.

use std::str::FromStr;

/// Numbers below this are seconds (year 5138) …
const SECONDS_BELOW: u64 = 100_000_000_000;
/// … below this milliseconds (1973 to 5138) …
const MILLISECONDS_BELOW: u64 = 100_000_000_000_000;
/// … below this microseconds (1973 to 5138), and from it on nanoseconds.
const MICROSECONDS_BELOW: u64 = 100_000_000_000_000_000;
/// A number in exponent form with fewer digits than this was rounded by a spreadsheet.
const DIGITS_MIN: usize = 8;

/// What times without a zone are read as: an offset from UTC such as `+02:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UtcOffset {
    seconds: i64,
}

impl FromStr for UtcOffset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seconds = offset_seconds(text.trim());
        let seconds = seconds
            .ok_or_else(|| format!("{text:?} is not an offset from UTC such as +02:00, -0530 or Z"))?;
        Ok(Self { seconds })
    }
}

impl std::fmt::Display for UtcOffset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (sign, minutes) = (if self.seconds < 0 { '-' } else { '+' }, self.seconds.abs() / 60);
        match self.seconds {
            0 => f.write_str("UTC"),
            _ => write!(f, "UTC{sign}{:02}:{:02}", minutes / 60, minutes % 60),
        }
    }
}

/// A moment that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Milliseconds since 1970 UTC.
    pub(crate) ms: u64,
    /// True: it was a date or time without a zone, and was read in the offset given.
    pub(crate) zoneless: bool,
}

/// Reads a timestamp; `offset` holds for dates and times without a zone.
pub(crate) fn parse(text: &str, offset: UtcOffset) -> Result<Moment, String> {
    let text = text.trim();
    let moment = match number_ms(text) {
        Some(number) => number.map(|ms| Moment { ms, zoneless: false }),
        None => calendar(text, offset)
            .ok_or("neither a number since 1970 nor a date such as 1998-04-01T12:00:00Z"),
    };
    moment.map_err(|reason| format!("timestamp {text:?}: {reason}"))
}

/// Milliseconds of a number since 1970; None: it is no number.
fn number_ms(text: &str) -> Option<Result<u64, &'static str>> {
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if let Some((mantissa, exponent)) = text.split_once(['e', 'E']) {
        return exponential_ms(mantissa, exponent);
    }
    let (sign, number) = text.strip_prefix('-').map_or(("", text), |number| ("-", number));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    if !sign.is_empty() {
        return Some(Err("before 1970"));
    }
    let Ok(whole) = whole.parse::<u64>() else { return Some(Err("too large for nanoseconds since 1970")) };
    Some(Ok(scaled_ms(whole, millis(fraction))))
}

/// Whole units and the thousandths of one.
fn scaled_ms(whole: u64, thousandths: u64) -> u64 {
    match whole {
        ..SECONDS_BELOW => whole * 1000 + thousandths,
        SECONDS_BELOW..MILLISECONDS_BELOW => whole,
        MILLISECONDS_BELOW..MICROSECONDS_BELOW => whole / 1000,
        MICROSECONDS_BELOW.. => whole / 1_000_000,
    }
}

/// `1.7040672E9`, as Java and Python write floats; a spreadsheet's `1.70407E+12` has lost its last digits.
fn exponential_ms(mantissa: &str, exponent: &str) -> Option<Result<u64, &'static str>> {
    let number: f64 = format!("{mantissa}e{exponent}").parse().ok()?;
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count();
    if exponent.starts_with('+') && digits < DIGITS_MIN {
        return Some(Err("a spreadsheet has rounded it; format the column as a number without decimals"));
    }
    #[expect(clippy::cast_precision_loss, reason = "a bound")]
    if !(0.0..u64::MAX as f64).contains(&number) {
        return Some(Err("not within nanoseconds since 1970"));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "in range by the check above"
    )]
    Some(Ok(scaled_ms(number as u64, (number.fract() * 1000.0) as u64)))
}

/// The first three digits of a decimal fraction.
fn millis(fraction: &str) -> u64 {
    let mut digits = fraction.bytes().map(|b| u64::from(b - b'0'));
    (0..3).fold(0, |ms, _| ms * 10 + digits.next().unwrap_or(0))
}

/// ISO 8601 and RFC 3339 section 5.6, and what pandas, Spark, DuckDB, BigQuery, Java and Shopify write: the date alone, `T`
/// or a space before the time, seconds and their fraction optional, the zone as `Z`, `UTC`, `+01:00`, `+0100` or `+01`, a
/// zone's name in brackets after it. Leap seconds are read as the second after.
fn calendar(text: &str, offset: UtcOffset) -> Option<Moment> {
    let (date, rest) = text.split_at_checked(10)?;
    let separator = if date.contains('/') { b'/' } else { b'-' };
    let [year, month, day] = numbers(date, separator, [4, 2, 2])?;
    if !(1..=12).contains(&month) || !(1..=days_in(year, month)).contains(&day) {
        return None;
    }
    let (clock_ms, zone) = match rest.strip_prefix(['T', 't', ' ']) {
        Some(time) => clock(time)?,
        None if rest.is_empty() => (0, None),
        None => return None,
    };
    let seconds = days_since_1970(year, month, day) * 86_400 - zone.unwrap_or(offset.seconds);
    let ms = u64::try_from(seconds * 1000 + clock_ms).ok()?;
    Some(Moment { ms, zoneless: zone.is_none() })
}

/// Milliseconds of the day, and the zone's offset in seconds if there is one.
fn clock(text: &str) -> Option<(i64, Option<i64>)> {
    let end = text.bytes().position(|b| !b.is_ascii_digit() && b != b':').unwrap_or(text.len());
    let (clock, mut rest) = text.split_at(end);
    let [hour, minute, second] = match clock.len() {
        5 => numbers(clock, b':', [2, 2]).map(|[hour, minute]| [hour, minute, 0])?,
        _ => numbers(clock, b':', [2, 2, 2])?,
    };
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut ms = 0;
    if let Some(fraction) = rest.strip_prefix(['.', ',']).filter(|_| clock.len() == 8) {
        let end = fraction.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(fraction.len());
        if end == 0 {
            return None;
        }
        ms = i64::try_from(millis(&fraction[..end])).ok()?;
        rest = &fraction[end..];
    }
    let zone = match rest.trim_start() {
        "" => None,
        zone => Some(offset_seconds(zone)?),
    };
    Some(((hour * 3600 + minute * 60 + second) * 1000 + ms, zone))
}

fn offset_seconds(zone: &str) -> Option<i64> {
    let zone = zone.split_once('[').map_or(zone, |(zone, name)| if name.ends_with(']') { zone } else { "" });
    if matches!(zone, "Z" | "z" | "UTC" | "GMT") {
        return Some(0);
    }
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let digits = zone.strip_prefix(['+', '-'])?;
    let [hour, minute] = match digits.len() {
        2 => numbers(digits, b':', [2]).map(|[hour]| [hour, 0])?,
        4 if digits.is_char_boundary(2) => {
            numbers(&format!("{}:{}", &digits[..2], &digits[2..]), b':', [2, 2])?
        }
        _ => numbers(digits, b':', [2, 2])?,
    };
    (hour <= 23 && minute <= 59).then_some(sign * (hour * 3600 + minute * 60))
}

/// `N` numbers of exactly so many digits, parted by `separator`.
fn numbers<const N: usize>(text: &str, separator: u8, digits: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(char::from(separator));
    let mut out = [0; N];
    for (slot, len) in out.iter_mut().zip(digits) {
        let part = parts.next().filter(|p| p.len() == len && p.bytes().all(|b| b.is_ascii_digit()))?;
        *slot = part.parse().ok()?;
    }
    parts.next().is_none().then_some(out)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year - era * 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::{Moment, UtcOffset, parse};

    #[test]
    fn reads_every_form() {
        for (text, ms) in [
            ("881250949", 881_250_949_000),
            ("881250949.5", 881_250_949_500),
            ("881250949123", 881_250_949_123),
            ("881250949123.0", 881_250_949_123),
            ("881250949123456", 881_250_949_123),
            ("881250949123456789", 881_250_949_123),
            ("8.81250949E8", 881_250_949_000),
            ("1.704067200123e12", 1_704_067_200_123),
            ("1997-12-04T15:55:49Z", 881_250_949_000),
            ("1997-12-04 15:55:49.120Z", 881_250_949_120),
            ("1997-12-04T15:55:49.120345678+00:00", 881_250_949_120),
            ("1997-12-04T17:25:49+01:30", 881_250_949_000),
            ("1997-12-04 17:25:49 +0130", 881_250_949_000),
            ("1997-12-04 10:55:49 -0500", 881_250_949_000),
            ("1997-12-04 16:55:49+01", 881_250_949_000),
            ("1997-12-04 15:55:49.123456 UTC", 881_250_949_123),
            ("1997-12-04T16:55:49+01:00[Europe/Berlin]", 881_250_949_000),
            ("2000-02-29T00:00:00Z", 951_782_400_000),
            ("1970-01-01T00:00:00Z", 0),
        ] {
            let moment = Moment { ms, zoneless: false };
            assert_eq!(parse(text, "+09:00".parse().unwrap()), Ok(moment), "{text}");
        }
    }

    #[test]
    fn without_a_zone_the_offset_holds() {
        for text in ["1997-12-04T15:55:49", "1997-12-04 15:55:49.000000000", "1997/12/04 15:55:49"] {
            let read = |offset: &str| parse(text, offset.parse().unwrap()).unwrap();
            assert_eq!(read("Z"), Moment { ms: 881_250_949_000, zoneless: true }, "{text}");
            assert_eq!(read("+02:00").ms, 881_250_949_000 - 7_200_000, "{text}");
            assert_eq!(read("-0530").ms, 881_250_949_000 + 19_800_000, "{text}");
        }
        let day = Moment { ms: 881_193_600_000, zoneless: true };
        assert_eq!(parse("1997-12-04", UtcOffset::default()), Ok(day));
        assert_eq!(parse("1997-12-04 00:00", UtcOffset::default()), Ok(day));
        assert_eq!(UtcOffset::default().to_string(), "UTC");
        assert_eq!("-05:30".parse::<UtcOffset>().unwrap().to_string(), "UTC-05:30");
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            "yesterday",
            "-5",
            "99999999999999999999999",
            "1999-02-29T00:00:00Z",
            "1999-13-01T00:00:00Z",
            "1999-01-01T24:00:00Z",
            "01/02/1999",
            "1960-01-01T00:00:00Z",
            "1999-01-01T00:00:00+1:00",
            "1999-01-01T00:00:00.Z",
            "1999-01-01T00:00Q",
            "1999-01-01X",
            "19é9-01-01T00:00:00Z",
            "881250949.5é",
            "1.70407E+12",
            "1e99",
            "inf",
            "NaN",
            "+",
        ] {
            assert!(parse(text, UtcOffset::default()).is_err(), "{text}");
        }
    }
}
