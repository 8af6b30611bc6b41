//! `docs/mqtt-conformance.md` and the tests say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Of a statement, by version: the tests that show it.
type Shown = BTreeMap<(&'static str, String), BTreeSet<String>>;

#[test]
fn the_page_names_the_tests_of_each_statement_and_no_others() {
    let (page, tests) = (page(), tests());
    let mut wrong = vec![];
    for (statement, named) in &tests {
        if !page.contains_key(statement) {
            wrong.push(format!("{statement:?} is not in the page, but in {named:?}"));
        }
    }
    for (statement, named) in &page {
        // What has a path of its own is shown elsewhere.
        let here = named.iter().filter(|name| !name.contains('/')).cloned().collect::<BTreeSet<_>>();
        let expected = tests.get(statement).cloned().unwrap_or_default();
        if here != expected {
            wrong.push(format!("{statement:?}: the page has {here:?}, the tests {expected:?}"));
        }
        for name in named.iter().filter(|name| name.contains('/')) {
            let (file, function) = name.split_once("::").unwrap_or((name, ""));
            let is_there = match root().join(file) {
                path if path.is_dir() => function.is_empty(),
                path => {
                    std::fs::read_to_string(path).is_ok_and(|text| text.contains(&format!("fn {function}")))
                }
            };
            if !is_there {
                wrong.push(format!("{statement:?}: there is no {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Rows `| MQTT-1.2.3-4 | words | how |` below the heading of their version.
fn page() -> Shown {
    let text = read(&root().join("docs/mqtt-conformance.md"));
    let (mut shown, mut version) = (Shown::new(), "");
    for line in text.lines() {
        match line {
            "## MQTT 3.1.1" => version = "v3",
            "## MQTT 5.0" => version = "v5",
            _ => {}
        }
        let Some(row) = line.strip_prefix("| MQTT-") else { continue };
        let cells: Vec<_> = row.trim_end_matches('|').split(" | ").map(str::trim).collect();
        let [number, words, how] = cells[..] else { panic!("{line}") };
        assert!(!words.is_empty() && !how.is_empty(), "{line}");
        let names = how.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let earlier = shown.insert((version, format!("MQTT-{number}")), names);
        assert_eq!(earlier, None, "twice: {line}");
    }
    shown
}

/// The doc comments `/// v3: MQTT-…, MQTT-… · v5: MQTT-…` of the tests, by module and name.
fn tests() -> Shown {
    let mut shown = Shown::new();
    for entry in std::fs::read_dir(root().join("tests/conformance")).expect("it is there") {
        let path = entry.expect("it can be read").path();
        let module = path.file_stem().expect("it has a name").to_string_lossy().into_owned();
        let mut statements = vec![];
        for line in read(&path).lines().map(str::trim) {
            if let Some(doc) = line.strip_prefix("/// v") {
                statements.extend(format!("v{doc}").split(" · ").flat_map(statements_of));
            } else if let Some(rest) = line.strip_prefix("fn ") {
                let name = rest.split('(').next().unwrap_or_default();
                for statement in statements.drain(..) {
                    shown.entry(statement).or_default().insert(format!("{module}::{name}"));
                }
            }
        }
    }
    assert!(shown.len() > 300, "{} statements were found in the tests", shown.len());
    shown
}

/// `v3: MQTT-a, MQTT-b`.
fn statements_of(text: &str) -> Vec<(&'static str, String)> {
    let (version, list) = text.split_once(": ").expect("a version and its statements");
    let version = if version == "v3" { "v3" } else { "v5" };
    list.split(", ").map(|statement| (version, statement.trim().to_owned())).collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
