//! Certificates that need somebody's care: told in the log, and counted in the status.

use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::api::CertificateFigures;
use crate::pki::{Lives, Pki, ServerTls};

/// How often is looked whether something is wrong with the lists of revoked certificates.
const TICK: Duration = Duration::from_secs(5);
/// How often what stays wrong with them is said again.
const ALARM_PERIOD: Duration = Duration::from_secs(3_600);
/// How often the ends of certificates are looked at, and how often they are said.
const LIVES_PERIOD: Duration = Duration::from_secs(3_600);
const REMINDER_PERIOD: Duration = Duration::from_secs(86_400);
/// Devices that are named in a reminder; `tampu device list` names all.
const MAX_NAMES: usize = 10;

/// Looks after them until it is cancelled. `pki` is that of the start: its device files are read anew each time.
pub(super) async fn run(
    pki: Pki,
    tls: ServerTls,
    figures: watch::Sender<CertificateFigures>,
    cancel: CancellationToken,
) {
    let (mut alarmed, mut looked, mut reminded) = (None, None, None);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = cancel.cancelled() => return,
        }
        let problems: Vec<_> = tls.list_problems().iter().map(ToString::to_string).collect();
        let are_new = problems != figures.borrow().revocation_list_problems;
        if are_new || is_due(alarmed, ALARM_PERIOD) {
            alarmed = Some(Instant::now());
            problems.iter().for_each(|problem| {
                tracing::error!(%problem, "a list of revoked certificates (pki.crl) needs care");
            });
            figures.send_modify(|figures| figures.revocation_list_problems = problems);
        }
        if !is_due(looked, LIVES_PERIOD) {
            continue;
        }
        looked = Some(Instant::now());
        let pki = pki.clone();
        let lives = match tokio::task::spawn_blocking(move || pki.lives()).await {
            Ok(lives) => lives,
            Err(panic) => {
                tracing::error!(%panic, "looking at the ends of certificates");
                continue;
            }
        };
        figures.send_modify(|figures| {
            figures.devices_ending_soon = lives.devices.len();
            figures.authority_ending_soon = !lives.authorities.is_empty();
            figures.server_ending_soon = lives.server.is_some();
        });
        if !lives.is_quiet() && is_due(reminded, REMINDER_PERIOD) {
            reminded = Some(Instant::now());
            remind(&lives);
        }
    }
}

fn is_due(last: Option<Instant>, period: Duration) -> bool {
    last.is_none_or(|at| at.elapsed() >= period)
}

fn remind(Lives { devices, authorities, server }: &Lives) {
    let until = |end: &OffsetDateTime| end.date();
    for (name, end) in authorities {
        let valid_until = until(end);
        tracing::error!(%name, %valid_until, "the CA's certificate ends soon: every device needs one of a new CA before");
    }
    if let Some(end) = server {
        tracing::error!(valid_until = %until(end), "the server's certificate ends soon, and was not renewed");
    }
    if let Some((first, end)) = devices.iter().min_by_key(|(_, end)| *end) {
        let names: Vec<_> = devices.iter().take(MAX_NAMES).map(|(name, _)| name.as_str()).collect();
        tracing::warn!(
            count = devices.len(), devices = names.join(", "), %first, valid_until = %until(end),
            "certificates of devices end soon: `tampu device renew` makes new ones, `tampu device list` shows all"
        );
    }
}
