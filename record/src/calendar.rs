//! The proleptic Gregorian calendar and the text of dates and times (ISO 8601), over the whole range of the values.
//!
//! Own arithmetic, because a [`Date`] spans twelve million years and an [`Instant`] far more, and nothing may be lost.
//! Days and civil dates are turned into each other as in Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".

use std::fmt::Write;

use crate::value::{Date, Instant, Time};

const NANOS_PER_SECOND: u64 = 1_000_000_000;
const SECONDS_PER_DAY: i128 = 86_400;

/// Digits of the longest year that is read: seconds of 64 bits reach 292 billion years.
const YEAR_DIGITS_MAX: usize = 12;

/// Appends `YYYY-MM-DD`.
pub(crate) fn write_date(out: &mut String, date: Date) {
    write_days(out, date.0.into());
}

/// Appends `HH:MM:SS[.fff]`.
pub(crate) fn write_time(out: &mut String, time: Time) {
    let seconds = time.0 / NANOS_PER_SECOND;
    write_clock(out, seconds, (time.0 % NANOS_PER_SECOND) as u32);
}

/// Appends `YYYY-MM-DDTHH:MM:SS[.fff]`.
pub(crate) fn write_date_time(out: &mut String, date: Date, time: Time) {
    write_date(out, date);
    out.push('T');
    write_time(out, time);
}

/// Appends `YYYY-MM-DDTHH:MM:SS[.fff]` in the instant's offset, and the offset: `Z`, `+02:00` or `+01:02:03`.
pub(crate) fn write_instant(out: &mut String, instant: Instant) {
    let local = i128::from(instant.seconds) + i128::from(instant.offset_seconds);
    // A local time of 64-bit seconds and a 32-bit offset is at most 1.1e14 days away.
    write_days(out, local.div_euclid(SECONDS_PER_DAY) as i64);
    out.push('T');
    write_clock(out, local.rem_euclid(SECONDS_PER_DAY) as u64, instant.nanos);
    if instant.offset_seconds == 0 {
        out.push('Z');
        return;
    }
    out.push(if instant.offset_seconds < 0 { '-' } else { '+' });
    let offset = instant.offset_seconds.unsigned_abs();
    append(out, format_args!("{:02}:{:02}", offset / 3600, offset / 60 % 60));
    if !offset.is_multiple_of(60) {
        append(out, format_args!(":{:02}", offset % 60));
    }
}

/// Reads what [`write_date`] wrote.
pub(crate) fn parse_date(text: &str) -> Option<Date> {
    let mut reader = Reader { rest: text.as_bytes() };
    let days = reader.days()?;
    reader.end()?;
    i32::try_from(days).ok().map(Date)
}

/// Reads what [`write_time`] wrote.
pub(crate) fn parse_time(text: &str) -> Option<Time> {
    let mut reader = Reader { rest: text.as_bytes() };
    let time = reader.time()?;
    reader.end()?;
    Some(time)
}

/// Reads what [`write_date_time`] wrote; a space may stand for the `T`.
pub(crate) fn parse_date_time(text: &str) -> Option<(Date, Time)> {
    let mut reader = Reader { rest: text.as_bytes() };
    let days = reader.days()?;
    reader.between()?;
    let time = reader.time()?;
    reader.end()?;
    Some((Date(i32::try_from(days).ok()?), time))
}

/// Reads what [`write_instant`] wrote; a space may stand for the `T`, `z` or `+00:00` for the `Z`.
pub(crate) fn parse_instant(text: &str) -> Option<Instant> {
    let mut reader = Reader { rest: text.as_bytes() };
    let days = reader.days()?;
    reader.between()?;
    let time = reader.time()?;
    let offset_seconds = reader.offset()?;
    reader.end()?;
    let local = i128::from(days) * SECONDS_PER_DAY + i128::from(time.0 / NANOS_PER_SECOND);
    let seconds = i64::try_from(local - i128::from(offset_seconds)).ok()?;
    Some(Instant { seconds, nanos: (time.0 % NANOS_PER_SECOND) as u32, offset_seconds })
}

/// Year, month (1 to 12) and day (1 to 31) of a day counted from 1970-01-01.
fn civil(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as u32, day as u32)
}

/// The day of a civil date, counted from 1970-01-01; `None` for a date that no calendar has.
fn days_of(year: i64, month: u32, day: u32) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + u32::from(leap),
        _ => return None,
    };
    if day == 0 || day > last {
        return None;
    }
    let shifted_year = year - i64::from(month <= 2);
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let month_from_march = i64::from(if month > 2 { month - 3 } else { month + 9 });
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

fn write_days(out: &mut String, days: i64) {
    let (year, month, day) = civil(days);
    match year {
        0..=9999 => append(out, format_args!("{year:04}")),
        // The sign is counted in the width.
        _ => append(out, format_args!("{year:+05}")),
    }
    append(out, format_args!("-{month:02}-{day:02}"));
}

fn write_clock(out: &mut String, seconds: u64, nanos: u32) {
    append(out, format_args!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60));
    if nanos != 0 {
        let fraction = format!("{nanos:09}");
        out.push('.');
        out.push_str(fraction.trim_end_matches('0'));
    }
}

fn append(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string does not fail");
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn end(&self) -> Option<()> {
        self.rest.is_empty().then_some(())
    }

    fn take_if(&mut self, byte: u8) -> bool {
        let there = self.rest.first() == Some(&byte);
        if there {
            self.rest = &self.rest[1..];
        }
        there
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.take_if(byte).then_some(())
    }

    fn between(&mut self) -> Option<()> {
        (self.take_if(b'T') || self.take_if(b' ')).then_some(())
    }

    /// All digits that come, `min` to `max` of them; beyond `min` without leading zeros.
    fn digits(&mut self, min: usize, max: usize) -> Option<u64> {
        let count = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count < min || count > max || count > min && self.rest[0] == b'0' {
            return None;
        }
        let (digits, rest) = self.rest.split_at(count);
        self.rest = rest;
        digits.iter().try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
    }

    fn days(&mut self) -> Option<i64> {
        let year = if self.take_if(b'-') {
            -(self.digits(4, YEAR_DIGITS_MAX)? as i64)
        } else if self.take_if(b'+') {
            self.digits(4, YEAR_DIGITS_MAX)? as i64
        } else {
            self.digits(4, 4)? as i64
        };
        self.expect(b'-')?;
        let month = self.digits(2, 2)? as u32;
        self.expect(b'-')?;
        let day = self.digits(2, 2)? as u32;
        days_of(year, month, day)
    }

    /// Hours may have more digits than two, as a time value may be longer than a day; seconds may be missing.
    fn time(&mut self) -> Option<Time> {
        let hours = self.digits(2, 8)?;
        self.expect(b':')?;
        let minutes = self.digits(2, 2)?;
        let seconds_given = self.take_if(b':');
        let seconds = if seconds_given { self.digits(2, 2)? } else { 0 };
        // Second 60 is a leap second; anywhere but at a day's end it would be read as another time.
        if minutes > 59 || seconds > 60 || seconds == 60 && (hours, minutes) != (23, 59) {
            return None;
        }
        let mut nanos = 0;
        if seconds_given && self.take_if(b'.') {
            let count = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if count == 0 || count > 9 {
                return None;
            }
            for i in 0..9 {
                nanos = nanos * 10 + if i < count { u64::from(self.rest[i] - b'0') } else { 0 };
            }
            self.rest = &self.rest[count..];
        }
        let total = (hours * 60 + minutes) * 60 + seconds;
        total.checked_mul(NANOS_PER_SECOND)?.checked_add(nanos).map(Time)
    }

    fn offset(&mut self) -> Option<i32> {
        if self.take_if(b'Z') || self.take_if(b'z') {
            return Some(0);
        }
        let sign = if self.take_if(b'-') {
            -1
        } else {
            self.expect(b'+')?;
            1
        };
        let hours = self.digits(2, 6)? as i64;
        self.expect(b':')?;
        let minutes = self.digits(2, 2)? as i64;
        let seconds = if self.take_if(b':') { self.digits(2, 2)? as i64 } else { 0 };
        if minutes > 59 || seconds > 59 {
            return None;
        }
        i32::try_from(sign * ((hours * 60 + minutes) * 60 + seconds)).ok()
    }
}
