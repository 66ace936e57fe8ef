//! A simulation as a picture: time from left to right, a bar for each backup in the colour of the rule that kept it, the
//! space below.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chrono::{Datelike as _, NaiveDate};
use tidemark_model::UtcMillis;

use super::table::kind_word;
use super::{LifeLine, Simulation};
use crate::floors::Keeper;
use crate::sizes::format_size;

const WIDTH: f64 = 1120.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 24.0;
/// The bars have this much height together, unless there are few.
const BARS_HEIGHT: f64 = 560.0;
const SPACE_HEIGHT: f64 = 130.0;
/// Up to so many backups have a line each; more share lines with those kept for the same reason.
const LINES_EACH: usize = 150;
/// Of backups that share lines, only bars of this width tell more when pointed at: others could not be hit.
const TELLING_WIDTH: f64 = 2.5;

/// Colours that are told apart also by those who see fewer of them (Okabe and Ito), for the rules everybody knows.
const RULES: [(&str, &str); 6] = [
    ("last", "#0072b2"),
    ("hourly", "#56b4e9"),
    ("daily", "#009e73"),
    ("weekly", "#e69f00"),
    ("monthly", "#d55e00"),
    ("yearly", "#cc79a7"),
];
/// For other reasons, in the order in which they are most frequent.
const OTHERS: [&str; 6] = ["#3b5ba5", "#8a6d3b", "#2a9d8f", "#b5838d", "#6a994e", "#bc6c25"];
const REST: &str = "#9aa0a6";
const FLOOR: &str = "#444444";
const FADED: &str = "#d5d8dc";

/// Text as XML may hold it.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

impl Simulation {
    /// The picture, a document of its own.
    #[must_use]
    pub fn render_svg(&self) -> String {
        Picture::new(self).draw()
    }
}

struct Picture<'a> {
    simulation: &'a Simulation,
    /// The first moment shown.
    from: UtcMillis,
    colours: BTreeMap<&'a str, &'static str>,
    /// The line of each backup.
    lines: Vec<usize>,
    line_height: f64,
    legend_height: f64,
    out: String,
}

impl<'a> Picture<'a> {
    fn new(simulation: &'a Simulation) -> Self {
        let from = simulation.lives.iter().map(|life| life.made).min().unwrap_or(simulation.start);
        let colours = colours(&simulation.lives);
        let mut picture = Self {
            simulation,
            from: from.min(simulation.start),
            colours,
            lines: Vec::new(),
            line_height: 0.0,
            legend_height: 0.0,
            out: String::new(),
        };
        picture.lines = picture.lines();
        let count = picture.lines.iter().max().map_or(1, |last| last + 1);
        #[expect(clippy::cast_precision_loss, reason = "some thousands at most")]
        let share = BARS_HEIGHT / count as f64;
        picture.line_height = share.clamp(1.5, 14.0);
        picture
    }

    /// A line for each backup. Where there are too many, those kept for one reason share lines, the reasons that keep
    /// longest on top.
    fn lines(&self) -> Vec<usize> {
        let lives = &self.simulation.lives;
        if lives.len() <= LINES_EACH {
            return (0..lives.len()).collect();
        }
        let mut bands: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, life) in lives.iter().enumerate() {
            let word = self.entry(life).0;
            let rule = RULES.iter().position(|rule| rule.0 == word);
            bands.entry(rule.map_or(RULES.len(), |place| RULES.len() - 1 - place)).or_default().push(at);
        }
        let (mut lines, mut used) = (vec![0; lives.len()], 0);
        for band in bands.into_values() {
            let mut free_at: Vec<UtcMillis> = Vec::new();
            for at in band {
                let line = free_at.iter().position(|free| *free <= lives[at].made).unwrap_or(free_at.len());
                let until = lives[at].dropped.unwrap_or(UtcMillis(i64::MAX));
                match free_at.get_mut(line) {
                    Some(free) => *free = until,
                    None => free_at.push(until),
                }
                lines[at] = used + line;
            }
            used += free_at.len();
        }
        lines
    }

    fn x(&self, at: UtcMillis) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a pixel is minutes wide")]
        let share = (at.0 - self.from.0) as f64 / (self.simulation.end.0 - self.from.0).max(1) as f64;
        LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn draw(mut self) -> String {
        let legend = self.legend();
        let top = 62.0 + self.legend_height;
        #[expect(clippy::cast_precision_loss, reason = "some thousands at most")]
        let bars = self.lines.iter().max().map_or(0, |last| last + 1) as f64 * self.line_height;
        let space_top = top + bars + 34.0;
        let height = space_top + SPACE_HEIGHT + 40.0;
        let title = escape(&self.simulation.title);
        let _ = write!(
            self.out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
             height=\"{height:.0}\" role=\"img\" font-family=\"system-ui, 'DejaVu Sans', sans-serif\" \
             font-size=\"12\" fill=\"#202124\">\n<title>{title}</title>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
             <text x=\"{LEFT}\" y=\"26\" font-size=\"17\" font-weight=\"600\">{title}</text>\n\
             <text x=\"{LEFT}\" y=\"45\" fill=\"#5f6368\">{}</text>\n{legend}",
            escape(&self.subtitle())
        );
        self.axis(top, space_top + SPACE_HEIGHT);
        self.bars(top);
        self.space(space_top);
        self.out.push_str("</svg>\n");
        self.out
    }

    fn subtitle(&self) -> String {
        let simulation = self.simulation;
        let (from, to) =
            (simulation.day_text(simulation.start), simulation.day_text(simulation.end.plus_millis(-1)));
        format!("{}, {from} to {to}", simulation.schedule)
    }

    /// The colours with their words, in as many rows as they need.
    fn legend(&mut self) -> String {
        let mut entries: Vec<(&str, &str)> = Vec::new();
        for life in &self.simulation.lives {
            let entry = self.entry(life);
            if !entries.contains(&entry) {
                entries.push(entry);
            }
        }
        let place =
            |entry: &(&str, &str)| RULES.iter().position(|rule| rule.0 == entry.0).unwrap_or(RULES.len());
        entries.sort_by_key(place);
        if self.simulation.lives.iter().any(|life| life.dropped.is_some()) {
            entries.push(("pale: gone since", FADED));
        }
        let (mut x, mut y, mut out) = (LEFT, 66.0, String::new());
        for (word, colour) in entries {
            let word: String = word.chars().take(60).collect();
            #[expect(clippy::cast_precision_loss, reason = "a word")]
            let width = 34.0 + 6.8 * word.chars().count() as f64;
            if x + width > WIDTH - RIGHT {
                (x, y) = (LEFT, y + 19.0);
            }
            let _ = writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"14\" height=\"10\" rx=\"2\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
                y - 9.0,
                x + 19.0,
                escape(&word)
            );
            x += width;
        }
        self.legend_height = y - 66.0 + 28.0;
        out
    }

    /// What a backup's colour stands for, and the colour.
    fn entry(&self, life: &'a LifeLine) -> (&'a str, &'static str) {
        if life.keeper != Keeper::Policy {
            return ("a floor", FLOOR);
        }
        match self.colours.get(life.reason.as_str()) {
            Some(colour) => (&life.reason, colour),
            None => ("other reasons", REST),
        }
    }

    /// Lines at the beginning of days, weeks, months or years, as many as can be read.
    fn axis(&mut self, top: f64, bottom: f64) {
        let zone = self.simulation.zone;
        let (first, last) = (zone.local(self.from).date(), zone.local(self.simulation.end).date());
        let days = (last - first).num_days();
        let marks = |day: NaiveDate| match days {
            ..=16 => true,
            17..=120 => day.weekday() == chrono::Weekday::Mon,
            121..=900 => day.day() == 1,
            901..=4000 => day.day() == 1 && day.month0().is_multiple_of(6),
            _ => day.ordinal() == 1,
        };
        let format = if days > 120 { "%b %Y" } else { "%d %b" };
        let mut free_from = 0.0;
        for day in first.iter_days().take_while(|day| *day <= last).filter(|day| marks(*day)) {
            let at = zone.day_start(day);
            if at < self.from {
                continue;
            }
            let x = self.x(at);
            let _ =
                writeln!(self.out, "<path d=\"M{x:.1} {:.1}V{bottom:.1}\" stroke=\"#e3e5e8\"/>", top - 4.0);
            if x >= free_from && x < WIDTH - RIGHT - 40.0 {
                let text = day.format(format);
                let _ = writeln!(
                    self.out,
                    "<text x=\"{x:.1}\" y=\"{:.1}\" fill=\"#5f6368\">{text}</text>",
                    bottom + 16.0
                );
                free_from = x + if days > 120 { 68.0 } else { 48.0 };
            }
        }
        if self.from < self.simulation.start {
            let x = self.x(self.simulation.start);
            let _ = writeln!(
                self.out,
                "<path d=\"M{x:.1} {:.1}V{bottom:.1}\" stroke=\"#5f6368\" stroke-dasharray=\"3 3\"/>",
                top - 4.0
            );
        }
    }

    fn bars(&mut self, top: f64) {
        let simulation = self.simulation;
        let shared = simulation.lives.len() > LINES_EACH;
        for (life, line) in simulation.lives.iter().zip(self.lines.clone()) {
            #[expect(clippy::cast_precision_loss, reason = "some thousands at most")]
            let y = top + line as f64 * self.line_height;
            let (from, to) = (self.x(life.made), self.x(life.dropped.unwrap_or(simulation.end)));
            let gap = if self.line_height > 4.0 { 1.5 } else { 0.3 };
            let (_, colour) = self.entry(life);
            let width = (to - from - if shared { 0.4 } else { 0.0 }).max(if shared { 0.5 } else { 1.2 });
            let faded = if life.dropped.is_some() { " fill-opacity=\"0.5\"" } else { "" };
            let told = if shared && width < TELLING_WIDTH { String::new() } else { self.told(life) };
            let _ = writeln!(
                self.out,
                "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" \
                 fill=\"{colour}\"{faded}>{told}</rect>",
                self.line_height - gap
            );
        }
        let _ = writeln!(
            self.out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#5f6368\">backups</text>",
            LEFT - 10.0,
            top + 9.0
        );
    }

    /// What a bar says when pointed at.
    fn told(&self, life: &LifeLine) -> String {
        let gone = |at| format!("gone {}", self.simulation.time_text(at));
        format!(
            "<title>{}, {}, {}; {}; {}</title>",
            self.simulation.time_text(life.made),
            kind_word(life),
            format_size(life.last_size),
            life.dropped.map_or("left at the end".to_owned(), gone),
            escape(&life.reason)
        )
    }

    /// The space after each firing, as steps; of several in one pixel the largest.
    fn space(&mut self, top: f64) {
        let peak = self.simulation.totals.peak;
        let bottom = top + SPACE_HEIGHT;
        #[expect(clippy::cast_precision_loss, reason = "a pixel is many bytes high")]
        let y = |bytes: u64| bottom - SPACE_HEIGHT * (bytes as f64 / (peak.0 as f64).max(1.0));
        let mut steps: Vec<(f64, u64)> = Vec::new();
        for (at, bytes) in &self.simulation.space {
            let x = self.x(*at);
            match steps.last_mut() {
                Some(last) if x - last.0 < 0.5 => last.1 = last.1.max(bytes.0),
                _ => steps.push((x, bytes.0)),
            }
        }
        let mut path = format!("M{:.1} {bottom:.1}", steps.first().map_or(LEFT, |step| step.0));
        for (x, bytes) in &steps {
            let _ = write!(path, "H{x:.1}V{:.1}", y(*bytes));
        }
        let right = WIDTH - RIGHT;
        let _ = writeln!(
            self.out,
            "<path d=\"{path}H{right:.1}V{bottom:.1}Z\" fill=\"#0072b2\" fill-opacity=\"0.22\" stroke=\"#0072b2\" \
             stroke-width=\"1.2\"/>\n<path d=\"M{LEFT} {bottom:.1}H{right:.1}\" stroke=\"#5f6368\"/>"
        );
        let half = tidemark_model::ByteLen(peak.0 / 2);
        for (bytes, place) in [(peak, top + 4.0), (half, top + SPACE_HEIGHT / 2.0 + 4.0)] {
            let _ = writeln!(
                self.out,
                "<text x=\"{:.1}\" y=\"{place:.1}\" text-anchor=\"end\" fill=\"#5f6368\">{}</text>",
                LEFT - 8.0,
                format_size(bytes)
            );
        }
        let _ = writeln!(
            self.out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#5f6368\">space</text>",
            LEFT - 8.0,
            bottom + 4.0
        );
    }
}

/// A colour for each of the most frequent reasons.
fn colours(lives: &[LifeLine]) -> BTreeMap<&str, &'static str> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for life in lives.iter().filter(|life| life.keeper == Keeper::Policy) {
        *counts.entry(&life.reason).or_default() += 1;
    }
    let rule = |reason: &str| RULES.iter().find(|rule| rule.0 == reason).map(|rule| rule.1);
    let mut colours: BTreeMap<&str, &str> =
        counts.keys().filter_map(|reason| Some((*reason, rule(reason)?))).collect();
    let mut others: Vec<(&str, usize)> =
        counts.into_iter().filter(|(reason, _)| rule(reason).is_none()).collect();
    others.sort_by_key(|(reason, count)| (std::cmp::Reverse(*count), *reason));
    colours.extend(others.into_iter().map(|(reason, _)| reason).zip(OTHERS));
    colours
}
