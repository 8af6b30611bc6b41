//! SIGHUP: what can be changed while running is, the rest is named; what is wrong changes nothing.

use super::Gateway;
use crate::config::{self, Config};
use crate::pki::Renewed;

impl Gateway {
    /// Reads the configuration and the certificates again.
    pub(super) async fn reload(&mut self, log_changed: &impl Fn(&config::Log)) {
        let file = self.file.clone();
        // It reads files.
        let mut new = match tokio::task::spawn_blocking(move || Config::load(file.as_deref())).await {
            Ok(Ok(new)) => new,
            Ok(Err(invalid)) => {
                tracing::error!("the new configuration is not valid; the old one stays in force:\n{invalid}");
                return;
            }
            Err(panic) => {
                tracing::error!(%panic, "reading the configuration; the old one stays in force");
                return;
            }
        };
        let (tls, pki) = (self.tls.clone(), new.pki.clone());
        match tokio::task::spawn_blocking(move || tls.reload(&pki)).await {
            Ok(Ok(Renewed::No)) => tracing::info!("the certificates are the same"),
            Ok(Ok(Renewed::Yes(why))) => tracing::info!(%why, "new connections are shown a new certificate"),
            Ok(Err(error)) => {
                tracing::error!(%error, "the new certificates cannot be used; the old ones stay in force");
            }
            Err(panic) => tracing::error!(%panic, "reading the certificates"),
        }
        let late = needs_restart(&self.config, &new);
        // Connections that are there, and the rest of the gateway, go by what it was at the start.
        new.access.keyed_topics = self.config.access.keyed_topics;
        if new.log != self.config.log {
            log_changed(&new.log);
        }
        if new.access != self.config.access || new.streams != self.config.streams {
            self.access.set(&new.access, &new.streams, &self.handles.broker);
            tracing::info!("access rules and streams are in force for live connections too");
        }
        let (access, broker) = (self.access.clone(), self.handles.broker.clone());
        if let Err(panic) = tokio::task::spawn_blocking(move || access.refresh_lists(&broker)).await {
            tracing::error!(%panic, "reading the lists of revoked certificates");
        }
        self.config.log.level.clone_from(&new.log.level);
        self.config.pki = new.pki;
        self.config.access = new.access;
        self.config.streams = new.streams;
        self.config.shutdown_timeout = new.shutdown_timeout;
        match late.as_slice() {
            [] => tracing::info!("reloaded"),
            late => tracing::warn!("reloaded; a restart is needed for: {}", late.join(", ")),
        }
    }
}

/// The parts of the configuration that differ and cannot be changed while running.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let differs = [
        ("gateway.id", old.gateway_id != new.gateway_id),
        ("gateway.data_dir", old.data_dir != new.data_dir),
        ("log.format", old.log.format != new.log.format),
        ("listener", old.listener != new.listener),
        ("websocket", old.websocket != new.websocket),
        ("plain", old.plain != new.plain),
        ("access", old.access.certificate_name != new.access.certificate_name),
        ("limits", old.limits != new.limits),
        ("sessions", old.sessions != new.sessions),
        ("retained", old.retained != new.retained),
        ("commands", old.commands != new.commands),
        ("buffer", old.buffer != new.buffer),
        ("clock", old.clock != new.clock),
        ("gateway.profile, messages", old.messages != new.messages),
        ("api", old.api != new.api),
        ("firmware", old.firmware != new.firmware),
        ("sink", old.sinks != new.sinks),
        ("command_source", old.command_sources != new.command_sources),
        ("rule", old.rules != new.rules),
        ("stream (for the sinks)", old.streams != new.streams && !new.sinks.is_empty()),
    ];
    differs.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::from_toml(text).unwrap_or_else(|invalid| panic!("{invalid}"))
    }

    #[test]
    fn what_needs_a_restart_is_named_and_the_rest_is_not() {
        let old = config("[gateway]\nid = \"a\"\n");
        let new = config(
            "[gateway]\nid = \"b\"\n[buffer]\nack_delay = \"9ms\"\n[log]\nlevel = \"debug\"\n\
             [[rule]]\nname = \"hot\"\nfield = \"t\"\nabove = 50\nlog = \"hot\"\n",
        );
        assert_eq!(needs_restart(&old, &new), ["gateway.id", "buffer", "rule"]);
        assert!(needs_restart(&old, &config("[gateway]\nid = \"a\"\n[[acl]]\ndevice = \"*\"\n")).is_empty());
    }
}
