use super::*;

const NOW: i64 = 1_795_176_000_000;
const HOUR: i64 = 3_600_000;

fn parse(text: &str) -> Range {
    parse_range(text, NOW).unwrap_or_else(|why| panic!("{text}: {why}"))
}

fn open(from: Point) -> Range {
    Range { from, until: None }
}

fn closed(from: Point, until: Point) -> Range {
    Range { from, until: Some(Until::Point(until)) }
}

#[test]
fn offsets_are_as_in_rpk() {
    use Point::{AfterStart, BeforeEnd, End, Offset, Start};
    assert_eq!([parse("start"), parse("end")], [open(Start), open(End)]);
    assert_eq!([parse("17"), parse("17:")], [open(Offset(17)); 2]);
    assert_eq!([parse("+2"), parse("-3")], [open(AfterStart(2)), open(BeforeEnd(3))]);
    assert_eq!([parse(":end"), parse(":7")], [closed(Start, End), closed(Start, Offset(7))]);
    assert_eq!(parse("3:9"), closed(Offset(3), Offset(9)));
    assert_eq!(parse("-5:end"), closed(BeforeEnd(5), End));
    assert_eq!(parse("start:-5"), closed(Start, BeforeEnd(5)));
    let behind = Range { from: Offset(3), until: Some(Until::Behind(4)) };
    assert_eq!(parse("3:+4"), behind);
}

#[test]
fn times_are_dates_numbers_or_durations() {
    let from = |text: &str| match parse(text) {
        Range { from: Point::Time(ms), until: None } => ms,
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(from("@-1h"), NOW - HOUR);
    assert_eq!(from("@-1h:"), NOW - HOUR);
    assert_eq!(from("@1700"), 1700);
    assert_eq!(from("@1795176000"), NOW);
    assert_eq!(from("@1795176000123"), NOW + 123);
    assert_eq!(from("@1970-01-02"), 24 * HOUR);
    assert_eq!(from("@1970-01-01T00:00:02Z"), 2000);
    assert_eq!(from("@1970-01-01T00:00:02.250Z"), 2250);
    assert_eq!(from("@1970-01-01T03:00:00+02:00"), HOUR);
    assert_eq!(from("@1970-01-01T03:00:00-00:30"), 3 * HOUR + HOUR / 2);
    assert_eq!(from("@-1000000000000h"), 0, "before 1970 is 1970");
}

#[test]
fn ranges_of_time_split_where_both_sides_make_sense() {
    use Point::{End, Start, Time};
    let day = 24 * HOUR;
    assert_eq!(parse("@-1h:end"), closed(Time(NOW - HOUR), End));
    assert_eq!(parse("@-48h:-24h"), closed(Time(NOW - 2 * day), Time(NOW - day)));
    assert_eq!(parse("@1970-01-02:-1h"), closed(Time(day), Time(NOW - HOUR)), "against now");
    assert_eq!(parse("@:-1h"), closed(Start, Time(NOW - HOUR)));
    assert_eq!(parse("@1970-01-02:1h"), closed(Time(day), Time(day + HOUR)));
    assert_eq!(parse("@1970-01-02:1970-01-03"), closed(Time(day), Time(2 * day)));
    assert_eq!(
        parse("@1970-01-02T00:00:00Z:1970-01-02T01:00:00+00:00"),
        closed(Time(day), Time(day + HOUR))
    );
    assert_eq!(parse("@-2h:1h"), closed(Time(NOW - 2 * HOUR), Time(NOW - HOUR)));
    assert_eq!(parse("@5:end"), closed(Time(5), End));
    assert_eq!(parse("@1970-01-02T00:00:00Z:end"), closed(Time(day), End));
    assert_eq!(parse("@1970-01-02T00:00:00:end"), closed(Time(day), End));
    assert_eq!(parse("@1970-01-02T00:00:00.5Z:end"), closed(Time(day + 500), End));
}

#[test]
fn what_makes_no_sense_is_refused_with_what_does() {
    for text in [
        "",
        ":",
        "@",
        "@:",
        "@-",
        "--1",
        "1x",
        "+",
        "-",
        "1:2:3",
        "x:1",
        "@1 year",
        "yesterday",
        "@-1h:-2h",
        "9:3",
        "@2026-13-01",
        "@end",
        "1:start",
        "+1e3",
        "18446744073709551616",
        "@é:é",
        "@2026-11-20T12:00:00+é:00",
        "@2026-11-20T𽢎i ",
        "@2026-11-20T12:00:00+24:00",
        "@2026-11-20T12:00:00+00:60",
        "@:1h",
        "\u{0}",
    ] {
        assert!(parse_range(text, NOW).is_err(), "{text:?} gave {:?}", parse_range(text, NOW));
    }
    assert!(parse_range("@10m", NOW).unwrap_err().contains("@-10m"));
    assert!(point("1:2").is_err());
    assert_eq!(point("-5"), Ok(Point::BeforeEnd(5)));
}

#[test]
fn a_range_becomes_offsets_once_the_partition_is_known() {
    let there = There { start: 10, end: 20 };
    let resolve = |text: &str| parse(text).resolve(there, Some(13), None);
    assert_eq!(resolve("start"), (10, None));
    assert_eq!(resolve("end"), (20, None));
    assert_eq!(resolve("-3:end"), (17, Some(20)));
    assert_eq!(resolve("-30:end"), (10, Some(20)), "not before what is there");
    assert_eq!(resolve("+2:+3"), (12, Some(15)));
    assert_eq!(resolve("@-1h:end"), (13, Some(20)));
    assert_eq!(resolve("@-2h:-1h"), (13, Some(20)), "nothing is as late: the end of now");
    assert_eq!(resolve("5:-4"), (5, Some(16)));
}

proptest::proptest! {
    #[test]
    fn no_text_is_too_strange(text in ".{0,40}", times in "@[-:0-9TZhmsd+.]{0,40}") {
        let _ = parse_range(&text, NOW);
        let _ = parse_range(&times, NOW);
    }
}
