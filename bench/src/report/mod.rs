//! What a run found, and its three forms: a table on stdout, JSON, a page with plots.
//!
//! A [`Report`] is a list of [`Section`]s. A section is a matrix of [`Figure`]s: contenders downwards, conditions across; or a
//! set of curves. Every figure keeps its samples and the gate's verdict on each, so that nothing can be shown without them.

mod page;
mod plot;
mod table;

use std::{fs, path::PathBuf};

pub use self::plot::{Curve, Curves};
use crate::{
    Result,
    facts::Facts,
    gate::{Gated, Verdict},
    stats::Summary,
};

/// Where a report goes; flatten it into a subcommand's arguments.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct OutputArgs {
    /// Write the report as JSON too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page with plots (NAME.md and NAME-*.svg) into this folder too
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
}

impl OutputArgs {
    /// Prints the table on stdout and writes the files that were asked for.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn finish(&self, report: &Report) -> Result<()> {
        print!("{}", table::text(report));
        if let Some(path) = &self.json {
            let told = |error| format!("cannot write {}: {error}", path.display());
            path.parent().map_or(Ok(()), fs::create_dir_all).map_err(told)?;
            fs::write(path, serde_json::to_vec_pretty(report)?).map_err(told)?;
        }
        if let Some(folder) = &self.report {
            page::write(report, folder)?;
        }
        Ok(())
    }
}

/// One measured quantity.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Figure {
    /// One per repetition.
    pub samples: Vec<f64>,
    /// The gate's word on each.
    pub verdicts: Vec<Verdict>,
}

impl Figure {
    /// Adds a repetition.
    pub fn push(&mut self, sample: Gated<f64>) {
        self.samples.push(sample.value);
        self.verdicts.push(sample.verdict);
    }

    /// Median and spread, of the samples in the fast state where there are any.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        let both = self.samples.iter().zip(&self.verdicts);
        let fast: Vec<f64> = both.filter(|(_, v)| !v.slow).map(|(sample, _)| *sample).collect();
        Summary::of(if fast.is_empty() { &self.samples } else { &fast })
    }

    /// The median; NaN without samples.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.summary().map_or(f64::NAN, |summary| summary.median)
    }

    /// Whether no sample was taken in the fast state.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        !self.verdicts.is_empty() && self.verdicts.iter().all(|verdict| verdict.slow)
    }
}

/// Figures of one kind side by side.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Section {
    /// A short name for files: `relay-64-pairs`.
    pub id: String,
    /// What was measured.
    pub title: String,
    /// How, in a sentence or two.
    pub method: String,
    /// Of every figure in it.
    pub unit: String,
    /// Whether more is better; for the plot's caption.
    pub more_is_better: bool,
    /// Conditions: `64 B`, `16 KiB`.
    pub columns: Vec<String>,
    /// Contenders, each with a figure per column; `None` was not measured.
    pub rows: Vec<(String, Vec<Option<Figure>>)>,
    /// Curves in place of bars.
    pub curves: Option<Curves>,
    /// What must be known to read it: what could not be measured here, and why.
    pub remarks: Vec<String>,
}

impl Section {
    /// An empty one.
    #[must_use]
    pub fn new(id: &str, title: &str, unit: &str, more_is_better: bool) -> Self {
        Self {
            id: id.to_owned(),
            title: title.to_owned(),
            method: String::new(),
            unit: unit.to_owned(),
            more_is_better,
            columns: Vec::new(),
            rows: Vec::new(),
            curves: None,
            remarks: Vec::new(),
        }
    }

    /// A figure that is counted, or grows too slowly for the gate to matter.
    pub fn put(&mut self, row: &str, column: &str, value: f64) {
        let verdict = Verdict { bounce_ns: None, repeats: 0, slow: false };
        self.figure(row, column).push(Gated { value, verdict });
    }

    /// The figure of `row` under `column`, made if it is not there.
    pub fn figure(&mut self, row: &str, column: &str) -> &mut Figure {
        let at = place(&mut self.columns, |name| name == column, || column.to_owned());
        let row = place(&mut self.rows, |(name, _)| name == row, || (row.to_owned(), Vec::new()));
        let cells = &mut self.rows[row].1;
        if cells.len() <= at {
            cells.resize_with(at + 1, || None);
        }
        cells[at].get_or_insert_with(Figure::default)
    }

    /// The figure, if it was measured.
    #[must_use]
    pub fn find(&self, row: &str, column: &str) -> Option<&Figure> {
        let at = self.columns.iter().position(|name| name == column)?;
        let (_, cells) = self.rows.iter().find(|(name, _)| name == row)?;
        cells.get(at)?.as_ref().filter(|figure| !figure.samples.is_empty())
    }

    /// One figure's median over another's under the same condition.
    #[must_use]
    pub fn ratio(&self, row: &str, other: &str, column: &str) -> Option<f64> {
        Some(self.find(row, column)?.median() / self.find(other, column)?.median())
    }

    fn figures(&self) -> impl Iterator<Item = &Figure> {
        self.rows.iter().flat_map(|(_, cells)| cells.iter().flatten())
    }

    /// The gate's word on all of it, as a sentence.
    #[must_use]
    pub fn verdict(&self) -> String {
        let verdicts: Vec<_> = self.figures().flat_map(|figure| &figure.verdicts).collect();
        let bounces: Vec<f64> = verdicts.iter().filter_map(|verdict| verdict.bounce_ns).collect();
        let Some(bounce) = Summary::of(&bounces) else {
            return "gate: not applicable, nothing was measured across two CPUs".to_owned();
        };
        let slow = verdicts.iter().filter(|verdict| verdict.slow).count();
        let repeats: u32 = verdicts.iter().map(|verdict| verdict.repeats).sum();
        let state = if slow == 0 {
            "fast state throughout".to_owned()
        } else {
            format!("SLOW STATE in {slow} of {} measurements", verdicts.len())
        };
        format!(
            "gate: {state}; bounce {:.0} to {:.0} ns, {repeats} measurements repeated",
            bounce.min, bounce.max
        )
    }
}

fn place<T>(list: &mut Vec<T>, is_it: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> usize {
    list.iter().position(is_it).unwrap_or_else(|| {
        list.push(make());
        list.len() - 1
    })
}

/// A goal beside what was measured.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Target {
    /// What is compared.
    pub what: String,
    /// The goal: `≥ 0.55 ×`.
    pub goal: String,
    /// What was measured, in the same terms.
    pub measured: String,
    /// Whether it was met; `None` when this machine cannot tell.
    pub met: Option<bool>,
}

impl Target {
    /// `value` shall be at least `goal`.
    #[must_use]
    pub fn at_least(what: &str, goal: f64, unit: &str, value: Option<f64>) -> Self {
        Self::judged(what, &format!("≥ {goal}"), unit, value, |value| value >= goal)
    }

    /// `value` shall be at most `goal`.
    #[must_use]
    pub fn at_most(what: &str, goal: f64, unit: &str, value: Option<f64>) -> Self {
        Self::judged(what, &format!("≤ {goal}"), unit, value, |value| value <= goal)
    }

    fn judged(
        what: &str,
        goal: &str,
        unit: &str,
        value: Option<f64>,
        met: impl FnOnce(f64) -> bool,
    ) -> Self {
        let value = value.filter(|value| value.is_finite());
        let measured = match value {
            Some(value) => format!("{} {unit}", short(value)),
            None => "not measured".to_owned(),
        };
        let goal = format!("{goal} {unit}");
        Self { what: what.to_owned(), goal, measured, met: value.map(met) }
    }

    fn verdict(&self) -> &'static str {
        match self.met {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "no verdict",
        }
    }
}

/// What a run found.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// A short name for files: `relay`.
    pub name: String,
    /// A headline.
    pub title: String,
    /// The circumstances.
    pub facts: Facts,
    /// What was measured.
    pub sections: Vec<Section>,
    /// Goals, if there are any.
    pub targets: Vec<Target>,
}

impl Report {
    /// An empty report of this machine and command.
    #[must_use]
    pub fn new(name: &str, title: &str) -> Self {
        Self {
            name: name.to_owned(),
            title: title.to_owned(),
            facts: Facts::gather(),
            sections: Vec::new(),
            targets: Vec::new(),
        }
    }

    /// The section called `id`, if it was run.
    #[must_use]
    pub fn section(&self, id: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.id == id)
    }
}

/// A number with three digits that count.
#[must_use]
pub fn short(value: f64) -> String {
    match value.abs() {
        v if !v.is_finite() => "–".to_owned(),
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        v if v >= 0.0995 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(value: f64, slow: bool) -> Gated<f64> {
        let bounce_ns = Some(if slow { 400.0 } else { 50.0 });
        Gated { value, verdict: Verdict { bounce_ns, repeats: 0, slow } }
    }

    #[test]
    fn slow_samples_do_not_count_beside_fast_ones_and_are_told() {
        let mut section = Section::new("id", "title", "GB/s", true);
        for (value, slow) in [(10.0, false), (12.0, false), (3.0, true)] {
            section.figure("ours", "64 B").push(sample(value, slow));
        }
        section.figure("other", "64 B").push(sample(5.5, false));
        assert_eq!(section.ratio("ours", "other", "64 B"), Some(2.0));
        assert!(section.verdict().contains("SLOW STATE in 1 of 4"), "{}", section.verdict());
        assert!(section.find("ours", "1 KiB").is_none());
    }

    #[test]
    fn a_target_without_a_measurement_has_no_verdict() {
        assert_eq!(Target::at_least("x", 0.55, "×", None).met, None);
        assert_eq!(Target::at_least("x", 0.55, "×", Some(0.6)).met, Some(true));
        assert_eq!(Target::at_most("x", 75.0, "µs", Some(80.0)).met, Some(false));
    }

    #[test]
    fn a_report_is_written_in_all_three_forms() {
        let folder = std::env::temp_dir().join(format!("dmsg-bench-{}", std::process::id()));
        let mut report = Report::new("sample", "A sample");
        let mut section = Section::new("bars", "Bars", "GB/s", true);
        section.figure("ours", "64 B").push(sample(10.0, false));
        section.figure("<other>", "1 KiB").push(sample(5.0, false));
        report.sections.push(section);
        report.targets.push(Target::at_least("x", 2.0, "×", Some(2.0)));
        let json = folder.join("sample.json");
        let output = OutputArgs { json: Some(json.clone()), report: Some(folder.clone()) };
        output.finish(&report).expect("a temporary folder can be written");
        let json: serde_json::Value =
            serde_json::from_slice(&fs::read(json).expect("just written")).expect("JSON");
        assert_eq!(json["sections"][0]["rows"][0][1][0]["samples"][0], 10.0);
        let page = fs::read_to_string(folder.join("sample.md")).expect("just written");
        assert!(page.contains("sample-bars.svg") && page.contains("met"), "{page}");
        let plot = fs::read_to_string(folder.join("sample-bars.svg")).expect("just written");
        assert!(plot.starts_with("<svg"), "{plot}");
        fs::remove_dir_all(folder).expect("ours to remove");
    }
}
