//! What a person who types `tampu device …` gets, tried with the tools that read it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use clap::Parser;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::*;
use crate::authorize::Registry;
use crate::clock::Clock;
use crate::config;

#[derive(Debug, clap::Parser)]
struct CommandLine {
    #[command(subcommand)]
    command: DeviceCommand,
}

struct Scene {
    dir: tempfile::TempDir,
    pki: Pki,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock =
            Clock::start(&config::Clock::default(), &dir.path().join("floor"), BTreeMap::new()).unwrap();
        let gateway = DeviceId::parse("gw").unwrap();
        let pki =
            Pki::open_or_create(&dir.path().join("pki"), &config::Pki::default(), &gateway, &clock).unwrap();
        Self { dir, pki }
    }

    /// A path below this place, as an argument.
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn place(&self) -> Place<'_> {
        let now = OffsetDateTime::now_utc();
        Place { pki: &self.pki, data_dir: self.dir.path(), port: 8883, now, certainly_past: now }
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let line = CommandLine::try_parse_from([&["device"], arguments].concat())?;
        let mut out = Vec::new();
        run(&line.command, &self.place(), &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn error(&self, arguments: &[&str]) -> String {
        format!("{:#}", self.run(arguments).unwrap_err())
    }
}

fn certificates(text: &str) -> usize {
    CertificateDer::pem_slice_iter(text.as_bytes()).filter(Result::is_ok).count()
}

fn has_key(text: &str) -> bool {
    PrivateKeyDer::from_pem_slice(text.as_bytes()).is_ok()
}

#[test]
fn the_arguments_are_consistent() {
    use clap::CommandFactory;
    CommandLine::command().debug_assert();
}

#[test]
fn pem_is_printed_whole() {
    let scene = Scene::new();
    let text = scene.run(&["add", "pump", "--host", "gw.example.org"]).unwrap();
    assert_eq!(certificates(&text), 2);
    assert!(has_key(&text));
    assert!(text.contains("gw.example.org, port 8883"), "{text}");
}

#[test]
fn an_arduino_header_is_c_that_holds_the_pem_texts() {
    let scene = Scene::new();
    let out = scene.path("sketch");
    let printed =
        scene.run(&["add", "pump", "--format", "arduino", "--host", "gw.local", "--out", &out]).unwrap();
    assert!(printed.contains("secrets.h"), "{printed}");
    let header = std::fs::read_to_string(scene.dir.path().join("sketch/secrets.h")).unwrap();
    assert!(header.contains("#define MQTT_HOST \"gw.local\"\n#define MQTT_PORT 8883"), "{header}");
    assert!(header.contains("#define MQTT_TOPIC \"pump/readings\""), "{header}");

    let literals: Vec<_> =
        header.split("R\"PEM(").skip(1).map(|rest| rest.split(")PEM\"").next().unwrap()).collect();
    let [ca, certificate, key] = literals.as_slice() else { panic!("{header}") };
    assert_eq!((certificates(ca), certificates(certificate), has_key(key)), (1, 1, true));
    assert!(
        literals.iter().all(|text| text.starts_with("-----BEGIN ")),
        "white space before PEM confuses mbedTLS"
    );
}

#[test]
fn the_printed_header_is_the_written_one() {
    let scene = Scene::new();
    let printed = scene.run(&["add", "pump", "--format", "arduino"]).unwrap();
    assert!(printed.starts_with("// The device \"pump\""), "{printed}");
    assert!(printed.trim_end().ends_with("*/"), "nothing but C may follow: it is redirected into a file");
}

#[test]
fn esp_idf_gets_files_and_the_symbols_that_its_build_gives_them() {
    let scene = Scene::new();
    let out = scene.path("certs");
    let add = ["add", "1st-pump", "--format", "esp-idf", "--out", &out, "--host", "2001:db8::1"];
    let text = scene.run(&add).unwrap();
    for part in ["mqtts://[2001:db8::1]:8883", "_binary_ca_pem_start", "_binary__1st_pump_key_start"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    for file in ["ca.pem", "1st-pump.pem", "1st-pump.key"] {
        assert!(scene.dir.path().join("certs").join(file).exists(), "{file}");
    }
}

#[test]
fn the_mosquitto_commands_find_files_that_openssl_can_use_and_the_key_is_its_owners() {
    let scene = Scene::new();
    let out = scene.path("my files");
    let text = scene.run(&["add", "pump", "--format", "mosquitto", "--out", &out]).unwrap();
    assert!(text.contains(&format!(
        "mosquitto_pub -h localhost -p 8883 --cafile '{out}/ca.pem' --cert '{out}/pump.pem'"
    )));
    assert!(text.contains("-t pump/readings -m '{\"t\":21.5}'"), "{text}");
    assert!(text.contains("mosquitto_sub") && text.contains("-t 'pump/#'"), "{text}");
    let key = scene.dir.path().join("my files/pump.key");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);

    let openssl =
        |arguments: &[&str]| Command::new("openssl").args(arguments).current_dir(&out).output().unwrap();
    let verified = openssl(&["verify", "-CAfile", "ca.pem", "-purpose", "sslclient", "pump.pem"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let of_key = openssl(&["pkey", "-in", "pump.key", "-pubout"]);
    let of_certificate = openssl(&["x509", "-in", "pump.pem", "-noout", "-pubkey"]);
    assert!(of_key.status.success() && of_key.stdout == of_certificate.stdout);
}

#[test]
fn two_devices_share_a_directory_and_its_ca() {
    let scene = Scene::new();
    let out = scene.path("all");
    for name in ["a", "b"] {
        scene.run(&["add", name, "--format", "mosquitto", "--out", &out]).unwrap();
    }
}

/// Makes `d.key` and the request `d.csr` for the device "pump".
fn make_request(scene: &Scene) {
    let arguments =
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout d.key -subj /CN=pump -out d.csr";
    let made =
        Command::new("openssl").args(arguments.split(' ')).current_dir(scene.dir.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[test]
fn a_request_is_signed_and_no_key_is_printed() {
    let scene = Scene::new();
    make_request(&scene);
    let error = scene.error(&["add", "pump", "--csr", &scene.path("d.key")]);
    assert!(error.contains("private key"), "{error}");
    let text = scene.run(&["add", "pump", "--csr", &scene.path("d.csr")]).unwrap();
    assert_eq!(certificates(&text), 2);
    assert!(!text.contains("PRIVATE KEY"), "{text}");
}

#[test]
fn whoever_brought_a_request_is_told_where_the_key_has_to_be() {
    for format in ["mosquitto", "esp-idf"] {
        let scene = Scene::new();
        make_request(&scene);
        let (csr, out) = (scene.path("d.csr"), scene.path("kit"));
        let text = scene.run(&["add", "pump", "--format", format, "--csr", &csr, "--out", &out]).unwrap();
        assert!(text.contains(&format!("{out}/pump.key  put its own private key here")), "{text}");
        assert!(!scene.dir.path().join("kit/pump.key").exists());
    }
}

#[test]
fn a_header_for_a_request_does_not_claim_to_hold_a_key() {
    let scene = Scene::new();
    make_request(&scene);
    let add = ["add", "pump", "--format", "arduino", "--csr", &scene.path("d.csr")];
    let header = scene.run(&add).unwrap();
    assert!(!header.contains("holds a private key"), "{header}");
    assert!(!header.contains("CLIENT_KEY[]") && header.contains("CLIENT_KEY has to be defined"), "{header}");
}

#[test]
fn the_key_that_a_request_was_made_with_is_never_removed() {
    let scene = Scene::new();
    let kit = Kit {
        name: DeviceId::parse("pump").unwrap(),
        host: "gw".to_owned(),
        port: 8883,
        ca_pem: scene.pki.ca_pem().unwrap(),
        cert_pem: String::new(),
        key_pem: None,
    };
    let key = scene.dir.path().join("pump.key");
    std::fs::write(&key, "the device's own").unwrap();
    std::fs::write(scene.dir.path().join("pump.pem"), "in the way").unwrap();
    kit.hand_over(Format::Mosquitto, Some(scene.dir.path())).unwrap_err();
    assert_eq!(std::fs::read_to_string(&key).unwrap(), "the device's own");
}

#[test]
fn a_taken_name_is_an_error_that_says_what_to_do() {
    let scene = Scene::new();
    scene.run(&["add", "pump"]).unwrap();
    let error = scene.error(&["add", "pump"]);
    assert!(error.contains("already has a certificate") && error.contains("Choose another name"), "{error}");
}

#[test]
fn what_cannot_be_handed_over_is_taken_back() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let scene = Scene::new();
    let line = CommandLine::try_parse_from(["device", "add", "pump"]).unwrap();
    run(&line.command, &scene.place(), &mut Closed).unwrap_err();
    scene.run(&["add", "pump"]).unwrap();
}

#[test]
fn no_file_is_overwritten_and_nothing_is_issued_if_one_would_be() {
    let scene = Scene::new();
    let out = scene.path("out");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(scene.dir.path().join("out/pump.key"), "precious").unwrap();
    let error = scene.error(&["add", "pump", "--format", "mosquitto", "--out", &out]);
    assert!(error.contains("pump.key exists already"), "{error}");
    assert!(scene.error(&["show", "pump"]).contains("no device"));
}

#[test]
fn names_and_hosts_that_are_none_are_refused_with_the_rule() {
    let scene = Scene::new();
    assert!(scene.error(&["add", "a/b"]).contains("a device name consists of"));
    assert!(
        scene
            .error(&["add", "a", "--host", "x\"; system(\"y"])
            .contains("neither a host name nor an address")
    );
}

#[test]
fn devices_are_listed_and_shown_for_people_and_for_scripts() {
    let scene = Scene::new();
    assert!(scene.run(&["list"]).unwrap().contains("tampu device add NAME"));
    for name in ["pump", "a-long-name"] {
        scene.run(&["add", name]).unwrap();
    }
    let text = scene.run(&["list"]).unwrap();
    let names: Vec<_> = text.lines().skip(1).map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["a-long-name", "pump"]);

    let rows: serde_json::Value = serde_json::from_str(&scene.run(&["list", "--json"]).unwrap()).unwrap();
    assert_eq!(rows[1]["name"], "pump");
    let one: serde_json::Value =
        serde_json::from_str(&scene.run(&["show", "pump", "--json"]).unwrap()).unwrap();
    assert_eq!(one, rows[1]);
    assert!(one["not_after"].as_str().unwrap().ends_with('Z'), "{one}");
    let shown = scene.run(&["show", "pump"]).unwrap();
    assert!(shown.contains(one["sha256"].as_str().unwrap()), "{shown}");
}

/// The serial numbers that the registry says are revoked by now.
fn revoked(scene: &Scene, name: &str) -> Vec<String> {
    let devices = Registry::read(scene.dir.path()).unwrap();
    let known = devices.device(&DeviceId::parse(name).unwrap());
    let now = OffsetDateTime::now_utc();
    let revoked =
        known.into_iter().flat_map(|known| &known.revoked).filter(|revoked| revoked.revoked_at <= now);
    revoked.map(|revoked| revoked.certificate.serial.clone()).collect()
}

fn serials(scene: &Scene, name: &str) -> Vec<String> {
    let device = scene.pki.device(&DeviceId::parse(name).unwrap()).unwrap();
    device.certificates().map(|certificate| certificate.serial.clone()).collect()
}

#[test]
fn a_renewed_device_has_both_certificates_and_one_of_them_can_be_revoked() {
    let scene = Scene::new();
    assert!(scene.error(&["renew", "pump"]).contains("no device"));
    scene.run(&["add", "pump"]).unwrap();
    scene.run(&["renew", "pump"]).unwrap();
    let [newer, older] = serials(&scene, "pump").try_into().unwrap();
    let colons =
        older.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect::<Vec<_>>();
    scene.run(&["revoke", "pump", "--serial", &colons.join(":").to_uppercase()]).unwrap();
    assert_eq!(revoked(&scene, "pump"), [older]);
    assert!(scene.run(&["list"]).unwrap().contains("good"));
    scene.run(&["revoke", "pump"]).unwrap();
    assert!(revoked(&scene, "pump").contains(&newer));
    assert!(scene.run(&["list"]).unwrap().contains("revoked"));
    assert!(scene.run(&["show", "pump"]).unwrap().matches("revoked  ").count() == 2);
    assert!(scene.run(&["revoke", "pump"]).unwrap().contains("before"));
}

#[test]
fn a_rotation_revokes_what_was_there_before_at_once_or_later() {
    let scene = Scene::new();
    scene.run(&["add", "pump"]).unwrap();
    let [first] = serials(&scene, "pump").try_into().unwrap();
    let text = scene.run(&["rotate", "pump", "--grace", "7d"]).unwrap();
    assert!(has_key(&text) && revoked(&scene, "pump").is_empty());
    let devices = Registry::read(scene.dir.path()).unwrap();
    let later = &devices.device(&DeviceId::parse("pump").unwrap()).unwrap().revoked[0];
    assert_eq!(later.certificate.serial, first);
    assert!(later.revoked_at > OffsetDateTime::now_utc() + Duration::from_secs(6 * 86_400));
    scene.run(&["rotate", "pump"]).unwrap();
    let [_, second, _] = serials(&scene, "pump").try_into().unwrap();
    assert_eq!(revoked(&scene, "pump"), [first, second]);
}

#[test]
fn a_certificate_of_an_external_ca_is_revoked_by_its_serial_number() {
    let scene = Scene::new();
    assert!(scene.error(&["revoke", "stranger"]).contains("--serial"));
    scene.run(&["revoke", "stranger", "--serial", "0a"]).unwrap();
    assert_eq!(revoked(&scene, "stranger"), ["0a"]);
    assert!(scene.error(&["revoke", "stranger", "--serial", "xyz"]).contains("hexadecimal"));
}

#[test]
fn a_device_is_disabled_and_enabled_whether_it_has_a_certificate_or_not() {
    let scene = Scene::new();
    scene.run(&["add", "pump"]).unwrap();
    for name in ["pump", "stranger"] {
        scene.run(&["disable", name]).unwrap();
        assert!(scene.error(&["disable", name]).contains("already"));
        let list = scene.run(&["list"]).unwrap();
        assert!(list.lines().any(|line| line.starts_with(name) && line.contains("disabled")), "{list}");
        scene.run(&["enable", name]).unwrap();
    }
    assert!(!scene.run(&["list"]).unwrap().contains("disabled"));
}

#[test]
fn a_list_says_which_certificates_end_soon_or_have_ended() {
    let scene = Scene::new();
    scene.run(&["add", "pump"]).unwrap();
    let pump = scene.pki.device(&DeviceId::parse("pump").unwrap()).unwrap();
    for (days_left, state) in [(31, "good"), (29, "ends soon"), (-1, "expired")] {
        let now = pump.certificate.not_after - time::Duration::days(days_left);
        let mut out = Vec::new();
        run(&DeviceCommand::List { json: true }, &Place { now, ..scene.place() }, &mut out).unwrap();
        let rows: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&rows[0]["state"], &rows[0]["days_left"]), (&state.into(), &days_left.into()));
    }
}

#[test]
fn a_name_or_a_number_that_nobody_has_is_noted_and_taken_at_its_word() {
    let scene = Scene::new();
    scene.run(&["add", "pump"]).unwrap();
    for (arguments, note) in [
        (&["disable", "pump"][..], None),
        (&["disable", "punp"], Some("look at the name again")),
        (&["revoke", "pump", "--serial", "0102"], Some("look at the number again")),
        (&["revoke", "pump"], None),
    ] {
        let said = scene.run(arguments).unwrap();
        assert_eq!(said.contains("Note: "), note.is_some(), "{said}");
        assert!(said.contains(note.unwrap_or_default()), "{said}");
    }
}

#[test]
fn another_revocation_makes_the_registry_forget_those_of_certificates_that_are_long_gone() {
    let scene = Scene::new();
    for name in ["pump", "fan"] {
        scene.run(&["add", name, "--out", &scene.path("out")]).unwrap();
    }
    scene.run(&["revoke", "pump"]).unwrap();
    let mut place = scene.place();
    place.certainly_past += time::Duration::days(365 * 100);
    let fan = DeviceId::parse("fan").unwrap();
    revocation::revoke(&fan, None, &place, &mut Vec::new()).unwrap();
    assert!(revoked(&scene, "pump").is_empty());
    assert_eq!(revoked(&scene, "fan").len(), 1);
}
