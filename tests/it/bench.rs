//! `bench` says everything it measures, in figures. How large they are is the machine's affair.

use std::{fs, process::Command};

use assert_cmd::prelude::*;

use crate::recording::{images, small};

/// What is measured at each latency, and against what.
const ROWS: [(&str, &str); 5] = [
    ("dump", "one read at a time"),
    ("random 8-byte reads", "one read at a time"),
    ("attach", "one read at a time"),
    ("ps, attached", "one member at a time"),
    ("dmesg, attached", "one read at a time"),
];
const CEILING: (&str, &str) = ("dump", "bare UDP loop, same datagrams");

#[test]
fn every_row_is_there_and_every_figure_is_one() {
    let machine = small();
    let directory = tempfile::tempdir().unwrap();
    let vmlinux = directory.path().join("vmlinux");
    fs::write(&vmlinux, machine.vmlinux().unwrap()).unwrap();
    let mut command = Command::cargo_bin("nettlp-gdb").unwrap();
    command.args([
        "bench",
        "--json",
        "--rounds",
        "1",
        "--transfer",
        "1M",
        "--latency-us",
        "0",
        "--latency-us",
        "50",
    ]);
    command.arg("--vmlinux").arg(&vmlinux).env_remove("RUST_LOG");
    command.args(images(&machine, &directory));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let rows: Vec<serde_json::Value> = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    let found: Vec<(u64, &str, &str)> = rows
        .iter()
        .map(|row| {
            let text = |key: &str| row[key].as_str().unwrap();
            (row["latency_us"].as_u64().unwrap(), text("what"), text("against"))
        })
        .collect();
    let mut wanted: Vec<_> =
        [0, 50].into_iter().flat_map(|us| ROWS.map(|(what, against)| (us, what, against))).collect();
    wanted.insert(1, (0, CEILING.0, CEILING.1));
    assert_eq!(found, wanted);
    for row in &rows {
        for key in ["ours", "theirs", "ratio"] {
            let figure = row[key].as_f64().unwrap_or(f64::NAN);
            assert!(figure.is_finite() && figure > 0.0, "{key} of {row}");
        }
    }
}
