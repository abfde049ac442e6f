//! Positions in a partition and ranges between them, as people write them.
//!
//! Owns: the grammar (that of rpk), and what a range means once start and end of a partition are
//! known. Does not own: asking a broker for them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The grammar, for `--help`.
pub const HELP: &str = "\
Positions and ranges (-o, as in rpk). The end of a range is exclusive.
  start             from the first record that is there (default)
  end               from the end of now: only records that come
  N, N:             from offset N
  +N                from N behind the start
  -N                from N before the end of now: the last N of each partition
  @T, @T:           from the first record at or after time T
  A:B               from A (start if left out) up to B, where B is
                    `end` (of now), an offset N, -N before the end of now, or N behind A as +N
  @T1:T2, @:T2      from T1 up to the first record at or after T2; T2 may be `end`
A range without B follows the log until Ctrl-C or -n; an offset as B is waited for.

Times
  -1h30m            that long ago
  1h30m             only as T2: that long after T1
  2026-11-20        midnight, UTC
  2026-11-20T12:00:00Z (or .250Z, +02:00; UTC without a zone)
  1795176000        9 or 10 digits: seconds since 1970; other numbers: milliseconds

  -o -10:end  the last 10     -o @-1h:end  the last hour     -o @2026-11-20:1h  one hour of a day
";

/// A place in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    Start,
    End,
    Offset(u64),
    AfterStart(u64),
    BeforeEnd(u64),
    /// The first record at or after it, milliseconds since 1970; the end where there is none.
    Time(i64),
}

/// Where a range ends; that offset is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    Point(Point),
    /// So many offsets behind where the range begins.
    Behind(u64),
}

/// See the module. Without `until` it never ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub from: Point,
    pub until: Option<Until>,
}

/// What is there in a partition: the first offset, and the one after the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct There {
    pub start: u64,
    pub end: u64,
}

impl Point {
    /// `at_time`: what the broker said to the time, if this is one.
    pub fn resolve(self, there: There, at_time: Option<u64>) -> u64 {
        match self {
            Self::Start => there.start,
            Self::End => there.end,
            Self::Offset(offset) => offset,
            Self::AfterStart(more) => there.start.saturating_add(more),
            Self::BeforeEnd(less) => there.end.saturating_sub(less).max(there.start),
            Self::Time(_) => at_time.unwrap_or(there.end),
        }
    }

    pub fn time(self) -> Option<i64> {
        match self {
            Self::Time(ms) => Some(ms),
            _ => None,
        }
    }
}

impl Range {
    /// First offset, and the one after the last. The times: as for points.
    pub fn resolve(
        &self,
        there: There,
        from_time: Option<u64>,
        until_time: Option<u64>,
    ) -> (u64, Option<u64>) {
        let from = self.from.resolve(there, from_time);
        let until = self.until.map(|until| match until {
            Until::Point(point) => point.resolve(there, until_time),
            Until::Behind(more) => from.saturating_add(more),
        });
        (from, until)
    }

    pub fn until_time(&self) -> Option<i64> {
        match self.until {
            Some(Until::Point(point)) => point.time(),
            _ => None,
        }
    }
}

/// For command lines.
pub fn range(text: &str) -> Result<Range, String> {
    parse_range(text, now_ms())
}

/// For command lines: a position and nothing behind it.
pub fn point(text: &str) -> Result<Point, String> {
    match parse_range(text, now_ms())? {
        Range { from, until: None } => Ok(from),
        _ => Err("write one position, not a range".into()),
    }
}

pub fn now_ms() -> i64 {
    ms_of(SystemTime::now())
}

fn ms_of(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn parse_range(text: &str, now: i64) -> Result<Range, String> {
    if let Some(times) = text.strip_prefix('@') {
        return parse_times(times, now);
    }
    let (from, until) = match text.split_once(':') {
        None => (text, None),
        Some((from, until)) => (from, Some(until).filter(|until| !until.is_empty())),
    };
    let from = match (from, text) {
        ("", text) if text.len() > 1 => Point::Start,
        (from, _) => parse_offset(from).ok_or_else(|| wrong(from))?,
    };
    let until = match until {
        None => None,
        Some("start") => return Err("a range cannot end at its start".into()),
        Some(until) => Some(match parse_offset(until).ok_or_else(|| wrong(until))? {
            Point::AfterStart(more) => Until::Behind(more),
            point => Until::Point(point),
        }),
    };
    match (from, until) {
        (Point::Offset(first), Some(Until::Point(Point::Offset(last)))) if last < first => {
            Err("the range ends before it begins".into())
        }
        _ => Ok(Range { from, until }),
    }
}

fn wrong(text: &str) -> String {
    format!("{text:?} is no position; write start, end, N, +N, -N, @TIME or A:B (see --help)")
}

fn parse_offset(text: &str) -> Option<Point> {
    let number = |digits: &str| {
        let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        is_plain.then(|| digits.parse().ok()).flatten()
    };
    Some(match text {
        "start" => Point::Start,
        "end" => Point::End,
        _ => match text.as_bytes().first()? {
            b'+' => Point::AfterStart(number(&text[1..])?),
            b'-' => Point::BeforeEnd(number(&text[1..])?),
            _ => Point::Offset(number(text)?),
        },
    })
}

/// What stands behind the `@`. Times hold colons themselves: the first split that makes sense wins.
fn parse_times(text: &str, now: i64) -> Result<Range, String> {
    if let Some(from) = parse_time(text, now) {
        return Ok(Range { from: Point::Time(from), until: None });
    }
    for (at, _) in text.match_indices(':') {
        let (from, until) = (&text[..at], &text[at + 1..]);
        let first = match from {
            "" => Some(None),
            from => parse_time(from, now).map(Some),
        };
        let Some(first) = first else { continue };
        let point = first.map_or(Point::Start, Point::Time);
        if until.is_empty() && first.is_some() {
            return Ok(Range { from: point, until: None });
        }
        let Some(until) = parse_end_time(until, now, from) else { continue };
        if let (Some(first), Point::Time(last)) = (first, until)
            && last < first
        {
            return Err("the range ends before it begins".into());
        }
        return Ok(Range { from: point, until: Some(Until::Point(until)) });
    }
    match parse_duration(text) {
        Some(_) => Err(format!("write @-{text} for {text} ago")),
        None => Err(format!(
            "{text:?} is no time; write @-1h, @2026-11-20T12:00:00Z, @2026-11-20, @MILLISECONDS \
             or @T1:T2"
        )),
    }
}

fn parse_end_time(text: &str, now: i64, from: &str) -> Option<Point> {
    if text == "end" {
        return Some(Point::End);
    }
    if let Some(time) = parse_time(text, now) {
        return Some(Point::Time(time));
    }
    // `@:1h` would be an hour from now: nobody means that.
    let after = parse_time(from, now)?;
    Some(Point::Time(after.saturating_add(parse_duration(text)?)))
}

fn parse_duration(text: &str) -> Option<i64> {
    // humantime allows blanks and plain zeros; a position does not.
    let is_close = text.starts_with(|c: char| c.is_ascii_digit()) && !text.contains(' ');
    let duration = humantime::parse_duration(text).ok().filter(|_| is_close && text != "0")?;
    i64::try_from(duration.as_millis()).ok()
}

/// Milliseconds since 1970.
fn parse_time(text: &str, now: i64) -> Option<i64> {
    if let Some(ago) = text.strip_prefix('-') {
        return Some(now.saturating_sub(parse_duration(ago)?).max(0));
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let number: i64 = text.parse().ok()?;
        return match text.len() {
            9 | 10 => Some(number * 1000),
            0..=14 => Some(number),
            // Micro- or nanoseconds: taken for milliseconds they would find nothing, silently.
            _ => None,
        };
    }
    parse_date(text)
}

fn parse_date(text: &str) -> Option<i64> {
    const DAY: usize = "2026-11-20".len();
    const CLOCK: usize = "+02:00".len();
    if text.len() == DAY {
        return parse_date(&format!("{text}T00:00:00Z"));
    }
    // humantime knows UTC only.
    let zone = text.len().checked_sub(CLOCK).filter(|at| *at > DAY && text.is_char_boundary(*at));
    match zone.map(|at| text.split_at(at)) {
        Some((time, zone)) if zone.starts_with(['+', '-']) => {
            Some(parse_utc(&format!("{time}Z"))?.saturating_sub(east_ms(zone)?).max(0))
        }
        _ => parse_utc(text),
    }
}

/// `+02:00` in milliseconds.
fn east_ms(zone: &str) -> Option<i64> {
    let (sign, clock) = match zone.strip_prefix('-') {
        Some(clock) => (-1, clock),
        None => (1, zone.strip_prefix('+')?),
    };
    let (hours, minutes) = clock.split_once(':')?;
    let (hours, minutes): (u8, u8) = (hours.parse().ok()?, minutes.parse().ok()?);
    let all = i64::from(hours) * 60 + i64::from(minutes);
    (hours < 24 && minutes < 60).then_some(sign * all * 60_000)
}

fn parse_utc(text: &str) -> Option<i64> {
    // humantime takes some texts with something behind them.
    const SECONDS: usize = "2026-11-20T12:00:00".len();
    let behind = text.get(SECONDS..)?;
    let behind = behind.strip_suffix('Z').unwrap_or(behind);
    let is_fraction =
        |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !behind.is_empty() && !behind.strip_prefix('.').is_some_and(is_fraction) {
        return None;
    }
    let time = humantime::parse_rfc3339_weak(text).ok()?;
    let since: Duration = time.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
}

#[cfg(test)]
mod tests;
