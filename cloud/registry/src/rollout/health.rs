//! Whether a bundle on trial answers worse than the one before it.

use proto::control::AnswerCounts;

/// A model that works fails for nobody. More than one answer in so many is too much, whatever was before.
const FAILED_ONE_IN: u64 = 100;
/// So few failures may have another cause.
const FAILED_MIN: u64 = 3;
/// Answers, before and on trial, from which shares and means say something.
const ANSWERS_MIN: u64 = 100;
/// How much more often answers may be without a model, as a part of all: four standard deviations at [`ANSWERS_MIN`].
const FELL_BACK_MORE_MAX: f64 = 0.2;
/// How many times slower answers may be in the mean …
const SLOWER_TIMES_MAX: u64 = 3;
/// … if they take longer than this, in microseconds.
const SLOW_US: u64 = 20_000;

/// Says what is worse, if something is.
pub(super) fn worse(before: AnswerCounts, during: AnswerCounts) -> Option<String> {
    if during.failed >= FAILED_MIN && during.failed.saturating_mul(FAILED_ONE_IN) > during.answers {
        return Some(format!("a model failed for {} of {} answers", during.failed, during.answers));
    }
    if before.answers < ANSWERS_MIN || during.answers < ANSWERS_MIN {
        return None;
    }
    let (was, is) = (before.fell_back_share(), during.fell_back_share());
    if is - was > FELL_BACK_MORE_MAX {
        return Some(format!(
            "{:.0} % of {} answers were without a model, {:.0} % before",
            is * 100.0,
            during.answers,
            was * 100.0
        ));
    }
    let (was, is) = (before.mean_us(), during.mean_us());
    if is > SLOW_US && is > was.saturating_mul(SLOWER_TIMES_MAX) {
        return Some(format!("an answer took {is} µs in the mean, {was} µs before"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(answers: u64, failed: u64, fell_back: u64, mean_us: u64) -> AnswerCounts {
        AnswerCounts { answers, failed, fell_back, took_us: answers * mean_us }
    }

    #[test]
    fn what_is_as_before_is_well() {
        let before = counts(10_000, 0, 4_000, 2_000);
        assert_eq!(worse(before, before), None);
        assert_eq!(worse(before, counts(100, 1, 55, 5_900)), None, "chance, and a cold cache");
        assert_eq!(worse(before, AnswerCounts::default()), None, "nobody asked");
        assert_eq!(
            worse(AnswerCounts::default(), counts(500, 0, 500, 90_000)),
            None,
            "there is no measure yet"
        );
    }

    #[test]
    fn failures_fallbacks_and_slowness_are_worse() {
        let before = counts(10_000, 0, 4_000, 2_000);
        let says = |during| worse(before, during).unwrap_or_default();
        assert!(says(counts(200, 3, 80, 2_000)).contains("failed for 3 of 200"));
        assert!(says(counts(4, 3, 3, 2_000)).contains("failed"), "few answers, most of them failed");
        assert!(worse(AnswerCounts::default(), counts(200, 3, 80, 2_000)).is_some(), "without a measure too");
        assert_eq!(says(counts(400, 3, 160, 2_000)), "", "below one in a hundred");
        assert!(says(counts(200, 0, 130, 2_000)).contains("65 % of 200 answers were without a model, 40 %"));
        assert!(says(counts(200, 0, 80, 21_000)).contains("21000 µs"));
        assert_eq!(worse(counts(200, 0, 80, 8_000), counts(200, 0, 80, 21_000)), None, "not three times");
    }
}
