//! `tampu demo` leaves nothing running, however it ends.

use std::process::{Command, Stdio};

use crate::harness::eventually;

#[test]
fn the_gateway_of_a_demo_that_is_killed_ends_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_tampu"))
        .arg("demo")
        .env("TMPDIR", directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let gateway = eventually("the demo starts a gateway", || {
        assert!(demo.try_wait().unwrap().is_none(), "the demo has ended");
        child_that_runs(demo.id())
    });
    demo.kill().unwrap();
    demo.wait().unwrap();
    eventually("the gateway ends", || (!is_alive(gateway)).then_some(()));
}

/// A process that `parent` has started and that is a gateway already.
fn child_that_runs(parent: u32) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.find(|process| {
        let command = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        let runs = command.split(|byte| *byte == 0).nth(1) == Some(b"run");
        runs && stat(*process).is_some_and(|(_, its_parent)| its_parent == parent)
    })
}

/// One that nobody has waited for yet has ended all the same.
fn is_alive(process: u32) -> bool {
    stat(process).is_some_and(|(state, _)| state != "Z")
}

/// State and parent of a process: proc_pid_stat(5). The name before them may hold anything but a last `)`.
fn stat(process: u32) -> Option<(String, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}
