//! Who may do what, and what changes it while the gateway runs.

use rumqttc::QoS::AtMostOnce;
use rumqttc::mqttbytes::v4::SubscribeReasonCode::{Failure, Success};
use rustix::process::Signal;
use tampu::authorize::{DocumentError, Registry};
use tampu::message::DeviceId;

use crate::harness::mqtt::{Device, without_certificate};
use crate::harness::{Gateway, Home, text};

#[test]
fn a_device_that_is_disabled_is_put_out_and_kept_out() {
    let gateway = Gateway::start("");
    let credentials = gateway.home.device("plug");
    let mut plug = Device::connect(gateway.address, &credentials, "plug");
    plug.publish("plug/readings", "{\"t\":1}");
    let disabled = |disabled| {
        let changed = Registry::update(&gateway.home.path("data"), |devices| {
            devices.device_mut(&DeviceId::parse("plug").unwrap()).disabled = disabled;
            Ok::<_, DocumentError>(())
        });
        changed.unwrap();
    };
    disabled(true);
    plug.wait_until_closed();
    gateway.wait_for_refusal("device_disabled");
    assert!(Device::try_connect(gateway.address, Some(&credentials.tls()), "plug").is_err());
    disabled(false);
    crate::harness::eventually("the device is let in again", || {
        Device::try_connect(gateway.address, Some(&credentials.tls()), "plug").ok()
    });
}

#[test]
fn a_damaged_registry_is_an_alarm_and_changes_nothing() {
    let gateway = Gateway::start("");
    let credentials = gateway.home.device("plug");
    let mut plug = Device::connect(gateway.address, &credentials, "plug");
    std::fs::write(gateway.home.path("data/devices.json"), "{ torn").unwrap();
    let line = gateway.wait_for_log("the alarm", |line| line.text().contains("devices.json cannot be used"));
    assert_eq!(line.level(), "ERROR");
    plug.publish("plug/readings", "{\"t\":1}");
    let (status, home) = gateway.terminate();
    assert!(status.success());
    Device::connect(home.start().address, &credentials, "plug").publish("plug/readings", "{\"t\":2}");
}

#[test]
fn what_a_rule_denies_does_not_come_through_a_wildcard_either() {
    let rules = "[[acl]]\neffect = \"deny\"\ndevice = \"panel\"\nsubscribe = [\"+/secret\"]\n\
                 [[acl]]\ndevice = \"panel\"\nsubscribe = [\"#\"]\n";
    let gateway = Gateway::start(rules);
    let mut panel = Device::connect(gateway.address, &gateway.home.device("panel"), "panel");
    let mut plug = Device::connect(gateway.address, &gateway.home.device("plug"), "plug");
    let wanted = [("plug/secret", AtMostOnce), ("#", AtMostOnce)];
    assert_eq!(panel.subscribe(&wanted), [Failure, Success(AtMostOnce)]);
    for topic in ["plug/secret", "plug/state"] {
        plug.publish(topic, "x");
    }
    assert_eq!(panel.receive().topic, "plug/state");

    // A rule that comes later holds for the subscription that is there.
    gateway.home.configure(&rules.replace("+/secret", "+/state"));
    gateway.signal(Signal::HUP);
    gateway.wait_for_log("the reload is done", |line| line.text().contains("reloaded"));
    for topic in ["plug/state", "plug/secret"] {
        plug.publish(topic, "y");
    }
    assert_eq!(panel.receive().topic, "plug/secret");
}

#[test]
fn anonymous_devices_can_get_another_name_while_the_gateway_runs() {
    let settings = |name: &str| {
        format!(
            "[listener]\nclient_auth = \"optional\"\n[anonymous]\nname = {name:?}\n\
             [[acl]]\ndevice = {name:?}\npublish = [\"of/{{device}}\"]\n"
        )
    };
    let gateway = Gateway::start(&settings("before"));
    let tls = without_certificate(&gateway.home.device("plug").ca);
    let connect = || Device::try_connect(gateway.address, Some(&tls), "sketch").unwrap();
    let mut sketch = connect();
    sketch.publish("of/before", "x");
    gateway.home.configure(&settings("after"));
    gateway.signal(Signal::HUP);
    gateway.wait_for_log("nothing needs a restart", |line| line.text().contains("\"reloaded\""));
    sketch.wait_until_closed();
    connect().publish("of/after", "x");
    assert!(connect().try_publish("of/before", "x").is_err());
}

#[test]
fn check_reads_the_keys_of_tokens_and_the_registry() {
    let home =
        Home::new("[[jwt]]\nname = \"cloud\"\nalgorithm = \"ES256\"\nkey_file = \"/nowhere/key.pem\"\n");
    std::fs::create_dir(home.path("data")).unwrap();
    std::fs::write(home.path("data/devices.json"), "{ torn").unwrap();
    let said = text(&home.tampu(&["check"]));
    assert!(said.contains("jwt.cloud: /nowhere/key.pem: No such file"), "{said}");
    assert!(said.contains("devices.json cannot be used"), "{said}");
}

#[test]
fn check_warns_of_a_rule_that_speaks_of_nobody() {
    let home = Home::new(
        "[[group]]\nname = \"plugs\"\ndevices = [\"plug-01\"]\n\
         [[acl]]\ngroup = \"plugs\"\npublish = [\"a\"]\n\
         [[acl]]\neffect = \"deny\"\ngroup = \"plgs\"\npublish = [\"b\"]\n",
    );
    let output = home.tampu(&["check"]);
    let said = text(&output);
    assert!(output.status.success() && said.contains("acl.2.group: nobody is in the group plgs"), "{said}");
    assert!(!said.contains("acl.1"), "{said}");
}

#[test]
fn acl_test_says_what_would_happen_and_which_rule_decides() {
    let home = Home::new(
        "[[acl]]\neffect = \"deny\"\ndevice = \"plug\"\npublish = [\"plug/secret/#\"]\nretain = true\n\
         [[acl]]\ndevice = \"*\"\nsubscribe = [\"all/#\"]\nmax_qos = 1\n\
         [[stream]]\nname = \"air\"\ntopic = \"air\"\nopen_to = [\"*\"]\n\
         [limits]\nmax_topic_levels = 4\n",
    );
    for (arguments, code, expected) in [
        ("plug publish plug/x", 0, "allowed: by default"),
        ("plug publish plug/secret/x", 0, "allowed: by default"),
        ("plug publish plug/secret/x --retain", 1, "config.toml: [[acl]] number 1"),
        ("lamp publish plug/x", 1, "refused: no rule speaks of it"),
        ("lamp publish air", 0, "the [[stream]] \"air\" is open to it"),
        (
            "lamp subscribe all/# --qos 2 --identity password",
            0,
            "[[acl]] number 2 says so\nIt is given QoS 1.\nNote: no listener takes a device's password",
        ),
        (
            "plug publish plug/1/2/3/4",
            1,
            "allowed: by default a device has the topics below its own name\nBut it has 12 bytes",
        ),
        ("lamp subscribe $share/g/all/x", 0, "[[acl]] number 2"),
        ("lamp subscribe #", 1, "refused"),
        ("lamp publish $SYS/x", 1, "the gateway's own"),
        ("anonymous publish anonymous/x --identity anonymous", 1, "no rule"),
        ("lamp publish a/+", 2, "wildcards"),
        ("lamp subscribe a# --qos 1", 2, "last character"),
        ("lamp subscribe a --retain", 2, "belong to publish"),
        ("lamp publish x --identity card", 2, "an identity is one of"),
    ] {
        let arguments: Vec<_> = ["acl", "test"].into_iter().chain(arguments.split(' ')).collect();
        let output = home.tampu(&arguments);
        let said = text(&output);
        assert!(output.status.code() == Some(code) && said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn a_password_is_no_argument_and_an_empty_one_is_none() {
    let home = Home::new("");
    assert_eq!(home.tampu(&["user", "set", "plug", "tulip"]).status.code(), Some(2));
    let output = home.tampu(&["user", "set", "plug"]);
    assert!(
        !output.status.success() && text(&output).contains("between 1 and 1024 bytes"),
        "{}",
        text(&output)
    );
    assert!(!home.path("data/devices.json").exists());
}
