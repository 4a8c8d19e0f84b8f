//! The report page: Markdown with SVG plots beside it, for `docs/benchmarks/`.

use std::{fmt::Write, fs, path::Path};

use super::{Report, Section, plot, table};
use crate::Result;

/// Writes `NAME.md` and one plot per section into `folder`.
pub(super) fn write(report: &Report, folder: &Path) -> Result<()> {
    let told = |error| format!("cannot write to {}: {error}", folder.display());
    fs::create_dir_all(folder).map_err(told)?;
    for section in &report.sections {
        fs::write(folder.join(plot_name(report, section)), plot::svg(section)?).map_err(told)?;
    }
    fs::write(folder.join(format!("{}.md", report.name)), page(report)).map_err(told)?;
    Ok(())
}

fn plot_name(report: &Report, section: &Section) -> String {
    format!("{}-{}.svg", report.name, section.id)
}

fn page(report: &Report) -> String {
    let mut out = format!("# {}\n\n| | |\n| --- | --- |\n", report.title);
    for (name, value) in report.facts.rows() {
        let _ = writeln!(out, "| {name} | {} |", escaped(&value));
    }
    out.push_str(
        "\nEach figure is the median of its repetitions, ± half the distance of the extremes, with the number of \
         repetitions in brackets.\n[How to read and reproduce this](README.md).\n",
    );
    if !report.targets.is_empty() {
        out.push_str("\n## Targets\n\n| what | target | measured | |\n| --- | --- | --- | --- |\n");
        for target in &report.targets {
            let cells = [&target.what, &target.goal, &target.measured].map(|text| escaped(text));
            let _ = writeln!(out, "| {} | {} |", cells.join(" | "), target.verdict());
        }
    }
    for section in &report.sections {
        section_page(report, section, &mut out);
    }
    out
}

fn section_page(report: &Report, section: &Section, out: &mut String) {
    let _ = write!(out, "\n## {}\n\n{}\n", section.title, section.method);
    if !section.rows.is_empty() {
        let heads: Vec<_> = section.columns.iter().map(|column| escaped(column)).collect();
        let _ = write!(out, "\n| {} | {} |\n", escaped(&section.unit), heads.join(" | "));
        let _ = writeln!(out, "| --- |{}", " ---: |".repeat(heads.len()));
        for (name, cells) in &section.rows {
            let cell = |at: usize| table::cell(cells.get(at).and_then(Option::as_ref));
            let cells: Vec<_> = (0..heads.len()).map(cell).collect();
            let _ = writeln!(out, "| {} | {} |", escaped(name), cells.join(" | "));
        }
        let _ = write!(out, "\n{}.\n", section.verdict());
    }
    let better = if section.more_is_better { "more is better" } else { "less is better" };
    let plot = plot_name(report, section);
    let _ = write!(out, "\n![{}: {}, {better}]({plot})\n", section.title, section.unit);
    for remark in &section.remarks {
        let _ = write!(out, "\n{remark}\n");
    }
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}
