//! The commands beside the daemon: what they print, and their exit codes.

use std::process::{Command, Stdio};

use crate::harness::mqtt::Device;
use crate::harness::{Gateway, Home, LogLine, text, utf8};

/// `EX_CONFIG` of sysexits.h.
const EXIT_CONFIG: i32 = 78;

#[test]
fn check_prints_every_problem_with_its_key_and_file() {
    let home = Home::new(
        "[listener]\nadress = \"0.0.0.0:8883\"\nmax_packet = \"1 TB\"\n\
         [[stream]]\nname = \"air\"\ntopic = \"a/#/b\"\n\
         [[sink]]\nname = \"cloud\"\ntype = \"supabase\"\nurl = \"ftp://example.org\"\nkey = { env = \"NO_SUCH_VARIABLE\" }\n",
    );
    let output = home.tampu(&["check"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(EXIT_CONFIG), "{said}");
    for expected in [
        "listener.adress",
        "did you mean \"address\"",
        "listener.max_packet",
        "stream.air.topic",
        "sink.cloud.url",
        "NO_SUCH_VARIABLE",
        "config.toml",
        "5 problems",
    ] {
        assert!(said.contains(expected), "{expected} is not in:\n{said}");
    }
}

#[test]
fn check_never_shows_a_secret() {
    let home = Home::new(
        "[[sink]]\nname = \"cloud\"\ntype = \"supabase\"\nurl = \"https://example.org\"\nkey = \"sb_secret_hunter2\"\ntabel = \"x\"\n",
    );
    let output = home.tampu(&["check"]);
    assert_eq!(output.status.code(), Some(EXIT_CONFIG));
    assert!(!text(&output).contains("hunter2"), "{}", text(&output));
}

#[test]
fn check_is_content_with_nothing_at_all() {
    let output = Home::new("").tampu(&["check"]);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn run_with_a_bad_configuration_ends_before_it_touches_anything() {
    let home = Home::new("[buffer]\nmax_size = \"much\"\n");
    let output = home.tampu(&["run"]);
    assert_eq!(output.status.code(), Some(EXIT_CONFIG), "{}", text(&output));
    assert!(text(&output).contains("buffer.max_size"), "{}", text(&output));
    assert!(!home.path("data").exists());
}

#[test]
fn a_command_line_that_is_wrong_has_a_code_of_its_own() {
    let output = Home::new("").tampu(&["runn"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}

#[test]
fn init_writes_a_configuration_that_check_approves() {
    let home = Home::new("");
    let file = home.path("new.toml");
    let tampu = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_tampu"))
            .args(arguments)
            .arg("--config")
            .arg(&file)
            .env("TAMPU_GATEWAY__DATA_DIR", home.path("data"))
            .stdin(Stdio::null())
            .output()
            .expect("the program starts")
    };
    let made = tampu(&["init"]);
    assert!(made.status.success(), "{}", text(&made));
    let checked = tampu(&["check"]);
    assert!(checked.status.success(), "{}", text(&checked));
    // A second one must not overwrite what the operator has written since.
    std::fs::write(&file, "# mine\n").unwrap();
    tampu(&["init"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "# mine\n");
}

#[test]
fn devices_are_listed_and_shown_and_made_once() {
    let home = Home::new("");
    home.device("plug");
    home.device("lamp");
    let list = text(&home.tampu(&["device", "list"]));
    assert!(list.contains("plug") && list.contains("lamp"), "{list}");
    let shown = home.tampu(&["device", "show", "plug"]);
    assert!(shown.status.success() && text(&shown).contains("plug"), "{}", text(&shown));
    let unknown = home.tampu(&["device", "show", "nobody"]);
    assert!(!unknown.status.success(), "{}", text(&unknown));

    let key = std::fs::read(home.path("devices/plug.key")).unwrap();
    let again =
        home.tampu(&["device", "add", "plug", "--format", "pem", "--out", utf8(&home.path("devices"))]);
    assert!(!again.status.success(), "{}", text(&again));
    assert_eq!(
        std::fs::read(home.path("devices/plug.key")).unwrap(),
        key,
        "the key of a device was overwritten"
    );
}

#[test]
fn the_key_of_a_device_can_be_read_by_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new("");
    let plug = home.device("plug");
    for file in [plug.key, home.path("data/pki/ca.key")] {
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
}

#[test]
fn a_name_that_cannot_stand_in_a_topic_is_no_device() {
    let home = Home::new("");
    for name in ["a/b", "#", "..", ""] {
        let output = home.tampu(&["device", "add", name]);
        assert!(!output.status.success(), "{name:?}: {}", text(&output));
    }
}

#[test]
fn buffer_status_says_the_same_of_a_gateway_that_runs_and_of_one_that_does_not() {
    let gateway = Gateway::start("");
    let mut plug = Device::connect(gateway.address, &gateway.home.device("plug"), "plug");
    for n in 0..7 {
        plug.publish("plug/readings", &format!("{{\"n\":{n}}}"));
    }
    let accepted = |home: &Home| {
        let output = home.tampu(&["buffer", "status", "--json"]);
        assert!(output.status.success(), "{}", text(&output));
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
        status["buffer"]["accepted"].clone()
    };
    assert_eq!(accepted(&gateway.home), 7);
    let (_, home) = gateway.terminate();
    assert_eq!(accepted(&home), 7);
    let words = home.tampu(&["buffer", "status"]);
    assert!(text(&words).contains('7'), "{}", text(&words));
}

#[test]
fn looking_for_devices_where_there_is_no_gateway_makes_nothing_and_says_where_it_looked() {
    let home = Home::new("");
    for command in [["device", "list"].as_slice(), &["device", "list", "--json"], &["device", "show", "plug"]]
    {
        let output = home.tampu(command);
        let said = text(&output);
        assert!(!output.status.success(), "{said}");
        assert!(said.contains(utf8(&home.path("data/pki"))) && said.contains("--config"), "{said}");
    }
    assert!(!home.path("data").exists());
}

#[test]
fn a_new_ca_is_told_once() {
    let home = Home::new("");
    let add = |name| {
        let output = home.tampu(&["device", "add", name]);
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stderr).unwrap()
    };
    let said = add("plug");
    assert!(said.contains("made a new CA") && said.contains(utf8(&home.path("data/pki"))), "{said}");
    assert_eq!(add("lamp"), "");
}

#[test]
fn a_ca_key_that_is_damaged_is_told_by_check_and_at_the_start() {
    let (_, home) = Gateway::start("").terminate();
    std::fs::write(home.path("data/pki/ca.key"), "garbage").unwrap();
    let output = home.tampu(&["check"]);
    assert_eq!(output.status.code(), Some(EXIT_CONFIG), "{}", text(&output));
    assert!(text(&output).contains("restore ca.key from a backup"), "{}", text(&output));

    let gateway = home.start();
    let told =
        |line: &LogLine| line.level() == "ERROR" && line.text().contains("restore ca.key from a backup");
    gateway.wait_for_log("the key is told", told);
}

/// A directory that belongs to somebody else, whoever runs this.
fn give_away(directory: &std::path::Path) {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(directory, Some(65_534), Some(65_534)).unwrap();
    } else {
        std::fs::rename(directory, directory.with_extension("mine")).unwrap();
        std::os::unix::fs::symlink("/", directory).unwrap();
    }
}

#[test]
fn the_buffer_of_another_user_is_not_opened() {
    let (_, home) = Gateway::start("").terminate();
    let buffer = home.path("data/buffer");
    give_away(&buffer);
    let list = || {
        let names = std::fs::read_dir(&buffer).unwrap().map(|entry| entry.unwrap().file_name());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    let before = list();
    let output = home.tampu(&["buffer", "status"]);
    let said = text(&output);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("sudo -u") && said.contains(utf8(&buffer)), "{said}");
    assert_eq!(list(), before);
}

#[test]
fn without_a_configuration_the_daemon_runs_and_says_what_to_do_next() {
    let home = Home::new("");
    let log = std::fs::File::create(home.path("log")).unwrap();
    // Not `--config`: the data directory is the one that systemd would pass.
    let mut child = Command::new(env!("CARGO_BIN_EXE_tampu"))
        .arg("run")
        .env("STATE_DIRECTORY", home.path("data"))
        .env("TAMPU_LISTENER__ADDRESS", "127.0.0.1:0")
        .env("TAMPU_API__ADDRESS", "127.0.0.1:0")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    crate::harness::eventually("it serves", || home.status());
    let says_what_is_next = || home.log().contains("tampu device add").then_some(());
    crate::harness::eventually("it says what to do next", says_what_is_next);
    child.kill().unwrap();
    child.wait().unwrap();
}
