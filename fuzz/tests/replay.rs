//! Plays every file of `corpus/<target>` and some random inputs against each target, without a fuzzer.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

/// Random inputs per target, beside the corpus.
const RANDOM_INPUTS: u64 = 200;

#[test]
fn corpora_replay_clean() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, run) in dmsg_fuzz::TARGETS {
        let mut count = 0;
        for file in fs::read_dir(corpora.join(name)).unwrap() {
            let path = file.unwrap().path();
            println!("{}", path.display());
            run(&fs::read(path).unwrap());
            count += 1;
        }
        assert!(count > 0, "the corpus of {name} is empty");
        println!("{name}: {count} inputs");
    }
}

#[test]
fn random_inputs_run_clean() {
    for (name, run) in dmsg_fuzz::TARGETS {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..RANDOM_INPUTS {
            let mut bytes = Vec::new();
            for _ in 0..(round * 7 % 600) {
                // xorshift64
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                bytes.push(state as u8);
            }
            println!("{name} {round}");
            run(&bytes);
        }
    }
}

#[test]
fn every_target_has_a_program() {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets");
    for (name, _) in dmsg_fuzz::TARGETS {
        assert!(programs.join(format!("{name}.rs")).is_file(), "no program for {name}");
    }
    assert_eq!(fs::read_dir(programs).unwrap().count(), dmsg_fuzz::TARGETS.len());
}
