//! What has to be looked at now and then: the clock, its floor, the server's certificate.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::buffer::Buffer;
use crate::clock::{Change, Clock};
use crate::pki::{Renewed, ServerTls};

const TICK: Duration = Duration::from_secs(1);

/// A power cut takes the floor back by at most this; each time costs the SD card one small write.
const FLOOR_EVERY_TICKS: u64 = 900;

const RENEW_EVERY_TICKS: u64 = 3_600;

pub(super) async fn run(clock: Clock, buffer: Buffer, tls: ServerTls, cancel: CancellationToken) {
    if let Some((boot, offset_ms)) = clock.offset() {
        keep_offset(&buffer, boot, offset_ms).await;
    }
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for tick in 0_u64.. {
        tokio::select! {
            _ = ticks.tick() => {}
            () = cancel.cancelled() => return,
        }
        let change = clock.look();
        match change {
            Change::None => {}
            Change::Synchronized { boot, offset_ms } => {
                tracing::info!(
                    "the wall clock is synchronised; earlier readings of this boot get their true time"
                );
                keep_offset(&buffer, boot, offset_ms).await;
            }
            Change::Stepped { boot, offset_ms } => {
                tracing::info!("the wall clock was set");
                keep_offset(&buffer, boot, offset_ms).await;
            }
            Change::Lost => tracing::warn!("the time daemon has lost its source; readings are marked"),
        }
        let now_true = matches!(change, Change::Synchronized { .. } | Change::Stepped { .. });
        if now_true || tick % FLOOR_EVERY_TICKS == 0 {
            keep_floor(clock.clone()).await;
        }
        if now_true || tick % RENEW_EVERY_TICKS == 0 {
            renew(tls.clone()).await;
        }
    }
}

async fn renew(tls: ServerTls) {
    // It signs and writes files.
    match tokio::task::spawn_blocking(move || tls.renew_if_due()).await {
        Ok(Ok(Renewed::No)) => {}
        Ok(Ok(Renewed::Yes(why))) => tracing::info!(%why, "new connections are shown a new certificate"),
        Ok(Err(error)) => {
            tracing::error!(%error, "the certificates cannot be used; what was in force stays so")
        }
        Err(panic) => tracing::error!(%panic, "renewing the certificate"),
    }
}

async fn keep_floor(clock: Clock) {
    // It waits for the disk.
    match tokio::task::spawn_blocking(move || clock.keep_floor()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the clock's floor could not be kept"),
        Err(panic) => tracing::error!(%panic, "keeping the clock's floor"),
    }
}

async fn keep_offset(buffer: &Buffer, boot: crate::message::BootId, offset_ms: i64) {
    if buffer.set_boot_offset(boot, offset_ms).await.is_err() {
        tracing::debug!("the buffer was closed before the clock's offset was kept");
    }
}
