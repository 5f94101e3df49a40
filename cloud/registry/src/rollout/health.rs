//! Whether a bundle on trial answers worse than the one before it.

use proto::control::AnswerCounts;

/// A model that works fails for nobody. More than one answer in so many is too much, whatever was before.
const FAILED_ONE_IN: u64 = 100;
/// So few failures may have another cause.
const FAILED_MIN: u64 = 10;
/// Answers, before and on trial, from which shares and means say something.
pub(super) const ANSWERS_MIN: u64 = 100;
/// How much more often answers may be without a model, as a part of all: four standard deviations at [`ANSWERS_MIN`].
const FELL_BACK_MORE_MAX: f64 = 0.2;
/// How many times slower answers may be in the mean …
const SLOWER_TIMES_MAX: u64 = 3;
/// … if they take longer than this, in microseconds.
const SLOW_US: u64 = 20_000;

/// Says what is worse, if something is. With a new catalog, visitors have no past that its models know: how many are answered without
/// one is not compared.
pub(super) fn worse(before: AnswerCounts, during: AnswerCounts, new_catalog: bool) -> Option<String> {
    if during.failed >= FAILED_MIN {
        return failing(during);
    }
    if before.answers < ANSWERS_MIN || during.answers < ANSWERS_MIN {
        return None;
    }
    let (was, is) = (before.fell_back_share(), during.fell_back_share());
    if !new_catalog && is - was > FELL_BACK_MORE_MAX {
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

/// Says so where a model fails for too many, however few they are: at the end of a trial no more will come.
pub(super) fn failing(during: AnswerCounts) -> Option<String> {
    let too_many = during.failed.saturating_mul(FAILED_ONE_IN) > during.answers;
    too_many.then(|| format!("a model failed for {} of {} answers", during.failed, during.answers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(answers: u64, failed: u64, fell_back: u64, mean_us: u64) -> AnswerCounts {
        AnswerCounts { answers, failed, fell_back, took_us: answers * mean_us }
    }

    fn judged(before: AnswerCounts, during: AnswerCounts) -> Option<String> {
        worse(before, during, false)
    }

    #[test]
    fn what_is_as_before_is_well() {
        let before = counts(10_000, 0, 4_000, 2_000);
        assert_eq!(judged(before, before), None);
        assert_eq!(judged(before, counts(100, 1, 55, 5_900)), None, "chance, and a cold cache");
        assert_eq!(judged(before, AnswerCounts::default()), None, "nobody asked");
        assert_eq!(
            judged(AnswerCounts::default(), counts(500, 0, 500, 90_000)),
            None,
            "there is no measure yet"
        );
    }

    #[test]
    fn failures_fallbacks_and_slowness_are_worse() {
        let before = counts(10_000, 0, 4_000, 2_000);
        let says = |during| judged(before, during).unwrap_or_default();
        assert!(says(counts(200, 10, 80, 2_000)).contains("failed for 10 of 200"));
        assert!(says(counts(12, 10, 10, 2_000)).contains("failed"), "few answers, most of them failed");
        assert_eq!(says(counts(3, 3, 3, 2_000)), "", "three answers are no proof");
        assert!(failing(counts(3, 3, 3, 2_000)).is_some(), "but at the end they count");
        assert_eq!(failing(counts(300, 3, 80, 2_000)), None);
        assert!(
            judged(AnswerCounts::default(), counts(200, 10, 80, 2_000)).is_some(),
            "without a measure too"
        );
        assert_eq!(says(counts(2_000, 10, 800, 2_000)), "", "below one in a hundred");
        assert!(says(counts(200, 0, 130, 2_000)).contains("65 % of 200 answers were without a model, 40 %"));
        assert!(says(counts(200, 0, 80, 21_000)).contains("21000 µs"));
        assert_eq!(judged(counts(200, 0, 80, 8_000), counts(200, 0, 80, 21_000)), None, "not three times");
    }

    #[test]
    fn with_a_new_catalog_nobodys_past_is_known() {
        let before = counts(10_000, 0, 1_000, 2_000);
        assert!(worse(before, counts(5_000, 0, 4_900, 2_000), false).is_some());
        assert_eq!(worse(before, counts(5_000, 0, 4_900, 2_000), true), None);
        assert!(worse(before, counts(5_000, 60, 4_900, 2_000), true).is_some(), "but failures are");
        assert!(worse(before, counts(5_000, 0, 4_900, 30_000), true).is_some(), "and so is slowness");
    }
}
