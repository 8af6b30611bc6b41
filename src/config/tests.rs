use std::time::Duration;

use super::*;
use crate::message::DeviceId;

fn good(text: &str) -> Config {
    Config::from_toml(text).unwrap_or_else(|invalid| panic!("{invalid}"))
}

fn problems(text: &str) -> Vec<String> {
    Config::from_toml(text).unwrap_err().0.iter().map(ToString::to_string).collect()
}

const EXAMPLE: &str = include_str!("../../config.toml.example");

#[test]
fn the_example_as_it_stands_changes_nothing() {
    let (example, default) = (good(EXAMPLE), good(""));
    assert_eq!(format!("{example:?}"), format!("{default:?}"));
}

#[test]
fn every_commented_value_of_the_example_is_understood() {
    // All `# key = value` lines of a section at once; alternatives that exclude each other are left out.
    let mut text = String::new();
    for line in EXAMPLE.lines() {
        let Some(setting) = line.strip_prefix("# ") else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let is_setting = setting.starts_with("[[")
            || setting.starts_with("[anonymous]")
            || setting.starts_with("[access]")
            || setting.starts_with("[websocket]")
            || setting.starts_with("[plain]")
            || setting
                .split_once(" = ")
                .is_some_and(|(key, _)| key.chars().all(|c| c.is_lowercase() || c == '_' || c.is_numeric()));
        // Alternatives, and what wants others.
        let is_left_out = ["hmac", "profile"].iter().any(|name| setting.starts_with(name));
        if is_setting && !is_left_out {
            text.push_str(setting);
            text.push('\n');
        }
    }
    let text = text
        .replace("{ env = \"ESP32_01_KEY\" }", "\"k\"")
        .replace("client_auth = \"required\"", "client_auth = \"optional\"")
        .replace("{ env = \"JWT_SECRET\" }", "\"0123456789abcdef0123456789abcdef\"")
        .replace("{ env = \"THINGSPEAK_KEY\" }", "\"k\"")
        .replace("{ credential = \"supabase-key\" }", "\"k\"")
        .replace("ca_file = \"/etc/tampu/proxy-ca.pem\"\n", "")
        .replace("<ref>", "abc");
    let config = good(&text);
    assert_eq!((config.sinks.len(), config.command_sources.len(), config.rules.len()), (2, 3, 1));
    assert_eq!(config.streams.len(), 2);
    assert_eq!(config.buffer.max_age, Some(Duration::from_secs(90 * 86_400)));
    assert_eq!(config.buffer, Buffer { max_age: config.buffer.max_age, ..Buffer::default() });
    assert_eq!(config.clock, Clock::default());
    let client_auth = ClientAuth::Optional;
    let identities = Some(vec![IdentityKind::Certificate, IdentityKind::Anonymous]);
    assert_eq!(config.listener, Listener { client_auth, identities, ..Listener::default() });
    assert_eq!(
        (config.access.rules.len(), config.access.groups.len(), config.access.issuers.len()),
        (3, 1, 1)
    );
    assert_eq!(config.streams[0], Stream::default());
    let websocket = config.websocket.expect("there is a table");
    assert_eq!((websocket.path.as_str(), websocket.client_auth), ("/mqtt", ClientAuth::Optional));
    assert!(config.plain.is_some_and(|plain| plain.address.ip().is_loopback()));
    assert_eq!(config.limits, Limits::default());
    let Firmware { address, url, .. } = &config.firmware;
    assert!(address.is_some() && url.is_some());
    assert_eq!(config.firmware, Firmware { address: *address, url: url.clone(), ..Firmware::default() });
    assert_eq!(config.pki.crl.len(), 1);
    assert_eq!(config.sessions, Sessions::default());
    assert_eq!(config.retained, Retained::default());
    let default = good("");
    assert_eq!(config.log, default.log);
    assert_eq!(config.shutdown_timeout, default.shutdown_timeout);
    assert_eq!(config.access.certificate_name, default.access.certificate_name);
}

/// What a table that need not be there holds if it is: `every_commented_value…` cannot tell that from the default.
#[test]
fn the_defaults_of_tables_that_need_not_be_there_stand_in_the_example() {
    let tables = r#"
        [[jwt]]
        name = "cloud"
        jwks_file = "/etc/tampu/jwks.json"
        [websocket]
        address = "0.0.0.0:8884"
        [plain]
        address = "127.0.0.1:1883"
        [listener]
        client_auth = "optional"
        [anonymous]
        subscribe = []
        [[sink]]
        name = "channel"
        type = "thingspeak"
        channel = 1
        write_key = "k"
        fields = { field1 = "t" }
        [[sink]]
        name = "database"
        type = "supabase"
        url = "https://x.supabase.co"
        key = "k"
    "#;
    let defaults = r#"
        jwks_file  leeway = "60s"
        jwks_file  device_claim = "sub"
        jwks_file  client_id_claims = ["sub", "client_id"]
        address = "0.0.0.0:8884"  path = "/mqtt"
        address = "0.0.0.0:8884"  client_auth = "required"
        address = "127.0.0.1:1883"  allow_network = false
        subscribe  name = "anonymous"
        channel =  streams = []
        channel =  max_entries = 960
        channel =  interval = "15s"
        channel =  collision = "average"
        channel =  yearly_allowance = 3000000
        channel =  url = "https://api.thingspeak.com"
        channel =  timeout = "30s"
        channel =  live_first = true
        url = "https://x  table = "readings"
        url = "https://x  max_rows = 1000
        url = "https://x  max_request = "1 MB"
        url = "https://x  interval = "1s"
        url = "https://x  rest_path = "/rest/v1"
        url = "https://x  timeout = "30s"
        url = "https://x  live_first = true
    "#;
    let default = format!("{:?}", good(tables));
    for line in defaults.trim().lines() {
        let (neighbour, setting) = line.trim().split_once("  ").unwrap();
        assert!(
            EXAMPLE.lines().any(|shown| shown.trim_start_matches("# ").starts_with(setting)),
            "{setting}"
        );
        let place = tables.find(neighbour).expect("it is a setting above");
        let (before, after) = tables.split_at(place);
        assert_eq!(format!("{:?}", good(&format!("{before}{setting}\n{after}"))), default, "{setting}");
    }
}

#[test]
fn the_configurations_that_the_readme_shows_are_good() {
    let readme = include_str!("../../README.md");
    let blocks: Vec<_> =
        readme.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() > 1);
    for block in blocks {
        let text = block
            .replace("{ env = \"THINGSPEAK_KEY\" }", "\"k\"")
            .replace("{ file = \"/etc/tampu/supabase.key\" }", "\"k\"")
            .replace("<ref>", "abc");
        good(&text);
    }
}

#[test]
fn every_problem_is_shown_at_once_with_its_key_and_what_would_be_right() {
    let found = problems(
        "[listener]\naddres = \"x\"\nmax_inflight = 70000\nclient_auth = \"maybe\"\n\
         [buffer]\nack_delay = \"soon\"\nmax_size = \"1 KiB\"\n\
         [[stream]]\ntopic = \"a/#/b\"\n[[sink]]\nname = \"x\"\ntype = \"fax\"\n",
    );
    for expected in [
        "listener.addres (TOML source string): there is no such key; did you mean \"address\"?",
        "listener.max_inflight (TOML source string): 70000 is not a whole number between 1 and 65535",
        "listener.client_auth (TOML source string): \"maybe\" is not \"required\" or \"optional\"",
        "buffer.max_size (TOML source string): \"1 KiB\": it must be at least 4.0 MiB",
        "stream.1.name: is missing: a short name, such as \"air\"",
        "sink.x.type: \"fax\" is not \"thingspeak\" or \"supabase\"",
    ] {
        assert!(found.iter().any(|problem| problem == expected), "{expected:?} is not in {found:#?}");
    }
    assert!(found.iter().any(|problem| problem.starts_with("buffer.ack_delay")), "{found:#?}");
    assert!(found.iter().any(|problem| problem.starts_with("stream.1.topic")), "{found:#?}");
    assert_eq!(found.len(), 8, "{found:#?}");
}

#[test]
fn a_text_that_is_no_toml_names_the_line() {
    let found = problems("[gateway]\nid = \"a\"\nid =\n");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("config.toml, line 3: this is not TOML"), "{found:?}");
}

#[test]
fn a_file_that_is_not_there_says_so() {
    let error = Config::load(Some(Path::new("/nowhere/config.toml"))).unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/config.toml: cannot be read"), "{error}");
}

const CLOUD: &str = "[[sink]]\nname = \"c\"\ntype = \"supabase\"\nurl = \"https://x.supabase.co\"\n";

#[test]
fn a_secret_comes_from_a_file_and_never_shows() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "sb_secret_abc\n").unwrap();
    let config = good(&format!("{CLOUD}key = {{ file = {:?} }}", file.path()));
    let SinkKind::Supabase(supabase) = &config.sinks[0].kind else { panic!("not supabase") };
    assert_eq!(supabase.key.expose(), "sb_secret_abc");
    assert!(!format!("{config:?}").contains("sb_secret_abc"));
}

#[test]
fn a_secret_that_is_wrong_is_not_repeated_in_the_problem() {
    let found = problems(&format!("{CLOUD}key = [\"sb_secret_abc\"]"));
    assert!(found.iter().any(|problem| problem.contains("a secret is a text")), "{found:?}");
    assert!(!found.join("\n").contains("sb_secret_abc"));
    let found = problems(&format!("{CLOUD}key = {{ env = \"TAMPU_TEST_NOT_SET\" }}"));
    assert!(found[0].contains("TAMPU_TEST_NOT_SET is not set"), "{found:?}");
}

#[test]
fn a_key_does_not_cross_the_network_in_the_clear() {
    let found = problems(&CLOUD.replace("https", "http").replace("name", "key = \"k\"\nname"));
    assert!(found[0].contains("in the clear"), "{found:?}");
    good(
        &CLOUD.replace("https://x.supabase.co", "http://127.0.0.1:3000").replace("name", "key = \"k\"\nname"),
    );
}

#[test]
fn a_password_in_an_address_is_refused_and_not_repeated() {
    let found =
        problems(&CLOUD.replace("https://", "https://me:hunter2@").replace("name", "key = \"k\"\nname"));
    assert!(found[0].contains("does not belong into an address"), "{found:?}");
    assert!(!found.join("\n").contains("hunter2"));
}

#[test]
fn thingspeak_itself_is_not_written_faster_than_it_takes() {
    let sink = "[[sink]]\nname = \"t\"\ntype = \"thingspeak\"\nchannel = 1\nwrite_key = \"k\"\n\
                fields = { field1 = \"t\" }\ninterval = \"1s\"\n";
    assert!(problems(sink)[0].contains("every 15 s"));
    let config = good(&format!("{sink}url = \"http://127.0.0.1:1\""));
    let SinkKind::ThingSpeak(thingspeak) = &config.sinks[0].kind else { panic!("not thingspeak") };
    assert_eq!(thingspeak.interval, Duration::from_secs(1));
    assert_eq!(thingspeak.fields[0].to, ThingSpeakTarget::Field(1));
}

#[test]
fn a_mapping_names_only_what_exists() {
    let found = problems(
        "[[sink]]\nname = \"t\"\ntype = \"thingspeak\"\nchannel = 1\nwrite_key = \"k\"\nstreams = [\"nope\"]\n\
         fields = { field9 = \"t\", field1 = { path = \"a\", stream = \"nope\" } }\n",
    );
    assert!(found.iter().any(|p| p.starts_with("sink.t.fields.field9")), "{found:?}");
    assert!(found.iter().any(|p| p.contains("there is no such stream; there are: readings")), "{found:?}");
}

#[test]
fn anonymous_needs_optional_certificates() {
    let text = "[anonymous]\npublish = [\"esp32/sensors\"]\n";
    assert!(problems(text)[0].contains("client_auth"));
    let config = good(&format!("{text}[listener]\nclient_auth = \"optional\"\n"));
    assert_eq!(config.access.anonymous, Some(DeviceId::parse("anonymous").unwrap()));
    assert_eq!(config.access.rules.len(), 1);
}

#[test]
fn integrity_keys_belong_to_the_hmac() {
    let stream =
        |integrity: &str| format!("[[stream]]\nname = \"s\"\ntopic = \"s\"\nintegrity = {integrity}\n");
    good(&stream("{ field = \"crc\", check = \"crc32\" }"));
    good(&stream("{ field = \"h\", check = \"hmac-sha256\", keys = { d = \"k\" } }"));
    let found = problems(&stream("{ field = \"h\", check = \"hmac-sha256\" }"));
    assert!(found[0].contains("a key for each device"), "{found:?}");
}

#[test]
#[allow(clippy::result_large_err, reason = "figment's closure returns figment's error")]
fn the_environment_wins() {
    figment::Jail::expect_with(|jail| {
        jail.create_file("c.toml", "[listener]\naddress = \"127.0.0.1:1\"\n")?;
        jail.set_env("TAMPU_LISTENER__ADDRESS", "127.0.0.1:2");
        jail.set_env("TAMPU_BUFFER__ACK_DELAY", "7ms");
        jail.set_env("TAMPU_SEED", "7");
        let config = Config::load(Some(Path::new("c.toml"))).expect("valid");
        assert_eq!(config.listener.address.port(), 2);
        assert_eq!(config.buffer.ack_delay, Duration::from_millis(7));
        jail.set_env("TAMPU_LISTENER_ADDRESS", "127.0.0.1:3");
        let invalid = Config::load(None).unwrap_err().to_string();
        assert!(invalid.contains("did you mean TAMPU_LISTENER__ADDRESS"), "{invalid}");
        jail.set_env("TAMPU_LISTENER__ADRESS", "x");
        let invalid = Config::load(Some(Path::new("c.toml"))).unwrap_err().to_string();
        assert!(invalid.contains("did you mean \"address\"?"), "{invalid}");
        assert!(invalid.contains("(TAMPU_LISTENER__ADRESS)"), "{invalid}");
        Ok(())
    });
}

#[test]
fn a_level_that_is_none_would_silence_the_daemon() {
    for bad in ["warning", "loud", "tampu=verbose", "info,"] {
        assert!(problems(&format!("[log]\nlevel = {bad:?}\n"))[0].contains("a level is"), "{bad}");
    }
    assert_eq!(good("[log]\nlevel = \"info,tampu::broker=debug\"\n").log.level, "info,tampu::broker=debug");
}

#[test]
fn a_wrong_value_does_not_make_its_neighbours_unknown() {
    let found = problems(
        "[[sink]]\nname = \"t\"\ntype = \"thingspeak\"\nchannel = \"abc\"\nwrite_key = \"k\"\n\
         fields = { field1 = \"t\" }\ncollision = \"last\"\nmax_entries = 5\n\
         [[sink]]\nname = \"s\"\ntype = \"supabase\"\nurl = \"gopher://x\"\nkey = \"k\"\nmax_rows = 5\n\
         [[sink]]\nname = \"f\"\ntype = \"fax\"\nnumber = 5\n",
    );
    assert_eq!(found.len(), 3, "{found:#?}");
}

#[test]
fn what_cannot_work_is_a_problem_although_every_value_is_good_alone() {
    let channel =
        "[[sink]]\ntype = \"thingspeak\"\nchannel = 1\nwrite_key = \"k\"\nfields = { field1 = \"t\" }\n";
    for (text, expected) in [
        ("[[stream]]\nname = \"s\"\ntopic = \"a/b\"\ndevice = { topic_level = 9 }\n", "there is no level 9"),
        (
            "[[acl]]\ndevice = \"*\"\npublish = [\"{devce}/#\"]\n",
            "the names that may stand in braces are {device}",
        ),
        (
            "[[stream]]\nname = \"a\"\ntopic = \"x/#\"\n[[stream]]\nname = \"b\"\ntopic = \"x/y\"\n",
            "the stream a before it",
        ),
        ("[listener]\nclient_auth = \"optional\"\n", "lets nobody in without it"),
        ("[gateway]\ndata_dir = 3\n", "3 is not a path"),
        (&format!("{channel}name = \"a\"\n{channel}name = \"b\"\n"), "the sink a writes to it already"),
        (
            "[[sink]]\nname = \"s\"\ntype = \"supabase\"\nurl = \"https://x.supabase.co/rest/v1\"\nkey = \"k\"\n",
            "leave out /rest/v1",
        ),
        (&format!("{CLOUD}key = \"abc def\"\n"), "no white space"),
    ] {
        let found = problems(text);
        assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:#?}");
    }
}

#[test]
fn identities_say_whether_a_certificate_is_asked_for() {
    let auth = |text: &str| good(&format!("[listener]\n{text}\n")).listener.client_auth;
    assert_eq!(auth(""), ClientAuth::Required);
    assert_eq!(auth("identities = [\"certificate\"]"), ClientAuth::Required);
    assert_eq!(auth("identities = [\"certificate\", \"password\"]"), ClientAuth::Optional);
    assert_eq!(auth("identities = [\"password\"]\nclient_auth = \"required\""), ClientAuth::Required);
    let anonymous = good("[listener]\nidentities = [\"anonymous\"]\n[anonymous]\n");
    assert_eq!(anonymous.listener.client_auth, ClientAuth::Optional);
    assert_eq!(anonymous.access.identities(Door::Tls), [IdentityKind::Anonymous]);
    assert_eq!(
        anonymous.access.identities(Door::Plain),
        [IdentityKind::Certificate, IdentityKind::Anonymous]
    );
}

#[test]
fn access_that_cannot_be_meant_is_a_problem() {
    let jwt = "[[jwt]]\nname = \"cloud\"\n";
    for (text, expected) in [
        ("[listener]\nidentities = [\"fingerprint\"]\n", "an identity is one of certificate, password"),
        ("[listener]\nidentities = []\n", "is missing: an identity"),
        ("[listener]\nidentities = [\"anonymous\"]\n", "anonymous: is missing"),
        ("[listener]\nidentities = [\"password\"]\n[anonymous]\n", "no device can be anonymous"),
        ("[listener]\nidentities = [\"jwt\"]\n", "without a [[jwt]]"),
        ("[access]\ncertificate_name = \"ou\"\n", "\"cn\" or \"san\""),
        ("[[acl]]\npublish = [\"x\"]\n", "acl.1.device: is missing"),
        ("[[acl]]\ndevice = \"*\"\neffect = \"maybe\"\n", "\"allow\" or \"deny\""),
        ("[[acl]]\ndevice = \"*\"\neffect = \"deny\"\nmax_qos = 1\n", "would let the higher ones through"),
        ("[[acl]]\ndevice = \"*\"\nmax_qos = 3\n", "between 0 and 2"),
        ("[[acl]]\nidentity = \"card\"\n", "an identity is one of"),
        ("[[group]]\nname = \"a\"\n[[group]]\nname = \"a\"\n", "another group has this name"),
        ("[[group]]\nname = \"a\"\ndevices = [\"x/y\"]\n", "a device name consists of"),
        (&format!("{jwt}algorithm = \"HS256\"\nsecret = \"short\"\n"), "fewer than 32 bytes"),
        (&format!("{jwt}algorithm = \"none\"\nkey_file = \"/k\"\n"), "\"none\" is not"),
        (&format!("{jwt}algorithm = \"HS256\"\nkey_file = \"/k\"\n"), "algorithm = \"HS256\" with secret"),
        (&format!("{jwt}algorithm = \"RS256\"\njwks_file = \"/k\"\n"), "jwks_file alone"),
        (jwt, "jwt.cloud.algorithm: is missing"),
    ] {
        let found = problems(text);
        assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:#?}");
    }
    let secret = "algorithm = \"HS256\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n";
    let config = good(&format!("{jwt}{secret}"));
    assert!(!format!("{config:?}").contains("0123456789abcdef"));
}

#[test]
fn a_listener_without_tls_stays_on_loopback_unless_the_network_is_allowed_in_so_many_words() {
    let plain = |rest: &str| format!("[plain]\nidentities = [\"password\"]\n{rest}");
    for address in ["127.0.0.1:1883", "[::1]:1883"] {
        let config = good(&plain(&format!("address = \"{address}\"")));
        assert_eq!(config.plain.expect("there is one").address.to_string(), address);
    }
    for address in ["0.0.0.0:1883", "192.0.2.7:1883", "[::]:1883"] {
        let text = plain(&format!("address = \"{address}\""));
        let found = problems(&text);
        assert!(found.len() == 1 && found[0].contains("allow_network = true"), "{found:?}");
        good(&format!("{text}\nallow_network = true"));
    }
    assert!(good("").plain.is_none() && good("").websocket.is_none());
}

#[test]
fn what_the_other_listeners_lack_is_said() {
    for (text, expected) in [
        ("[websocket]\npath = \"/mqtt\"", "websocket.address: is missing"),
        ("[websocket]\naddress = \"0.0.0.0:8883\"", "listener.address is the same"),
        ("[websocket]\naddress = \"0.0.0.0:8884\"\npath = \"mqtt\"", "a path begins with"),
        ("[plain]\naddress = \"1883\"", "an address is written as"),
        ("[limits]\nconnects_per_second = 0", "limits.connects_per_second"),
        ("[limits]\nmax_reconnect_delay = \"2m\"", "limits.max_reconnect_delay"),
        ("[limits]\nmax_topic_bytes = 65536", "limits.max_topic_bytes"),
        ("[limits]\nmax_topic_levels = 1025", "limits.max_topic_levels"),
    ] {
        let found = problems(text);
        assert!(found.iter().any(|problem| problem.contains(expected)), "{expected}: {found:#?}");
    }
}

#[test]
fn what_cannot_serve_firmware_is_a_problem() {
    let found = problems(
        "[firmware]\naddress = \"0.0.0.0:8883\"\nidentities = [\"jwt\"]\nurl = \"http://x\"\nmax_image = \"1\"\n\
         version_topic = \"firmware/version\"\nnotify_topic = \"{device}/#\"\n",
    );
    let about =
        |key: &str, what: &str| found.iter().any(|problem| problem.contains(key) && problem.contains(what));
    for (key, what) in [
        ("firmware.address", "another port"),
        ("firmware.identities", "\"jwt\" cannot fetch firmware"),
        ("firmware.url", "https://"),
        ("firmware.max_image", "at least"),
        ("firmware.version_topic", "{device}"),
        ("firmware.notify_topic", "without + and #"),
    ] {
        assert!(about(key, what), "{key}: {found:#?}");
    }
    let good = good("[firmware]\naddress = \"[::]:8485\"\nversion_topic = \"tele/{device}/fw\"\n").firmware;
    assert_eq!(good.version_topic.as_str(), "tele/{device}/fw");
}

#[test]
fn a_rule_has_one_condition_and_something_that_it_brings_about() {
    let rule = |text: &str| format!("[[rule]]\nname = \"r\"\nfield = \"co\"\n{text}");
    let config = good(&rule(
        "above = 300\nclear_below = 250.5\nfor = \"10s\"\nsend = { device = \"buzzer\", payload = \"on\", clear_payload = \"off\" }",
    ));
    let Rule { stream, condition, send, .. } = &config.rules[0];
    assert_eq!(stream, "readings", "the only one there is");
    let hold = Duration::from_secs(10);
    assert_eq!(*condition, Condition::Beyond { side: Side::Above, limit: 300.0, clear: 250.5, hold });
    assert_eq!(send.as_ref().unwrap().topic.to_string(), "{device}/cmd");

    for (text, expected) in [
        ("log = \"x\"", "rule.r.above: is missing: one of above = 300, below = 5"),
        ("above = 1", "rule.r.send: is missing: what it brings about"),
        ("above = 1\nbelow = 2\nlog = \"x\"", "rule.r.above: a rule has one condition"),
        ("above = 1\nclear_below = 2\nlog = \"x\"", "rule.r.clear_below: 2 is beyond the limit 1"),
        ("below = 2\nclear_above = 1\nlog = \"x\"", "rule.r.clear_above: 1 is beyond the limit 2"),
        (
            "above = 1\nclear_above = 2\nlog = \"x\"",
            "rule.r.clear_above: `for` and clear_below belong to above",
        ),
        ("changed = true\nfor = \"1s\"\nlog = \"x\"", "rule.r.for: `for` and clear_below belong to above"),
        ("above = \"hot\"\nlog = \"x\"", "\"hot\" is not a number such as 300"),
        ("above = 1\nlog = \"{time}\"", "there is no {time} here; there are: {device}, {source}"),
        ("above = 1\nstream = \"air\"\nlog = \"x\"", "there is no such stream; there are: readings"),
        (
            "changed = true\nsend = { payload = \"x\", clear_payload = \"y\" }",
            "rule.r.send.clear_payload: a change does not last",
        ),
    ] {
        let found = problems(&rule(text));
        assert!(found.iter().any(|problem| problem.contains(expected)), "{text}: {found:?}");
    }
    let without_field = problems("[[rule]]\nname = \"r\"\nabove = 1\nlog = \"x\"");
    assert!(without_field[0].starts_with("rule.r.field: is missing"), "{without_field:?}");
}

#[test]
fn a_source_of_commands_says_whom_it_asks_and_who_gets_what_it_says() {
    let talkback = "[[command_source]]\nname = \"dashboard\"\ntype = \"talkback\"\n";
    let whole = format!("{talkback}talkback = 7\nkey = \"K\"\ndevice = \"lamp\"");
    let config = good(&whole);
    let CommandSourceKind::TalkBack(settings) = &config.command_sources[0].kind else { panic!("{config:?}") };
    assert_eq!(settings.url, "https://api.thingspeak.com");
    assert_eq!(settings.command.topic.to_string(), "{device}/cmd");
    assert_eq!(settings.command.payload.to_string(), "{command}", "as it came");

    let field = "[[command_source]]\nname = \"slider\"\ntype = \"thingspeak_field\"\nchannel = 1\nfield = 2\ndevice = \"lamp\"\n";
    let config = good(&format!("{field}payload = '{{\"pwm\": {{value}}}}'"));
    let CommandSourceKind::Field(settings) = &config.command_sources[0].kind else { panic!("{config:?}") };
    assert!(!settings.first_value, "what is there at the start is no command");

    for (text, expected) in [
        (talkback.to_owned(), "command_source.dashboard.talkback: is missing"),
        (talkback.to_owned(), "command_source.dashboard.key: is missing"),
        (talkback.to_owned(), "command_source.dashboard.device: is missing"),
        (format!("{whole}\n{whole}"), "another source of commands has this name"),
        (
            format!("{whole}\n{}", whole.replace("dashboard", "other")),
            "command_source.other.talkback: another source asks this TalkBack",
        ),
        (
            format!("{whole}\npayload = \"{{value}}\""),
            "there is no {value} here; there are: {device}, {command}",
        ),
        (format!("{field}topic = \"{{value}}/x\""), "there is no {value} here; there are: {device}"),
        (format!("{field}read_key = \"a b\""), "a key holds no white space"),
        (whole.replace("talkback\"", "mail\""), "\"mail\" is not \"talkback\", \"thingspeak_field\" or"),
    ] {
        let found = problems(&text);
        assert!(found.iter().any(|problem| problem.contains(expected)), "{text}: {found:?}");
    }
}

#[test]
fn a_table_at_supabase_is_a_source_of_commands() {
    let whole = "[[command_source]]\nname = \"cloud\"\ntype = \"supabase\"\nurl = \"https://x.supabase.co\"\nkey = \"K\"";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "first\n").unwrap();
    let config = good(&format!("{whole}\ntoken = {{ file = \"{}\" }}", file.display()));
    let CommandSourceKind::Supabase(settings) = &config.command_sources[0].kind else { panic!("{config:?}") };
    assert_eq!(
        (settings.table.as_str(), settings.realtime_path.as_deref()),
        ("commands", Some("/realtime/v1"))
    );
    assert_eq!(
        (settings.topic.to_string(), settings.payload.to_string()),
        ("{device}/cmd".into(), "{value}".into())
    );
    let token = settings.token.as_ref().unwrap();
    assert_eq!(token.read().unwrap().expose(), "first");
    std::fs::write(&file, "second\n").unwrap();
    assert_eq!(token.read().unwrap().expose(), "second", "it is read where it stands, each time");
    std::fs::write(&file, "").unwrap();
    assert_eq!(token.read().unwrap_err(), "the secret is empty");

    let without = good(&format!("{whole}\nrealtime = false"));
    let CommandSourceKind::Supabase(settings) = &without.command_sources[0].kind else {
        panic!("{without:?}")
    };
    assert_eq!(settings.realtime_path, None);
    for (text, expected) in [
        (whole.replace("https", "http"), "the key would cross the network in the clear"),
        (whole.replace("key = \"K\"", ""), "command_source.cloud.key: is missing"),
        (format!("{whole}\ntoken = {{ file = \"/nowhere\" }}"), "/nowhere cannot be read"),
        (format!("{whole}\npayload = \"{{command}}\""), "there is no {command} here"),
    ] {
        let found = problems(&text);
        assert!(found.iter().any(|problem| problem.contains(expected)), "{text}: {found:?}");
    }
}

#[test]
fn the_message_gateway_is_turned_on_by_its_profile_and_needs_api_keys() {
    let listener = "[listener]\nidentities = [\"certificate\", \"api_key\"]\n";
    let profile = "[gateway]\nprofile = \"message-gateway\"\n";
    let config = good(&format!("{profile}{listener}[messages]\nretries = 5\n"));
    assert_eq!(config.messages, Some(Messages { retries: 5, ..Messages::default() }));
    assert!(config.access.keyed_topics);
    let without = good(&format!("{listener}[messages]\nretries = 5\n"));
    assert!(without.messages.is_none() && !without.access.keyed_topics);
    let short = good(&format!("{profile}{listener}[commands]\nmax_good_for = \"5m\"\n"));
    assert_eq!(short.messages.unwrap().good_for, Duration::from_secs(300));
    for (text, expected) in [
        (profile, "needs a listener that lets devices in with API keys"),
        ("[gateway]\nprofile = \"sms\"", "message-gateway"),
        ("[messages]\nretries = 11", "messages.retries"),
        ("[messages]\nmax_characters = 0", "messages.max_characters"),
        ("[messages]\ngood_for = \"25h\"", "messages.good_for"),
    ] {
        let found = problems(text);
        assert!(found.iter().any(|problem| problem.contains(expected)), "{expected}: {found:#?}");
    }
}
