//! The figures as a Markdown text: one table a work, medians first.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::contender::Contender;
use crate::data::{GIB, MIB};
use crate::measure::Sample;
use crate::rounds::Outcome;

/// Between these lines a document's text is ours.
const BEGIN: &str = "<!-- figures: begin (written by `make bench-record`) -->";
const END: &str = "<!-- figures: end -->";

/// All of it.
pub(crate) fn render(outcomes: &[Outcome], circumstances: &[String]) -> String {
    let mut text = String::new();
    for line in circumstances {
        push(&mut text, format_args!("- {line}"));
    }
    for outcome in outcomes {
        table(&mut text, outcome);
    }
    text
}

fn table(text: &mut String, outcome: &Outcome) {
    let Outcome { name, size, data_bytes, results } = outcome;
    push(text, format_args!("\n### {name}: {} with {} of data\n", bytes(*size), bytes(*data_bytes)));
    let ours: Vec<_> = results.iter().filter(|(contender, _)| contender.is_ours()).collect();
    let mut head = "| | median s | min–max s | MiB/s | CPU s | peak MiB | stored MiB |".to_owned();
    let mut rule = "|---|---|---|---|---|---|---|".to_owned();
    for (contender, _) in &ours {
        let _ = write!(head, " time ÷ {} |", contender.name());
        rule.push_str("---|");
    }
    push(text, format_args!("{head}\n{rule}"));
    for (contender, samples) in results {
        let mut row = row(*contender, samples, *data_bytes);
        for (_, own) in &ours {
            let _ = write!(
                row,
                " {:.2} |",
                median(samples, |s| seconds(s.wall)) / median(own, |s| seconds(s.wall))
            );
        }
        push(text, format_args!("{row}"));
    }
}

fn row(contender: Contender, samples: &[Sample], data_bytes: u64) -> String {
    let wall = |sample: &Sample| seconds(sample.wall);
    let middle = median(samples, wall);
    let least = samples.iter().map(wall).fold(f64::INFINITY, f64::min);
    let most = samples.iter().map(wall).fold(0.0, f64::max);
    let peak = samples.iter().map(|sample| mib(sample.peak_bytes)).fold(0.0, f64::max);
    format!(
        "| {} | {middle:.2} | {least:.2}–{most:.2} | {:.0} | {:.2} | {peak:.0} | {:.0} |",
        contender.name(),
        mib(data_bytes) / middle,
        median(samples, |sample| seconds(sample.cpu)),
        median(samples, |sample| mib(sample.stored_bytes)),
    )
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{line}");
}

/// The middle one, or the mean of the two in the middle.
fn median(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    match (values.get(low), values.get(high)) {
        (Some(low), Some(high)) => f64::midpoint(*low, *high),
        _ => f64::NAN,
    }
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

fn mib(bytes: u64) -> f64 {
    // Sizes of disks are far below 2^53.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let bytes = bytes as f64;
    bytes / 1_048_576.0
}

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
    use super::*;

    fn sample(milliseconds: u64) -> Sample {
        let wall = Duration::from_millis(milliseconds);
        Sample { wall, cpu: wall / 2, peak_bytes: 10 * MIB, stored_bytes: MIB }
    }

    #[test]
    fn ratios_compare_medians() {
        let outcome = Outcome {
            name: "a work",
            size: GIB,
            data_bytes: 100 * MIB,
            results: vec![
                (Contender::Ours(None), [1000, 9000, 2000].map(sample).to_vec()),
                (Contender::NbdCopy, [5000, 3000].map(sample).to_vec()),
            ],
        };
        let text = render(&[outcome], &["a machine".to_owned()]);
        assert!(text.starts_with("- a machine\n"));
        assert!(text.contains("| tidemark | 2.00 | 1.00–9.00 | 50 | 1.00 | 10 | 1 | 1.00 |"), "{text}");
        assert!(
            text.contains("| nbdcopy → qemu-nbd | 4.00 | 3.00–5.00 | 25 | 2.00 | 10 | 1 | 2.00 |"),
            "{text}"
        );
    }

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let document = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = replaced(&document, "new\n").unwrap();
        assert_eq!(new, format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
        assert_eq!(replaced("no markers", "new"), None);
    }
}
