//! The table on the terminal.

use std::fmt::Write;

use super::{Figure, Report, Section, short};

/// The whole report as text.
pub(super) fn text(report: &Report) -> String {
    let mut out = format!("{}\n", report.title);
    for (name, value) in report.facts.rows() {
        let _ = writeln!(out, "  {name:<9} {value}");
    }
    for section in &report.sections {
        let _ = write!(out, "\n{} [{}]\n", section.title, section.unit);
        out.push_str(&matrix(section));
        if !section.rows.is_empty() {
            let _ = writeln!(out, "  {}", section.verdict());
        }
        for remark in &section.remarks {
            let _ = writeln!(out, "  note: {remark}");
        }
    }
    if !report.targets.is_empty() {
        out.push_str("\nTargets\n");
        let rows = report.targets.iter().map(|target| {
            let target_cells = [&target.what, &target.goal, &target.measured].map(Clone::clone);
            [&target_cells[..], &[target.verdict().to_owned()]].concat()
        });
        out.push_str(&aligned(&rows.collect::<Vec<_>>()));
    }
    out
}

/// The figures of a section, each as `median ±spread` over its repetitions.
fn matrix(section: &Section) -> String {
    let head = [vec![String::new()], section.columns.clone()].concat();
    let rows = section.rows.iter().map(|(name, cells)| {
        let cells =
            (0..section.columns.len()).map(|at| cell(cells.get(at).and_then(Option::as_ref)));
        [vec![name.clone()], cells.collect()].concat()
    });
    aligned(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

/// `12.3 ±2% (5)`, with `!` when there is none but slow samples.
pub(super) fn cell(figure: Option<&Figure>) -> String {
    let Some((figure, summary)) = figure.and_then(|figure| Some((figure, figure.summary()?)))
    else {
        return "–".to_owned();
    };
    let spread = summary.spread() * 50.0;
    let slow = if figure.is_slow() { " !slow" } else { "" };
    format!("{} ±{spread:.0}% ({}){slow}", short(summary.median), summary.count)
}

/// Rows of cells in columns of equal width: the first to the left, the others to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        out.push(' ');
        for (at, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[at] - cell.chars().count());
            let (left, right) = if at == 0 { ("", pad.as_str()) } else { (pad.as_str(), "") };
            let _ = write!(out, " {left}{cell}{right} ");
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out
}
