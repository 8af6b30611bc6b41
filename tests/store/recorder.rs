//! Builds `recorder.c`, and reads the log that it writes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

/// One entry of the log, in the order in which things happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// A file came to be under this path. Inode numbers are used again after an unlink.
    Create {
        ino: u64,
        path: String,
    },
    Write {
        ino: u64,
        at: u64,
        data: Vec<u8>,
    },
    Truncate {
        ino: u64,
        len: u64,
    },
    Rename {
        from: String,
        to: String,
    },
    /// A file or an empty directory went.
    Unlink {
        path: String,
    },
    Mkdir {
        ino: u64,
        path: String,
    },
    /// fsync or fdatasync of a file or a directory was called.
    SyncBegin {
        ino: u64,
        id: u64,
    },
    /// It came back.
    SyncEnd {
        ino: u64,
        id: u64,
        outcome: SyncOutcome,
    },
    /// What the driver had to say at this point.
    Mark(String),
    /// A call was made to fail.
    Fault,
    /// A file or directory that was there is seen for the first time by this process.
    Open {
        ino: u64,
        path: String,
    },
    /// A change that this model does not know.
    Unsupported(String),
}

/// How a sync came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SyncOutcome {
    Done,
    /// The page cache keeps the data, marked as clean (ext4, xfs).
    Failed,
    /// The page cache went back to what is on disk (btrfs).
    Dropped,
}

/// The recorder as a shared library, built once a run of the tests.
pub(super) fn library() -> &'static Path {
    static BUILT: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = BUILT.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("librecorder.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store/recorder.c");
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-O2", "-Wall", "-o"])
            .args([&library, &source])
            .args(["-ldl", "-lpthread"])
            .status()
            .expect("these tests need a C compiler called cc (Debian: apt-get install gcc)");
        assert!(status.success(), "recorder.c does not compile");
        (dir, library)
    });
    path
}

/// Makes a command record what it does below `dir`. `marks` is the file that takes its marks.
pub(super) fn record(command: &mut Command, dir: &Path, log: &Path, marks: &Path) {
    command
        .env("LD_PRELOAD", library())
        .env("STORE_RECORD_DIR", dir.canonicalize().unwrap())
        .env("STORE_RECORD_LOG", log)
        .env("STORE_RECORD_MARKS", marks);
}

/// Reads a whole log.
pub(super) fn read_log(path: &Path) -> Vec<Entry> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = bytes.as_slice();
    let mut entries = Vec::new();
    while !rest.is_empty() {
        entries.push(take_entry(&mut rest));
    }
    entries
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (head, tail) = rest.split_at_checked(len).expect("the log ends inside an entry");
    *rest = tail;
    head
}

fn take_entry(rest: &mut &[u8]) -> Entry {
    let u32_of = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().unwrap());
    let u64_of = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap());
    let op = u32_of(take(rest, 4));
    let path_bytes = u32_of(take(rest, 4)) as usize;
    let ino = u64_of(take(rest, 8));
    let at = u64_of(take(rest, 8));
    let data_bytes = u64_of(take(rest, 8)) as usize;
    let path = String::from_utf8(take(rest, path_bytes).to_vec()).unwrap();
    let data = take(rest, data_bytes).to_vec();
    let text = |data: Vec<u8>| String::from_utf8(data).unwrap();
    match op {
        1 => Entry::Create { ino, path },
        2 => Entry::Write { ino, at, data },
        3 => Entry::Truncate { ino, len: at },
        4 => Entry::Rename { from: path, to: text(data) },
        5 => Entry::Unlink { path },
        6 => Entry::Mkdir { ino, path },
        7 => Entry::SyncBegin { ino, id: at },
        8 => {
            let outcome = match path.as_str() {
                "" => SyncOutcome::Done,
                "dropped" => SyncOutcome::Dropped,
                _ => SyncOutcome::Failed,
            };
            Entry::SyncEnd { ino, id: at, outcome }
        }
        9 => Entry::Mark(text(data)),
        10 => Entry::Fault,
        11 => Entry::Unsupported(path),
        12 => Entry::Open { ino, path },
        other => panic!("unknown entry {other} in the log"),
    }
}

/// A kind of call that is made to fail.
#[derive(Debug, Clone, Copy)]
pub(super) enum Call {
    Write,
    Sync,
}

/// Calls of a recorded command that fail: `count` of them, from the `first` on, counted from 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failing {
    pub call: Call,
    pub first: usize,
    pub count: usize,
    pub errno: i32,
    /// Each of them takes so long.
    pub after: Duration,
    /// After a failed sync the page cache shows what is on disk.
    pub drop_data: bool,
}

/// Makes calls of a recorded command fail.
pub(super) fn fail(command: &mut Command, failing: Failing) {
    let kind = match failing.call {
        Call::Write => "write",
        Call::Sync => "sync",
    };
    command.env("STORE_FAULT", format!("{kind} {} {} {}", failing.first, failing.count, failing.errno));
    command.env("STORE_FAULT_AFTER_MS", failing.after.as_millis().to_string());
    if failing.drop_data {
        command.env("STORE_FAULT_DROP", "1");
    }
}
