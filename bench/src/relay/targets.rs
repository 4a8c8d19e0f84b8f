//! The goals for the data plane, beside what was measured. Ratios compare medians of one interleaved run.

use dmsg_bench::report::{Report, Target};

use super::{
    contender::Contender,
    end_to_end::AEAD,
    neighbours::{ALONE, BESIDE, ONE, TWO},
    rivals::Rival,
};

const OURS: &str = "dmsg io_uring";

/// Adds the targets whose parts were run.
pub(super) fn judge(report: &mut Report) {
    let mut targets = Vec::new();
    bulk(report, &mut targets);
    small(report, &mut targets);
    setup(report, &mut targets);
    others(report, &mut targets);
    report.targets.extend(targets);
}

/// The median of a figure.
fn median(report: &Report, section: &str, row: &str, column: &str) -> Option<f64> {
    Some(report.section(section)?.find(row, column)?.median())
}

fn bulk(report: &Report, targets: &mut Vec<Target>) {
    let Some(section) = report.section("relay-64-pairs") else { return };
    for column in ["16 KiB", "4 KiB"] {
        for (rival, goal) in [
            (Rival::Splice.name(), 0.55),
            (Rival::Tokio256.name(), 1.1),
            (Rival::Monoio.name(), 2.0),
            (Rival::TokioUring.name(), 2.0),
            (Contender::Peer.name(), 4.0),
        ] {
            let ratio = section.ratio(OURS, rival, column);
            if rival != Contender::Peer.name() || ratio.is_some() {
                let what =
                    format!("bytes per server-CPU-second, 64 pairs, {column}, against {rival}");
                targets.push(Target::at_least(&what, goal, "×", ratio));
            }
        }
    }
    let frames = median(report, "relay-64-pairs", OURS, "64 B").map(|gb| gb * 1e9 / 64.0 / 1e6);
    targets.push(Target::at_least(
        "64-byte frames in bulk, 64 pairs",
        60.0,
        "million per CPU-s",
        frames,
    ));
}

fn small(report: &Report, targets: &mut Vec<Target>) {
    if let Some(section) = report.section("chat-512") {
        let column = "CPU per frame";
        let epoll = Contender::EPOLL.name();
        let ratio = section.ratio(OURS, epoll, column);
        targets.push(Target::at_most(
            "512 connections, 64 B: io_uring against epoll",
            1.05,
            "×",
            ratio,
        ));
        for row in [OURS, epoll] {
            let what = format!("512 connections, 64 B: CPU per frame, {row}");
            targets.push(Target::at_most(
                &what,
                1.7,
                "µs",
                median(report, "chat-512", row, column),
            ));
        }
    }
    if report.section("rtt").is_some() {
        let p50 = |row| median(report, "rtt", row, "p50");
        let above = p50(OURS).zip(p50(Rival::ReadWrite.name())).map(|(ours, proxy)| ours - proxy);
        targets.push(Target::at_most("ping-pong p50 above a plain proxy's", 1.0, "µs", above));
    }
}

fn setup(report: &Report, targets: &mut Vec<Target>) {
    if report.section("opens").is_some() {
        let cost = median(report, "opens", OURS, "together");
        targets.push(Target::at_most("stream open, server CPU", 75.0, "µs", cost));
    }
    if report.section("dial").is_some() {
        let cost = median(report, "dial", OURS, "CPU of both clients");
        targets.push(Target::at_most("whole dial, CPU of both clients", 600.0, "µs", cost));
    }
    if report.section("handshakes").is_some() {
        let rate = median(report, "handshakes", OURS, "handshakes");
        targets.push(Target::at_least(
            "session handshakes per server core",
            6000.0,
            "per CPU-s",
            rate,
        ));
    }
    if report.section("memory").is_some() {
        let held = |column| median(report, "memory", OURS, column);
        targets.push(Target::at_most(
            "memory per idle session",
            4096.0,
            "bytes",
            held("per session"),
        ));
        let stream = held("per relayed stream");
        targets.push(Target::at_most("memory per idle relayed stream", 512.0, "bytes", stream));
    }
}

fn others(report: &Report, targets: &mut Vec<Target>) {
    if let Some(section) = report.section("fairness") {
        let at = |row| Some(section.find(row, OURS)?.median());
        let kept = at(BESIDE).zip(at(ALONE)).map(|(beside, alone)| beside / alone);
        targets.push(Target::at_least(
            "throughput kept beside 2,000 stalled streams",
            0.8,
            "×",
            kept,
        ));
    }
    if let Some(section) = report.section("end-to-end") {
        for (column, what) in [("sealing client", "seals"), ("opening client", "opens")] {
            let ratio = section.ratio(OURS, AEAD, column);
            let told = format!("end to end: a client {what}, against the AEAD alone");
            targets.push(Target::at_least(&told, 0.7, "×", ratio));
        }
        let client = |column| median(report, "end-to-end", OURS, column);
        let slower = client("sealing client").zip(client("opening client")).map(|(a, b)| a.min(b));
        let told = "end to end, one core for each client (4 × the Go client's 0.35)";
        targets.push(Target::at_least(told, 1.4, "GB/s", slower));
    }
    if let Some(section) = report.section("cores") {
        let at = |row| Some(section.find(row, OURS)?.median());
        let ratio = at(TWO).zip(at(ONE)).map(|(two, one)| two / one);
        let mut target = Target::at_least("two server cores against one", 1.7, "×", ratio);
        if section.unit != "GB/s" {
            target.measured =
                format!("{} per CPU-second, no CPU for a second thread here", target.measured);
            target.met = None;
        }
        targets.push(target);
    }
}
