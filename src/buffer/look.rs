//! Looking at what is stored without moving anything: the newest readings first, some at a time.

use tokio::sync::oneshot;

use super::block::Names;
use super::thread::Command;
use super::{Buffer, Closed};
use crate::message::{Reading, Seq};

/// Some readings that are stored.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// They are consecutive, the newest first, but for numbers that are not stored any more.
    pub readings: Vec<Reading>,
    /// Older ones have numbers below this; `None`: there are none.
    pub rest: Option<Seq>,
}

impl Buffer {
    /// The newest readings with numbers below `end`, or of all: some 32 KiB of them, compressed, and no more than 32 blocks.
    /// The store's thread looks no longer than that at a time. `None` while the store is in trouble.
    ///
    /// # Errors
    /// [`Closed`] when the buffer has ended.
    pub async fn look(&self, end: Option<Seq>) -> Result<Option<Look>, Closed> {
        let end = end.unwrap_or(Seq::MAX);
        let (reply, blocks) = oneshot::channel();
        self.0.0.ask(Command::Look { end, reply }).await?;
        let Some((blocks, rest)) = self.0.0.answer(blocks).await? else { return Ok(None) };
        let mut names = Names::default();
        let mut readings = Vec::new();
        // One whose content makes no sense is left to the sinks' readers, who put it on record.
        for block in blocks.iter().filter_map(|block| block.decode(&mut names)) {
            readings.extend(block.into_iter().rev().filter(|reading| reading.seq < end));
        }
        Ok(Some(Look { readings, rest: rest.filter(|rest| *rest > 1) }))
    }
}
