use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Micros {
    text.parse::<jiff::Timestamp>().unwrap().into()
}

fn schedule(reset: &Reset, zone: &str) -> Schedule {
    Schedule::compile(reset, zone).unwrap()
}

fn cron(expression: &str) -> Reset {
    Reset::Cron(expression.to_owned())
}

fn period(reset: &Reset, zone: &str, moment: &str) -> (String, String) {
    let found = schedule(reset, zone).period_at(at(moment));
    (found.starts_at.to_string(), found.ends_at.unwrap().to_string())
}

fn assert_period(reset: &Reset, zone: &str, moment: &str, expected: (&str, &str)) {
    let found = period(reset, zone, moment);
    assert_eq!((found.0.as_str(), found.1.as_str()), expected, "{reset:?} {zone} {moment}");
}

#[test]
fn a_season_that_never_ends_begins_at_the_epoch() {
    let whole = schedule(&Reset::Never, "Europe/Berlin").period_at(at("2026-11-21T10:00:00Z"));
    assert_eq!(whole, Period { starts_at: Micros::EPOCH, ends_at: None });
    assert!(whole.contains(Micros(-1)));
    assert!(!whole.is_late(Micros(i64::MAX), 0));
}

#[test]
fn resets_are_meant_in_the_leaderboards_time_zone() {
    let moment = "2026-11-21T10:00:00Z";
    assert_period(&Reset::Daily, "Asia/Tokyo", moment, ("2026-11-20T15:00:00Z", "2026-11-21T15:00:00Z"));
    assert_period(&Reset::Weekly, "UTC", moment, ("2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z"));
    assert_period(&Reset::Weekly, "UTC", "2026-11-16T00:00:00Z", ("2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z"));
    assert_period(&Reset::Monthly, "Asia/Kathmandu", moment, ("2026-10-31T18:15:00Z", "2026-11-30T18:15:00Z"));
    assert_period(&cron("0 4 * * FRI"), "Asia/Tokyo", moment, ("2026-11-19T19:00:00Z", "2026-11-26T19:00:00Z"));
}

#[test]
fn february_has_a_leap_day_when_the_year_has() {
    let leap = "2028-02-29T12:00:00Z";
    assert_period(&Reset::Daily, "UTC", leap, ("2028-02-29T00:00:00Z", "2028-03-01T00:00:00Z"));
    assert_period(&Reset::Monthly, "UTC", leap, ("2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"));
    assert_period(&cron("0 0 29 2 *"), "UTC", leap, ("2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"));
    // 2100 has none: eight years between two leap days.
    assert_period(&cron("0 0 29 2 *"), "UTC", "2099-01-01T00:00:00Z", ("2096-02-29T00:00:00Z", "2104-02-29T00:00:00Z"));
}

#[test]
fn a_day_has_23_or_25_hours_when_the_clocks_change() {
    let daily = &Reset::Daily;
    assert_period(daily, "Europe/Berlin", "2026-03-29T12:00:00Z", ("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"));
    assert_period(daily, "Europe/Berlin", "2026-10-25T12:00:00Z", ("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"));
    // Both 02:30 belong to the same day, and a reset at 02:30 of that night happens once or twice, never overlapping.
    for moment in ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"] {
        assert_eq!(period(daily, "Europe/Berlin", moment).0, "2026-10-24T22:00:00Z");
    }
}

#[test]
fn a_midnight_that_the_clocks_skip_or_repeat_resets_once() {
    // São Paulo 2018: 00:00 became 01:00. The day begins at the first moment that exists.
    let daily = &Reset::Daily;
    assert_period(daily, "America/Sao_Paulo", "2018-11-04T12:00:00Z", ("2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"));
    // St John's 2010: 00:01 became 23:01 of the day before, after the new day had begun.
    let first = period(daily, "America/St_Johns", "2010-11-07T02:30:30Z");
    let again = period(daily, "America/St_Johns", "2010-11-07T03:00:00Z");
    assert_eq!(first, again);
    // Samoa skipped 30 December 2011.
    assert_period(daily, "Pacific/Apia", "2011-12-30T09:00:00Z", ("2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"));
}

#[test]
fn unusable_schedules_are_refused() {
    for expression in
        ["", "* * * *", "0 0 30 2 *", "61 * * * *", "0 0 L * *", "0 0 * * 5L", "0 0 * * * UTC", "0 0 1 1 * 1 1"]
    {
        let refused = Schedule::compile(&cron(expression), "UTC");
        let Err(ScheduleError::BadCron(_, reason)) = refused else { panic!("{expression:?}: {refused:?}") };
        // The parser draws the expression, with a zone that nobody wrote.
        assert!(
            !reason.is_empty() && !reason.contains(['\n', '^']) && !reason.contains(".."),
            "{expression:?}: {reason}"
        );
    }
    let refused = Schedule::compile(&Reset::Daily, "Middle/Earth");
    assert_eq!(refused.unwrap_err(), ScheduleError::UnknownTimeZone("Middle/Earth".to_owned()));
}

/// The moments at which a schedule's periods begin within `hours` of a moment.
fn begins(expression: &str, zone: &str, around: &str, hours: i64) -> Vec<Micros> {
    let schedule = schedule(&cron(expression), zone);
    let (mut period, end) =
        (schedule.period_at(at(around).plus_seconds(-hours * 3_600)), at(around).plus_seconds(hours * 3_600));
    let mut found = Vec::new();
    while period.ends_at.unwrap() < end {
        let next = schedule.period_at(period.ends_at.unwrap());
        assert_eq!(Some(next.starts_at), period.ends_at, "{expression} {zone}: neither gap nor overlap");
        found.push(next.starts_at);
        period = next;
    }
    found
}

/// The changes of clocks at which a schedule by the hour and by the minute is looked at.
const CHANGES: [(&str, &str); 8] = [
    ("America/New_York", "2026-11-01T06:00:00Z"),
    ("America/New_York", "2026-03-08T07:00:00Z"),
    ("Europe/Berlin", "2026-10-25T01:00:00Z"),
    ("Europe/Berlin", "2027-03-28T01:00:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
    ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
    ("America/St_Johns", "2026-11-01T04:30:00Z"),
    ("Asia/Kathmandu", "2026-11-01T04:30:00Z"),
];

#[test]
fn hours_and_minutes_go_by_what_clocks_show() {
    for (zone_name, change) in CHANGES {
        let zone = jiff::tz::TimeZone::get(zone_name).unwrap();
        for (expression, minutes) in
            [("* * * * *", 1), ("*/7 * * * *", 7), ("*/15 * * * *", 15), ("0 * * * *", 60), ("0,30 * * * *", 30)]
        {
            if minutes == 60 && zone_name == "Australia/Lord_Howe" {
                continue; // an hour is longer than what is repeated or skipped there
            }
            let start = at(change).plus_seconds(-5 * 3_600);
            let shows = |minute: &i64| {
                let shown = zone.to_datetime(start.plus_seconds(minute * 60).to_timestamp());
                i64::from(shown.minute()) % minutes == 0
            };
            let expected: Vec<Micros> = (1..600).filter(shows).map(|minute| start.plus_seconds(minute * 60)).collect();
            assert_eq!(begins(expression, zone_name, change, 5), expected, "{expression} {zone_name} {change}");
        }
    }
}

#[test]
fn a_repeated_hour_has_its_resets_twice() {
    let hourly = cron("0 * * * *");
    for (moment, from, to) in [
        ("2026-11-01T05:30:00Z", "2026-11-01T05:00:00Z", "2026-11-01T06:00:00Z"),
        ("2026-11-01T06:05:00Z", "2026-11-01T06:00:00Z", "2026-11-01T07:00:00Z"),
        ("2026-11-01T07:30:00Z", "2026-11-01T07:00:00Z", "2026-11-01T08:00:00Z"),
    ] {
        assert_period(&hourly, "America/New_York", moment, (from, to));
    }
    // A time of the skipped hour: the next comes an hour later, as always.
    let half_past = cron("30 * * * *");
    assert_period(
        &half_past,
        "America/New_York",
        "2026-03-08T07:10:00Z",
        ("2026-03-08T06:30:00Z", "2026-03-08T07:30:00Z"),
    );
}

#[test]
fn a_time_of_day_that_comes_twice_or_never_resets_once() {
    for expression in ["30 1 * * *", "30 1,13 * * *", "0,30 1 * * *", "30 1,2 * * *"] {
        let schedule = schedule(&cron(expression), "America/New_York");
        let again = schedule.period_at(at("2026-11-01T06:45:00Z"));
        assert!(again.starts_at < at("2026-11-01T06:00:00Z"), "{expression}: {again:?}");
        assert!(again.ends_at.unwrap() >= at("2026-11-01T07:00:00Z"), "{expression}: {again:?}");
    }
    // Half an hour of it is repeated; an hour is longer.
    assert_period(
        &cron("45 * * * *"),
        "Australia/Lord_Howe",
        "2026-04-04T15:20:00Z",
        ("2026-04-04T14:45:00Z", "2026-04-04T16:15:00Z"),
    );
    // 02:30 does not come: the reset is when the clocks skip it.
    let skipped = ("2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z");
    assert_period(&cron("30 2 * * *"), "America/New_York", "2026-03-08T12:00:00Z", skipped);
    let whole_hour = ("2026-03-08T07:00:00Z", "2026-03-09T06:00:00Z");
    assert_period(&cron("*/20 2 * * *"), "America/New_York", "2026-03-08T12:00:00Z", whole_hour);
}

#[test]
fn periods_tile_the_seasons_of_change_in_every_zone() {
    for zone in ZONES {
        for expression in ["0 * * * *", "45 */2 * * *", "30 1 * * *", "*/30 2 * * *", "0 0 * * *", "0,20 1,2,3 * * *"] {
            for season in ["2026-03-15T00:00:00Z", "2026-04-04T00:00:00Z", "2026-10-25T00:00:00Z"] {
                let begun = begins(expression, zone, season, 24 * 12);
                assert!(begun.windows(2).all(|pair| pair[0] < pair[1]), "{expression} {zone}");
                assert!(begun.len() >= 22, "{expression} {zone}: {}", begun.len());
            }
        }
    }
}

const ZONES: [&str; 10] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",
    "America/Sao_Paulo",
    "America/Havana",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Asia/Kathmandu",
    "Africa/Casablanca",
];

fn resets() -> impl Strategy<Value = Reset> {
    let expressions = [
        "0 4 * * FRI",
        "30 2 * * *",
        "0 0 * * *",
        "0 0 1 * *",
        "15 */6 * * 1-5",
        "0 0 29 2 *",
        "*/20 1,2,23 * * *",
        "*/7 * * * *",
        "59 * * * *",
        "*/10 0-4 * * *",
        "0 12 15W * *",
        "0 0 1 1,7 *",
        "5 0 * * MON#2",
    ];
    prop_oneof![
        Just(Reset::Daily),
        Just(Reset::Weekly),
        Just(Reset::Monthly),
        prop::sample::select(expressions.to_vec()).prop_map(cron),
    ]
}

/// 1980 to 2100, with the hours around changes of clocks over-represented.
fn moments() -> impl Strategy<Value = Micros> {
    let anywhere = (315_532_800i64..4_102_444_800, 0i64..1_000_000).prop_map(|(s, us)| Micros(s * 1_000_000 + us));
    let changes = prop::sample::select(vec![
        "2026-03-29T01:00:00Z",
        "2026-10-25T01:00:00Z",
        "2010-11-07T02:31:00Z",
        "2018-11-04T03:00:00Z",
        "2011-12-30T10:00:00Z",
        "2026-11-01T05:00:00Z",
        "2026-10-03T15:30:00Z",
        "2000-02-29T00:00:00Z",
    ]);
    let near = (changes, -90_000i64..90_000).prop_map(|(change, seconds)| at(change).plus_seconds(seconds));
    prop_oneof![anywhere, near]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn periods_tile_time_and_contain_their_moment(
        reset in resets(), zone in prop::sample::select(ZONES.to_vec()), moment in moments(),
    ) {
        let fresh = || schedule(&reset, zone);
        let found = fresh().period_at(moment);
        prop_assert!(found.contains(moment) && found.starts_at <= moment, "{found:?} does not contain {moment}");
        let end = found.ends_at.unwrap();
        // The same from every moment in it, and the next begins where it ends: neither gap nor overlap.
        let middle = Micros(found.starts_at.0 + (end.0 - found.starts_at.0) / 2);
        for inside in [found.starts_at, middle, Micros(end.0 - 1)] {
            prop_assert_eq!(fresh().period_at(inside), found);
        }
        prop_assert_eq!(fresh().period_at(end).starts_at, end);
        prop_assert_eq!(fresh().period_at(Micros(found.starts_at.0 - 1)).ends_at, Some(found.starts_at));
    }

    #[test]
    fn a_schedule_that_remembers_answers_as_a_fresh_one(
        reset in resets(), zone in prop::sample::select(ZONES.to_vec()), moments in prop::collection::vec(moments(), 1..8),
    ) {
        let remembering = schedule(&reset, zone);
        for moment in moments.iter().chain(&moments) {
            prop_assert_eq!(remembering.period_at(*moment), schedule(&reset, zone).period_at(*moment));
        }
    }
}
