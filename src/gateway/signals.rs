//! The signals that end a gateway or make it reload.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::GatewayError;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// SIGTERM or SIGINT.
    End,
    /// SIGHUP.
    Reload,
}

/// Keeps the signals that come until somebody asks for them. Whoever starts a gateway makes it first: until then
/// each of them ends the process at once.
#[derive(Debug)]
pub struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    /// Listens from now on. Call it in the context of a runtime.
    ///
    /// # Errors
    /// Those of the system.
    pub fn listen() -> Result<Self, GatewayError> {
        let listen = |kind| {
            signal(kind)
                .map_err(|source| GatewayError::Io { what: "listening for signals".to_owned(), source })
        };
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            int: listen(SignalKind::interrupt())?,
            hup: listen(SignalKind::hangup())?,
        })
    }

    /// The next one. Cancel-safe.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            biased;
            _ = self.term.recv() => Asked::End,
            _ = self.int.recv() => Asked::End,
            _ = self.hup.recv() => Asked::Reload,
        }
    }

    /// Resolves when an end is asked for; keeps what else is. Cancel-safe.
    pub async fn end(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
