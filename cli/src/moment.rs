//! Points in a source's history: by a revision's number or by time.

use deltabus_bus::{Clock, Step, SystemClock, Timeline};
use deltabus_record::schema::SourceName;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::error::Error;
use crate::output::time_text;

/// Which state of a source is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The revision of this number.
    Revision(u64),
    /// The one that the source was at then, in milliseconds since 1970-01-01T00:00:00Z.
    Time {
        /// The last millisecond that counts.
        millis: u64,
        /// As it was written.
        given: String,
    },
}

/// Reads `12`, `2026-10-01T12:30:00Z`, `2026-10-01 12:30` or `2026-10-01`. Without an offset times are local; a date is its
/// first moment; a time without fractions counts with its whole second, as `deltabus log` shows it.
pub(crate) fn parse(text: &str) -> Result<Moment, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map(Moment::Revision).map_err(|_| format!("`{text}` is no revision's number"));
    }
    let local = |time: DateTime| time.to_zoned(TimeZone::system()).map(|time| time.timestamp());
    let zoned = || text.parse::<Zoned>().map(|time| time.timestamp());
    let time = text.parse::<Timestamp>().or_else(|_| zoned()).or_else(|_| text.parse::<DateTime>().and_then(local));
    let time = time.map_err(|_| {
        format!("`{text}` is neither a revision's number nor a time; write 12, 2026-10-01T12:30:00Z, 2026-10-01 12:30 or 2026-10-01")
    })?;
    let whole_second = if time.subsec_nanosecond() == 0 { 999 } else { 0 };
    let millis = u64::try_from(time.as_millisecond()).unwrap_or_default() + whole_second;
    Ok(Moment::Time { millis, given: text.to_owned() })
}

/// Reads a time as [`parse`] does: its first millisecond.
pub(crate) fn parse_time(text: &str) -> Result<u64, String> {
    match parse(text)? {
        Moment::Time { millis, .. } => Ok(millis / 1000 * 1000),
        Moment::Revision(_) => Err(format!("`{text}` is no time")),
    }
}

/// Now, in milliseconds since 1970-01-01T00:00:00Z.
pub(crate) fn now_millis() -> u64 {
    SystemClock.now_millis()
}

impl Moment {
    /// The revision that is meant, if it can still be had.
    pub(crate) fn find<'a>(
        &self,
        timeline: &'a Timeline,
        source: &SourceName,
        now_millis: u64,
    ) -> Result<&'a Step, Error> {
        let (Some(oldest), Some(newest)) = (timeline.steps().first(), timeline.steps().last()) else {
            return Err(Error::Trouble(format!("`{source}` has no revision yet")));
        };
        let retained = || {
            let since = match oldest.time_millis {
                Some(millis) => format!("since {}", time_text(millis)),
                None => match timeline.steps().get(1).and_then(|next| next.time_millis) {
                    Some(millis) => format!("until {}", time_text(millis)),
                    None => "the only one".into(),
                },
            };
            format!("the oldest retained is revision {} ({since})", oldest.revision.number)
        };
        match self {
            Moment::Revision(number) => timeline.find(*number).ok_or_else(|| {
                Error::Trouble(if *number > newest.revision.number {
                    format!("`{source}` has no revision {number} yet; the newest is {}", newest.revision.number)
                } else {
                    format!("revision {number} of `{source}` is no longer retained: {}", retained())
                })
            }),
            Moment::Time { millis, given } if *millis > now_millis.max(newest.time_millis.unwrap_or(0)) + 999 => Err(
                Error::Trouble(format!("{given} is yet to come; `{source}` is at revision {}", newest.revision.number)),
            ),
            Moment::Time { millis, given } => timeline.as_of(*millis).ok_or_else(|| {
                Error::Trouble(format!("what `{source}` was at {given} is not retained: {}", retained()))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(text: &str) -> u64 {
        match parse(text) {
            Ok(Moment::Time { millis, .. }) => millis,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn numbers_are_revisions_and_times_are_times() {
        assert_eq!(parse("12"), Ok(Moment::Revision(12)));
        assert_eq!(millis("1970-01-02T00:00:00.5Z"), 86_400_500);
        assert_eq!(millis("1970-01-02T01:00:00.25+01:00"), 86_400_250);
        assert_eq!(millis("1970-01-02T02:00:00.25+02:00[+02:00]"), 86_400_250);
    }

    #[test]
    fn a_time_without_fractions_counts_with_its_second() {
        assert_eq!(millis("1970-01-02T00:00:01Z"), 86_401_999);
    }

    #[test]
    fn without_an_offset_times_are_local_and_dates_begin_at_midnight() {
        let midnight = "2026-10-01T00:00:00".parse::<DateTime>().unwrap().to_zoned(TimeZone::system()).unwrap();
        let midnight = midnight.timestamp().as_millisecond() as u64;
        for same in ["2026-10-01", "2026-10-01T00:00", "2026-10-01 00:00:00"] {
            assert_eq!(millis(same), midnight + 999, "{same}");
        }
    }

    #[test]
    fn anything_else_says_what_to_write() {
        for wrong in ["", "yesterday", "-1", "2026-13-01", "2026-02-30", "12:30", "99999999999999999999999"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("soon").unwrap_err().contains("2026-10-01"));
    }
}
