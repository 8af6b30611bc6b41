//! What no compiler checks: the layers, the size of files, and words that must not stay.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Lines of a source file. A test module beside its code may be longer: it is read case by case.
const MAX_LINES: usize = 500;
const MAX_TEST_LINES: usize = 1_000;

/// What each module may import of the others, besides itself. It points down the path of a reading.
const LAYERS: &[(&str, &[&str])] = &[
    ("message", &[]),
    ("config", &["message"]),
    ("clock", &["message", "config"]),
    ("tasks", &[]),
    ("pki", &["message", "config", "clock"]),
    ("audit", &["message", "config", "clock"]),
    ("authorize", &["message", "config", "clock", "pki", "audit"]),
    ("buffer", &["message", "config"]),
    ("relay", &["message", "config", "clock", "tasks", "buffer", "sink"]),
    ("broker", &["message", "config", "clock", "tasks", "authorize", "buffer", "relay"]),
    ("listener", &["message", "config", "clock", "tasks", "pki", "authorize", "broker"]),
    ("sink", &["message", "config", "clock"]),
    ("forwarder", &["message", "config", "clock", "tasks", "buffer", "sink"]),
    ("web", &["message", "config", "clock", "tasks", "pki", "authorize"]),
    ("firmware", &["message", "config", "clock", "authorize", "web"]),
    ("messages", &["message", "config", "clock", "authorize", "relay"]),
    (
        "api",
        &[
            "messages",
            "message",
            "config",
            "clock",
            "tasks",
            "buffer",
            "forwarder",
            "broker",
            "relay",
            "authorize",
            "pki",
            "audit",
            "web",
            "firmware",
        ],
    ),
];

/// The wiring and what stands on it may import anything.
const ON_TOP: &[&str] = &["gateway", "cli", "demo", "lib", "main"];

#[test]
fn imports_point_down_the_path() {
    let allowed: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    let mut wrong = Vec::new();
    for file in files(&["src"], "rs") {
        let module = module_of(&file);
        if ON_TOP.contains(&module.as_str()) || is_test(&file) {
            continue;
        }
        let Some(layers) = allowed.get(module.as_str()) else {
            wrong.push(format!("{}: the module {module} has no line in LAYERS", file.display()));
            continue;
        };
        for import in imports(&without_tests(&read(&file))) {
            if import != module && !layers.contains(&import.as_str()) {
                wrong.push(format!("{}: {module} may not import {import}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_way_to_write_an_import_is_seen() {
    let source = "use crate::config;\n\
                  use crate::buffer::{Reader, Writer};\n\
                  use crate::{\n    broker::{self, Peer}, sink as s,\n};\n\
                  // crate::comment is not one\n\
                  fn f() { crate::pki::open() }\n";
    let expected = ["broker", "buffer", "config", "pki", "sink"];
    assert_eq!(imports(source), expected.into_iter().map(str::to_owned).collect());
}

#[test]
fn a_file_can_be_read_at_a_sitting() {
    let mut long = Vec::new();
    for file in files(&["src", "tests", "benches"], "rs") {
        let lines = read(&file).lines().count();
        let most = if is_test(&file) { MAX_TEST_LINES } else { MAX_LINES };
        if lines > most {
            long.push(format!("{} has {lines} lines, more than {most}", file.display()));
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn nothing_is_left_for_later() {
    // Split, so that this file does not find itself.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("todo", "!("),
        concat!("unimple", "mented!("),
    ];
    let mut found = Vec::new();
    for file in files(&["src", "tests", "benches", "packaging"], "") {
        for (number, line) in read(&file).lines().enumerate() {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The commands that the README shows, as arguments of the program.
#[test]
fn the_program_knows_every_command_that_the_readme_shows() {
    let readme = read(&root().join("README.md"));
    let commands = shown_commands(&readme);
    let names: BTreeSet<_> = commands.iter().filter_map(|arguments| arguments.first().cloned()).collect();
    assert!(names.contains("demo") && names.contains("run"), "the README shows {names:?}");
    for arguments in commands {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tampu"))
            .args(&arguments)
            .arg("--help")
            .output()
            .expect("the program starts");
        assert!(
            output.status.success(),
            "tampu {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn commands_are_found_in_every_form_that_a_readme_uses() {
    let readme = "text: tampu no\n```sh\n$ cargo run --release -- demo\nsudo tampu run --config F   # starts\n\
                  apt install tampu\n```\ntampu neither\n";
    assert_eq!(shown_commands(readme), [vec!["demo"], vec!["run", "--config", "F"]]);
}

fn shown_commands(readme: &str) -> Vec<Vec<String>> {
    let blocks = readme.split("```").skip(1).step_by(2);
    let lines = blocks.flat_map(str::lines).map(|line| line.split(" #").next().unwrap_or_default().trim());
    let strip = |line: &str| -> Option<Vec<String>> {
        let line = line.strip_prefix("$ ").unwrap_or(line);
        let line = line.strip_prefix("sudo ").unwrap_or(line);
        let rest = line
            .strip_prefix("tampu ")
            .or_else(|| line.strip_prefix("./target/release/tampu "))
            .or_else(|| {
                let (_, arguments) = line.strip_prefix("cargo run")?.split_once("-- ")?;
                Some(arguments)
            })?;
        Some(rest.split_whitespace().map(str::to_owned).collect())
    };
    lines.filter_map(strip).collect()
}

/// The modules named after `crate::`, outside of comments.
fn imports(source: &str) -> BTreeSet<String> {
    let code: String = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut found = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        let rest = &code[at + path.len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_members(group)),
            None => found.extend(identifier(rest)),
        }
    }
    found
}

/// The first identifiers of `a::{b, c}, d as e}…`: `a` and `d`.
fn group_members(group: &str) -> Vec<String> {
    let mut depth = 0_usize;
    let mut starts = vec![0];
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => starts.push(at + 1),
            _ => {}
        }
    }
    starts.into_iter().filter_map(|at| identifier(group[at..].trim_start())).collect()
}

fn identifier(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    // `crate::Something` is a re-export of the crate's root, of which there are none.
    (!name.is_empty()).then_some(name)
}

/// The part of a file above its own test module.
fn without_tests(source: &str) -> String {
    let end = source.find("#[cfg(test)]\nmod tests {").unwrap_or(source.len());
    source[..end].to_owned()
}

fn is_test(file: &Path) -> bool {
    file.starts_with(root().join("tests")) || file.iter().any(|part| part == "tests" || part == "tests.rs")
}

/// `src/broker/session.rs` → `broker`, `src/tasks.rs` → `tasks`.
fn module_of(file: &Path) -> String {
    let below = file.strip_prefix(root().join("src")).expect("it was found there");
    let first = below.iter().next().expect("it has a name").to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

fn files(directories: &[&str], extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open: Vec<_> = directories.iter().map(|directory| root().join(directory)).collect();
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()))
        {
            let path = entry.expect("the directory can be read").path();
            if path.is_dir() {
                open.push(path);
            } else if extension.is_empty() || path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "nothing was found in {directories:?}");
    found
}

fn read(file: &Path) -> String {
    let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
