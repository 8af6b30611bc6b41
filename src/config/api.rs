//! The table of the REST API.

use super::Api;
use super::listener::address;
use super::table::Table;

pub(super) fn api(mut table: Table) -> Api {
    let default = Api::default();
    let address = table.parsed("address", address).unwrap_or(default.address);
    let is_open = !address.ip().is_loopback();
    let tls = table.value("tls", "true or false").unwrap_or(is_open);
    let allow_network = table.value("allow_network_without_tls", "true or false").unwrap_or(false);
    if is_open && !tls && !allow_network {
        table.wrong(
            "tls",
            None,
            format!(
                "{address} can be reached from the network, and without TLS everybody on the way reads the tokens: \
                 leave tls out, use 127.0.0.1, or write allow_network_without_tls = true if that is what you want"
            ),
        );
    }
    let mut rate = |key, default| {
        table.number(key, 1..=1_000_000).and_then(|number| u32::try_from(number).ok()).unwrap_or(default)
    };
    let api = Api {
        commands_per_minute: rate("commands_per_minute", default.commands_per_minute),
        changes_per_minute: rate("changes_per_minute", default.changes_per_minute),
        requests_per_minute: rate("requests_per_minute", default.requests_per_minute),
        failures_per_minute: rate("failures_per_minute", default.failures_per_minute),
        enabled: table.value("enabled", "true or false").unwrap_or(default.enabled),
        max_connections: table.count("max_connections", 2..=10_000).unwrap_or(default.max_connections),
        address,
        tls,
    };
    table.finish();
    api
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    #[test]
    fn beyond_loopback_the_api_has_tls_unless_the_operator_says_otherwise() {
        let api = |text: &str| Config::from_toml(&format!("[api]\n{text}")).map(|config| config.api);
        assert!(!api("").unwrap().tls);
        assert!(api("address = \"0.0.0.0:8484\"").unwrap().tls);
        assert!(api("tls = true").unwrap().tls);
        let refused = api("address = \"0.0.0.0:8484\"\ntls = false").unwrap_err().to_string();
        assert!(refused.contains("allow_network_without_tls"), "{refused}");
        let told = "address = \"0.0.0.0:8484\"\ntls = false\nallow_network_without_tls = true";
        assert!(!api(told).unwrap().tls);
    }
}
