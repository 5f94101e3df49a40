//! Timestamps as people write them: seconds, milliseconds, or RFC 3339.

/// Numbers below this are seconds (year 5138), from it on milliseconds (1973).
const SECONDS_BELOW: u64 = 100_000_000_000;
/// Numbers from this on are neither (year 5138 in milliseconds): microseconds, most likely.
const MILLISECONDS_BELOW: u64 = 100_000_000_000_000;

/// Milliseconds since 1970 UTC of a text with seconds (maybe with a fraction), milliseconds or an RFC 3339 time.
pub(crate) fn parse_ms(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        return match text.parse::<u64>() {
            Ok(seconds) if seconds < SECONDS_BELOW => Ok(seconds * 1000),
            Ok(ms) if ms < MILLISECONDS_BELOW => Ok(ms),
            _ => Err(format!("timestamp {text} is neither seconds nor milliseconds since 1970")),
        };
    }
    if let Some((whole, fraction)) = text.split_once('.')
        && let (Ok(seconds), true) = (whole.parse::<u64>(), fraction.bytes().all(|b| b.is_ascii_digit()))
        && seconds < SECONDS_BELOW
    {
        return Ok(seconds * 1000 + millis(fraction));
    }
    rfc3339_ms(text).ok_or_else(|| {
        format!("timestamp {text:?} is neither seconds, milliseconds nor RFC 3339 (1998-04-01T12:00:00Z)")
    })
}

/// The first three digits of a decimal fraction.
fn millis(fraction: &str) -> u64 {
    let mut digits = fraction.bytes().map(|b| u64::from(b - b'0'));
    (0..3).fold(0, |ms, _| ms * 10 + digits.next().unwrap_or(0))
}

/// RFC 3339 section 5.6, `T` or a space between date and time; leap seconds are read as the second after.
fn rfc3339_ms(text: &str) -> Option<u64> {
    let (date, rest) = text.split_at_checked(10)?;
    let time = rest.strip_prefix(['T', 't', ' '])?;
    let (clock, rest) = time.split_at_checked(8)?;
    let [year, month, day] = numbers(date, b'-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(clock, b':', [2, 2, 2])?;
    let (ms, zone) = match rest.strip_prefix('.') {
        Some(rest) => {
            let end = rest.bytes().position(|b| !b.is_ascii_digit())?;
            (millis(&rest[..end]), &rest[end..])
        }
        None => (0, rest),
    };
    if !(1..=12).contains(&month) || !(1..=days_in(year, month)).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    let shifted = seconds - offset_seconds(zone)?;
    u64::try_from(shifted).ok().map(|s| s * 1000 + ms)
}

fn offset_seconds(zone: &str) -> Option<i64> {
    if zone == "Z" || zone == "z" {
        return Some(0);
    }
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let [hour, minute] = numbers(zone.strip_prefix(['+', '-'])?, b':', [2, 2])?;
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
    use super::parse_ms;

    #[test]
    fn reads_every_form() {
        for (text, ms) in [
            ("881250949", 881_250_949_000),
            ("881250949.5", 881_250_949_500),
            ("881250949123", 881_250_949_123),
            ("1997-12-04T15:55:49Z", 881_250_949_000),
            ("1997-12-04 15:55:49.120Z", 881_250_949_120),
            ("1997-12-04T17:25:49+01:30", 881_250_949_000),
            ("2000-02-29T00:00:00Z", 951_782_400_000),
            ("1970-01-01T00:00:00Z", 0),
        ] {
            assert_eq!(parse_ms(text), Ok(ms), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            "yesterday",
            "-5",
            "881250949123456",
            "99999999999999999999999",
            "1999-02-29T00:00:00Z",
            "1999-13-01T00:00:00Z",
            "1999-01-01T24:00:00Z",
            "1999-01-01T00:00:00",
            "1999-01-01",
            "1960-01-01T00:00:00Z",
            "1999-01-01T00:00:00+1:00",
            "19é9-01-01T00:00:00Z",
            "881250949.5é",
        ] {
            assert!(parse_ms(text).is_err(), "{text}");
        }
    }
}
