//! What was wanted beside what was measured: the first table of the report.

use crate::measure::Sample;
use crate::report::{median, mib, seconds};
use crate::rounds::{Figures, Outcome};
use crate::works::{Claim, Wanted};

/// The table, a line each; claims whose contenders did not run are left out.
pub(crate) fn lines(outcomes: &[Outcome<'_>]) -> Vec<String> {
    let mut lines = vec!["| work | peer | wanted | measured |".to_owned(), "|---|---|---|---|".to_owned()];
    for outcome in outcomes {
        lines.extend(outcome.work.claims.iter().filter_map(|claim| line(claim, &outcome.results)));
    }
    lines
}

fn line(claim: &Claim, results: &[Figures]) -> Option<String> {
    let Claim { row, ours, against, wanted } = claim;
    let samples =
        |contender| results.iter().find(|one| one.contender == contender).map(|one| one.samples.as_slice());
    let (wanted, measured, met) = judged(*wanted, samples(*ours)?, samples(*against)?);
    // What is missed shall be seen.
    let measured = if met { measured } else { format!("**{measured}**") };
    Some(format!("| {row} | {} | {wanted} | {measured} |", against.name()))
}

/// What was wanted and what was measured, as text, and whether it is enough.
fn judged(wanted: Wanted, ours: &[Sample], against: &[Sample]) -> (String, String, bool) {
    let ratio = |above: &[Sample], below: &[Sample], value: fn(&Sample) -> f64| {
        median(above, value) / median(below, value)
    };
    match wanted {
        Wanted::TimesFaster(least) => {
            let measured = ratio(against, ours, |sample| seconds(sample.wall));
            (format!("≥ {least}×"), format!("{measured:.2}×"), measured >= least)
        }
        Wanted::Size(most) => {
            let measured = ratio(ours, against, |sample| mib(sample.stored_bytes));
            (format!("≤ {most}× the size"), format!("{measured:.3}×"), measured <= most)
        }
        Wanted::MoreMib(most) => {
            let measured = highest_peak(ours) - highest_peak(against);
            (format!("≤ {most} MiB more"), format!("{measured:.0} MiB"), measured <= most)
        }
    }
}

/// In MiB.
pub(crate) fn highest_peak(samples: &[Sample]) -> f64 {
    samples.iter().map(|sample| mib(sample.peak_bytes)).fold(0.0, f64::max)
}
