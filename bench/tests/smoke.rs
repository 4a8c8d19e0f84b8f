//! The program still runs: two small parts of the data plane, every party started, bytes compared. No figure is judged.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{fs, process::Command};

#[test]
fn a_short_run_measures_and_reports() {
    let folder = std::env::temp_dir().join(format!("dmsg-bench-smoke-{}", std::process::id()));
    let json = folder.join("out.json");
    let run = Command::new(env!("CARGO_BIN_EXE_dmsg-bench"))
        .args([
            "--only",
            "rtt",
            "--only",
            "handshakes",
            "--contender",
            "epoll",
            "--contender",
            "splice",
        ])
        .args(["--repeats", "1", "--tries", "1", "--time-ms", "20", "--json"])
        .arg(&json)
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let report: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let rows = |section: usize| report["sections"][section]["rows"].as_array().unwrap().clone();
    assert_eq!((rows(0).len(), rows(1).len()), (2, 1), "{report}");
    for row in rows(0).iter().chain(&rows(1)) {
        assert!(row[1][0]["samples"][0].as_f64().unwrap() > 0.0, "{row}");
        assert!(
            row[1][0]["verdicts"][0]["slow"].is_boolean(),
            "no figure without a verdict: {row}"
        );
    }
    let table = String::from_utf8(run.stdout).unwrap();
    assert!(table.contains("gate:") && table.contains("Targets"), "{table}");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn an_unknown_part_is_an_error_that_says_what_to_do() {
    let run = Command::new(env!("CARGO_BIN_EXE_dmsg-bench")).args(["--only", "nothing"]).output();
    let run = run.unwrap();
    assert!(!run.status.success() && run.stdout.is_empty());
    assert!(String::from_utf8_lossy(&run.stderr).contains("--list"));
}

/// The whole of it, 200,000 cycles, is in docs/benchmarks/cycles.md.
#[test]
fn whatever_is_given_up_at_any_point_leaves_nothing() {
    let run = Command::new(env!("CARGO_BIN_EXE_dmsg-bench"))
        .args(["cycles", "--cycles", "2000", "--tasks", "8"])
        .output()
        .unwrap();
    let (table, log) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{table}\n{log}");
    assert!(table.contains("streams left anywhere"), "{table}");
}
