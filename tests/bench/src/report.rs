//! The figures as a Markdown text: what was wanted beside what was measured, then one table a work.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::data::{GIB, MIB};
use crate::measure::Sample;
use crate::rounds::{Figures, Outcome};
use crate::summary::{self, highest_peak};

/// Between these lines a document's text is ours.
const BEGIN: &str = "<!-- figures: begin (written by `make bench-record`) -->";
const END: &str = "<!-- figures: end -->";

/// All of it.
pub(crate) fn render(outcomes: &[Outcome<'_>], circumstances: &[String]) -> String {
    let mut text = String::new();
    for line in circumstances {
        push(&mut text, format_args!("- {line}"));
    }
    push(&mut text, format_args!("\n### summary\n"));
    for line in summary::lines(outcomes) {
        push(&mut text, format_args!("{line}"));
    }
    for outcome in outcomes {
        table(&mut text, outcome);
    }
    text
}

fn table(text: &mut String, outcome: &Outcome<'_>) {
    let Outcome { work, size, data_bytes, results, left_out } = outcome;
    push(
        text,
        format_args!("\n### {}: {} with {} of data\n", work.title(), bytes(*size), bytes(*data_bytes)),
    );
    for line in left_out {
        push(text, format_args!("{line}.\n"));
    }
    if results.is_empty() {
        return;
    }
    let ours: Vec<_> = results.iter().filter(|one| one.contender.is_ours()).collect();
    let mut head = "| | median s | min–max s | MiB/s | CPU s | syscalls | peak MiB | stored MiB |".to_owned();
    let mut rule = "|---|---|---|---|---|---|---|---|".to_owned();
    for one in &ours {
        let _ = write!(head, " time ÷ {} |", one.contender.name());
        rule.push_str("---|");
    }
    push(text, format_args!("{head}\n{rule}"));
    let wall = |sample: &Sample| seconds(sample.wall);
    for one in results {
        let mut row = row(one, *data_bytes);
        for own in &ours {
            let _ = write!(row, " {:.2} |", median(&one.samples, wall) / median(&own.samples, wall));
        }
        push(text, format_args!("{row}"));
    }
}

fn row(figures: &Figures, data_bytes: u64) -> String {
    let Figures { contender, samples, syscalls } = figures;
    let wall = |sample: &Sample| seconds(sample.wall);
    let middle = median(samples, wall);
    let least = samples.iter().map(wall).fold(f64::INFINITY, f64::min);
    let most = samples.iter().map(wall).fold(0.0, f64::max);
    format!(
        "| {} | {middle:.2} | {least:.2}–{most:.2} | {:.0} | {:.2} | {} | {:.0} | {:.0} |",
        contender.name(),
        mib(data_bytes) / middle,
        median(samples, |sample| seconds(sample.cpu)),
        syscalls.map_or("–".to_owned(), |calls| calls.to_string()),
        highest_peak(samples),
        median(samples, |sample| mib(sample.stored_bytes)),
    )
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{line}");
}

/// The middle value,  or the mean of the two in the middle.
pub(crate) fn median(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    match (values.get(low), values.get(high)) {
        (Some(low), Some(high)) => f64::midpoint(*low, *high),
        _ => f64::NAN,
    }
}

pub(crate) fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

pub(crate) fn mib(bytes: u64) -> f64 {
    // Sizes of disks are far below 2^53.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let bytes = bytes as f64;
    bytes / 1_048_576.0
}

/// A size for people.
fn bytes(count: u64) -> String {
    if count.is_multiple_of(GIB) { format!("{} GiB", count / GIB) } else { format!("{} MiB", count / MIB) }
}

/// Replaces what is between the markers of a document.
pub(crate) fn write(document: &Path, figures: &str) -> Result<()> {
    let name = document.display();
    let old = std::fs::read_to_string(document).with_context(|| format!("cannot read {name}"))?;
    let new =
        replaced(&old, figures).with_context(|| format!("{name} lacks the lines '{BEGIN}' and '{END}'"))?;
    std::fs::write(document, new).with_context(|| format!("cannot write {name}"))
}

fn replaced(document: &str, figures: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{}\n{END}{after}", figures.trim()))
}

#[cfg(test)]
mod tests {
    use crate::contender::Contender;
    use crate::data::DiskPlan;
    use crate::sink::SinkPlan;
    use crate::works::{Claim, Subject, Wanted, Work};

    use super::*;

    fn sample(milliseconds: u64) -> Sample {
        let wall = Duration::from_millis(milliseconds);
        Sample { wall, cpu: wall / 2, peak_bytes: 10 * MIB, stored_bytes: MIB }
    }

    fn figures(contender: Contender, milliseconds: &[u64]) -> Figures {
        let samples = milliseconds.iter().map(|one| sample(*one)).collect();
        Figures { contender, samples, syscalls: Some(7) }
    }

    #[test]
    fn ratios_compare_medians() {
        let (ours, peer) = (Contender::Copy(None), Contender::NbdCopy);
        let claim = |least| Claim { row: "moving", ours, against: peer, wanted: Wanted::TimesFaster(least) };
        let work = Work {
            name: "a work",
            subject: Subject::Disk(DiskPlan::Dense { size: GIB }),
            sink: SinkPlan::Fast,
            contenders: vec![ours, peer],
            claims: vec![claim(2.0), claim(2.1)],
        };
        let outcome = Outcome {
            work: &work,
            size: GIB,
            data_bytes: 100 * MIB,
            results: vec![figures(ours, &[1000, 9000, 2000]), figures(peer, &[5000, 3000])],
            left_out: vec!["somebody left out: not there".to_owned()],
        };
        let text = render(&[outcome], &["a machine".to_owned()]);
        assert!(text.starts_with("- a machine\n"));
        for line in [
            "### a work, fast sink: 1 GiB with 100 MiB of data",
            "somebody left out: not there.",
            "| moving | nbdcopy → qemu-nbd | ≥ 2× | 2.00× |",
            "| moving | nbdcopy → qemu-nbd | ≥ 2.1× | **2.00×** |",
            "| tidemark | 2.00 | 1.00–9.00 | 50 | 1.00 | 7 | 10 | 1 | 1.00 |",
            "| nbdcopy → qemu-nbd | 4.00 | 3.00–5.00 | 25 | 2.00 | 7 | 10 | 1 | 2.00 |",
        ] {
            assert!(text.contains(line), "no '{line}' in {text}");
        }
    }

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let document = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = replaced(&document, "new\n").unwrap();
        assert_eq!(new, format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
        assert_eq!(replaced("no markers", "new"), None);
    }
}
