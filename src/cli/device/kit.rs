//! What a device is given: its certificate in the form that its firmware takes, and how to use it.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, bail};

use super::Format;
use crate::config::Secret;
use crate::message::DeviceId;
use crate::pki;

pub(super) const OWN_SERVER_CERTIFICATE: &str = "
// Note: this gateway's server certificate is your own (pki.server_cert). If another CA than the one above
// has signed it, the device must trust that one instead.
";

/// Everything that a device needs to connect.
pub(super) struct Kit {
    pub(super) name: DeviceId,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) ca_pem: String,
    pub(super) cert_pem: String,
    /// `None` if the device has made its key itself.
    pub(super) key_pem: Option<Secret>,
}

/// Makes a directory for the files, and sees to it that none of them would overwrite another.
pub(super) fn prepare_dir(
    dir: &Path,
    name: &DeviceId,
    format: Format,
    has_request: bool,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("making the directory {}", dir.display()))?;
    let files = match format {
        Format::Arduino => vec![HEADER.to_owned()],
        _ if has_request => vec![certificate_file(name)],
        _ => vec![certificate_file(name), key_file(name)],
    };
    for file in files {
        let path = dir.join(file);
        if path.exists() {
            bail!("{} exists already: give another directory with --out, or move it away", path.display());
        }
    }
    Ok(())
}

const HEADER: &str = "secrets.h";
const CA_FILE: &str = "ca.pem";

fn certificate_file(name: &DeviceId) -> String {
    format!("{name}.pem")
}

fn key_file(name: &DeviceId) -> String {
    format!("{name}.key")
}

impl Kit {
    /// Writes the files into `dir`, if there is one, and returns what to print.
    pub(super) fn hand_over(&self, format: Format, dir: Option<&Path>) -> anyhow::Result<String> {
        Ok(match (format, dir) {
            (Format::Pem, None) => self.pem_texts(),
            (Format::Arduino, None) => self.arduino(),
            (Format::Arduino, Some(dir)) => {
                let path = dir.join(HEADER);
                pki::create_file(&path, self.arduino().as_bytes(), pki::FileMode::Secret)?;
                format!(
                    "Wrote {}: #include it in the sketch. What to do with it stands at its end.\n",
                    path.display()
                )
            }
            (Format::Pem | Format::EspIdf | Format::Mosquitto, dir) => {
                let dir = dir.unwrap_or(Path::new("."));
                let mut text = self.write_files(dir)?;
                match format {
                    Format::EspIdf => text.push_str(&self.esp_idf(dir)),
                    Format::Mosquitto => text.push_str(&self.mosquitto(dir)),
                    Format::Pem | Format::Arduino => {}
                }
                text
            }
        })
    }

    fn write_files(&self, dir: &Path) -> anyhow::Result<String> {
        let mut text = String::new();
        let ca = dir.join(CA_FILE);
        match std::fs::read_to_string(&ca) {
            Ok(there) if there == self.ca_pem => {}
            Ok(_) => bail!(
                "{} exists already and is of another CA: give another directory with --out",
                ca.display()
            ),
            Err(_) => pki::create_file(&ca, self.ca_pem.as_bytes(), pki::FileMode::Public)?,
        }
        let certificate = dir.join(certificate_file(&self.name));
        let key = dir.join(key_file(&self.name));
        if let Some(secret) = &self.key_pem {
            pki::create_file(&key, secret.expose().as_bytes(), pki::FileMode::Secret)?;
        }
        if let Err(error) = pki::create_file(&certificate, self.cert_pem.as_bytes(), pki::FileMode::Public) {
            // Half a pair would be in the way of the next try. A key that we did not make is not ours to remove.
            if self.key_pem.is_some() {
                std::fs::remove_file(&key).ok();
            }
            return Err(error.into());
        }
        writeln!(text, "{}  the certificate of {}", certificate.display(), self.name)?;
        match &self.key_pem {
            Some(_) => {
                writeln!(
                    text,
                    "{}  its private key: keep it secret, the gateway has no copy",
                    key.display()
                )?;
            }
            None => {
                writeln!(
                    text,
                    "{}  put its own private key here, the one that the request was made with",
                    key.display()
                )?;
            }
        }
        writeln!(text, "{}  the CA that it must trust", ca.display())?;
        Ok(text)
    }

    /// Text around PEM sections is ignored by whoever reads PEM (RFC 7468, 2).
    fn pem_texts(&self) -> String {
        let Self { name, host, port, ca_pem, cert_pem, .. } = self;
        let mut text = format!(
            "{name} connects to {host}, port {port}, by MQTT over TLS, and publishes to {name}/readings.\n\n\
             The CA that it must trust:\n{ca_pem}\nIts certificate:\n{cert_pem}\n"
        );
        match &self.key_pem {
            Some(key) => {
                text.push_str("Its private key, which the gateway does not keep:\n");
                text.push_str(key.expose());
            }
            None => text.push_str("Its key is the one that the request was made with.\n"),
        }
        text
    }

    fn arduino(&self) -> String {
        let Self { name, host, port, ca_pem, cert_pem, .. } = self;
        let literal = |pem: &str| format!("R\"PEM({}\n)PEM\"", pem.trim_end());
        let (ca, certificate) = (literal(ca_pem), literal(cert_pem));
        let (secrecy, key) = match &self.key_pem {
            Some(key) => (
                "This file holds a private key: keep it out of version control.",
                format!("const char CLIENT_KEY[] PROGMEM = {};", literal(key.expose())),
            ),
            None => (
                "Its private key is not in it: CLIENT_KEY has to be defined below.",
                "// CLIENT_KEY is the key that the request was made with: define it here, in the same form, and keep\n\
                 // this file out of version control from then on."
                    .to_owned(),
            ),
        };
        format!(
            r#"// The device "{name}" at its gateway. Made by `tampu device add`.
// {secrecy}
#pragma once
#include <Arduino.h>

#define MQTT_HOST "{host}"
#define MQTT_PORT {port}
#define MQTT_CLIENT_ID "{name}"
#define MQTT_TOPIC "{name}/readings"

const char CA_CERT[] PROGMEM = {ca};

const char CLIENT_CERT[] PROGMEM = {certificate};

{key}

/* ESP32, with the library PubSubClient:

   #include <WiFi.h>
   #include <WiFiClientSecure.h>
   #include <PubSubClient.h>
   #include "secrets.h"

   WiFiClientSecure net;
   PubSubClient mqtt(net);

   void setup() {{
     WiFi.begin("your network", "its password");
     while (WiFi.status() != WL_CONNECTED) delay(100);
     net.setCACert(CA_CERT);
     net.setCertificate(CLIENT_CERT);
     net.setPrivateKey(CLIENT_KEY);
     mqtt.setServer(MQTT_HOST, MQTT_PORT);
   }}

   void loop() {{
     if (!mqtt.connected() && !mqtt.connect(MQTT_CLIENT_ID)) {{ delay(5000); return; }}
     mqtt.loop();
     mqtt.publish(MQTT_TOPIC, "{{\"t\":21.5}}");
     delay(10000);
   }}

   ESP8266: the same with BearSSL, which needs the time before it can check a certificate:

   #include <ESP8266WiFi.h>
   BearSSL::WiFiClientSecure net;
   BearSSL::X509List ca(CA_CERT), certificate(CLIENT_CERT);
   BearSSL::PrivateKey key(CLIENT_KEY);

     configTime(0, 0, "pool.ntp.org");   // then wait until time(nullptr) > 1700000000
     net.setTrustAnchors(&ca);
     net.setClientECCert(&certificate, &key, BR_KEYTYPE_SIGN, BR_KEYTYPE_EC);

   If {host} is not found or not believed: a name that ends in .local needs multicast DNS, and MQTT_HOST
   must be a name or an address of the gateway's certificate (`pki.names` in its configuration adds some).
   Many TLS libraries check names only: prefer a name to an address. */
"#
        )
    }

    fn esp_idf(&self, dir: &Path) -> String {
        let Self { name, host, port, .. } = self;
        let symbol = |file: &str| format!("_binary_{}_start", c_identifier(file));
        let (ca, certificate) = (symbol(CA_FILE), symbol(&certificate_file(name)));
        let key = symbol(&key_file(name));
        format!(
            r#"
Copy the files of {dir} into main/certs/ of the project, and embed them in main/CMakeLists.txt:

    idf_component_register(SRCS "main.c"
        EMBED_TXTFILES "certs/{CA_FILE}" "certs/{name}.pem" "certs/{name}.key")

Then, with ESP-IDF 5:

    extern const char ca_pem[] asm("{ca}");
    extern const char device_pem[] asm("{certificate}");
    extern const char device_key[] asm("{key}");

    const esp_mqtt_client_config_t config = {{
        .broker.address.uri = "mqtts://{uri_host}:{port}",
        .broker.verification.certificate = ca_pem,
        .credentials = {{
            .client_id = "{name}",
            .authentication = {{ .certificate = device_pem, .key = device_key }},
        }},
    }};
    esp_mqtt_client_handle_t client = esp_mqtt_client_init(&config);
    esp_mqtt_client_start(client);
    esp_mqtt_client_publish(client, "{name}/readings", "{{\"t\":21.5}}", 0, 1, 0);
"#,
            dir = dir.display(),
            uri_host = if host.contains(':') { format!("[{host}]") } else { host.clone() },
        )
    }

    fn mosquitto(&self, dir: &Path) -> String {
        let Self { name, host, port, .. } = self;
        let file = |name: &str| shell_word(&dir.join(name).to_string_lossy());
        let tls = format!(
            "-h {host} -p {port} --cafile {} --cert {} --key {}",
            file(CA_FILE),
            file(&certificate_file(name)),
            file(&key_file(name))
        );
        format!(
            "\nPublish a reading (on another machine: -h with the name of this one):\n\n  \
             mosquitto_pub {tls} -q 1 -t {name}/readings -m '{{\"t\":21.5}}'\n\n\
             Listen to all that is sent below {name}/:\n\n  \
             mosquitto_sub {tls} -q 1 -v -t '{name}/#'\n"
        )
    }
}

/// As CMake's MAKE_C_IDENTIFIER, which ESP-IDF names embedded files by.
fn c_identifier(file: &str) -> String {
    let word: String = file.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if word.starts_with(|c: char| c.is_ascii_digit()) { format!("_{word}") } else { word }
}

/// A word that a shell takes as it is.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}
