//! The message gateway: text messages for phones, through the ledger of commands.
//!
//! A message is one command for a phone, and another one for each further try; what the ledger keeps of them is all
//! that is kept. A phone gets `number:text` on its topic `devices/{key}/sms` (see `authorize::keyed` for what becomes
//! of the key). It has it when it has acknowledged it.
//!
//! | a try | is followed by another one |
//! |---|---|
//! | expired, and was never sent | yes |
//! | failed: the phone has refused it, or it is larger than the phone takes | yes |
//! | of a further try: refused, as too many wait for the device | yes |
//! | expired or ended after it was sent | no: the phone may have sent it |
//!
//! There are `messages.retries` further tries, after a back-off. If no device was named, each goes to the one of the
//! announced with the fewest messages waiting, to another than before if there is one; if none is announced, to the
//! same as before.

mod reference;
mod shown;
#[cfg(test)]
mod tests;
mod text;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::reference::Try;
use self::shown::{Tries, Verdict, verdict};
use crate::authorize::keyed;
use crate::config;
use crate::message::{CommandId, DeviceId, Qos, Topic};
use crate::relay::{
    Accepted, Ledger, NewCommand, NotAccepted, Origin, SharedCommand, Source, State, Wanted as WantedCommands,
};

pub use shown::{Message, MessageState};
pub use text::{InvalidMessage, MessageText, PhoneNumber};

/// The name of the source.
const NAME: &str = "messages";
/// Commands that are looked at in one go.
const BATCH: usize = 1_000;
/// What could not be done, is tried again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Messages, and the phones that they go through. Cheap to clone.
#[derive(Clone)]
pub struct Messages(Arc<Inner>);

struct Inner {
    ledger: Ledger,
    settings: config::Messages,
    /// The devices that have announced themselves.
    announced: Box<dyn Fn() -> Vec<DeviceId> + Send + Sync>,
}

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// The number that it is for.
    pub phone: PhoneNumber,
    /// What it says.
    pub text: MessageText,
    /// Through which device; without it through one that has announced itself.
    pub device: Option<DeviceId>,
    /// Who sends it: the id of a token.
    pub token: Box<str>,
    /// A second message of the same sender with the same key is the first.
    pub key: Option<Box<str>>,
}

/// Why a message is not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// No device was named, and none is there to be chosen.
    #[error(
        "no device has announced itself: name one, and the message waits for it; GET /devices lists them"
    )]
    NobodyThere,
    /// The key was used for another message.
    #[error("this Idempotency-Key was used for another message: make a new key for each")]
    OtherMessage,
    /// The device's name cannot be in a topic, or the ledger has refused it, for good.
    #[error("{0}")]
    Refused(String),
    /// The gateway is ending.
    #[error("the gateway is ending")]
    Closed,
}

/// A message that was taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// As it is now.
    pub message: Message,
    /// It was not there before.
    pub is_new: bool,
}

/// Which messages are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Whose last try was for this device.
    pub device: Option<DeviceId>,
    /// In this state.
    pub state: Option<MessageState>,
}

/// Some messages, the newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// These.
    pub messages: Vec<Message>,
    /// After which the next page begins; `None`: this is the last.
    pub next: Option<CommandId>,
}

impl Messages {
    /// Messages of this ledger. `announced` tells which devices are there.
    #[must_use]
    pub fn new(
        ledger: Ledger,
        settings: config::Messages,
        announced: impl Fn() -> Vec<DeviceId> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner { ledger, settings, announced: Box::new(announced) }))
    }

    /// The bounds of messages.
    #[must_use]
    pub fn settings(&self) -> &config::Messages {
        &self.0.settings
    }

    /// Sends a message: now, or as soon as its device is connected, as long as it is good. On disk when this resolves.
    ///
    /// # Errors
    /// Why it is not sent.
    pub async fn send(&self, new: NewMessage) -> Result<Taken, NotSent> {
        let payload = text::payload(&new.phone, &new.text);
        let reference = reference::first(new.device.is_some(), &new.token, new.key.as_deref());
        self.0.ledger.loaded().await;
        // Whoever repeats a message is answered, whether anybody is there now or not.
        let device = match (&new.device, self.known(&reference)) {
            (Some(device), _) => device.clone(),
            (None, Some(before)) => before.device.clone(),
            (None, None) => self.choose(None).ok_or(NotSent::NobodyThere)?,
        };
        let accepted = self.accept(device, payload.clone(), reference).await;
        let (command, is_new) = match accepted {
            Ok(Accepted::New(command)) => (command, true),
            Ok(Accepted::Known(command)) => (command, false),
            Err(error) => return Err(error.into()),
        };
        if command.payload != payload || new.device.is_some_and(|device| device != command.device) {
            return Err(NotSent::OtherMessage);
        }
        if command.state == State::Refused {
            return Err(NotSent::refused(&command));
        }
        Ok(Taken { message: self.get(command.id).ok_or(NotSent::Closed)?, is_new })
    }

    /// A message, as it is now; `None` if there is none, or it has ended long ago.
    #[must_use]
    pub fn get(&self, id: CommandId) -> Option<Message> {
        self.shown(id, self.tries().of(id)?)
    }

    /// Messages, the newest first, beginning after `after`.
    #[must_use]
    pub fn list(&self, wanted: &Wanted, after: Option<CommandId>, limit: usize) -> Page {
        let tries = self.tries();
        let shown = tries.newest_first(after).filter_map(|(id, tries)| self.shown(id, tries));
        let mut shown = shown.filter(|message| wanted.fits(message));
        let messages: Vec<_> = shown.by_ref().take(limit).collect();
        let next = shown.next().and(messages.last()).map(|last| last.id);
        Page { messages, next }
    }

    /// Messages that wait for each device.
    #[must_use]
    pub fn waiting(&self) -> BTreeMap<DeviceId, usize> {
        let mut waiting = BTreeMap::new();
        self.commands(Some(State::Queued), |command| {
            *waiting.entry(command.device.clone()).or_default() += 1
        });
        waiting
    }

    /// Tries again what came to nothing, until it is cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.try_again() => {}
        }
    }

    async fn try_again(&self) {
        let mut due = HashMap::new();
        loop {
            match self.look(&mut due).await {
                Err(NotSent::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "a message cannot be tried again now");
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Ok(None) => self.0.ledger.changed(Source::Message, NAME).await,
                // Others may have come to nothing meanwhile.
                Ok(Some(at)) => tokio::time::sleep_until(at.min(Instant::now() + LOOK_AGAIN)).await,
            }
        }
    }

    /// Does what is due, and says when the next is. Until a try is followed by another, that it came to nothing counts
    /// as not reported: so a restart knows of it.
    async fn look(&self, due: &mut HashMap<CommandId, Instant>) -> Result<Option<Instant>, NotSent> {
        let ledger = &self.0.ledger;
        let commands = ledger.unreported(Source::Message, NAME, usize::MAX);
        due.retain(|id, _| commands.iter().any(|command| command.id == *id));
        for command in &commands {
            let of = Try::of(command);
            let again = of.map(|of| (of, verdict(command, of.number, &self.0.settings)));
            if let Some((of, Verdict::Again(after))) = again {
                let at = *due.entry(command.id).or_insert_with(|| Instant::now() + after);
                if at > Instant::now() {
                    continue;
                }
                self.follow(command, of.next()).await?;
            }
            ledger.reported(command.id, command.state).await.map_err(|_| NotSent::Closed)?;
            due.remove(&command.id);
        }
        Ok(due.values().min().copied())
    }

    async fn follow(&self, before: &SharedCommand, next: Try) -> Result<(), NotSent> {
        let chosen = (!next.is_named).then(|| self.choose(Some(&before.device))).flatten();
        let device = chosen.unwrap_or_else(|| before.device.clone());
        let payload = String::from_utf8_lossy(&before.payload).into_owned();
        let (message, number) = (next.message, next.number);
        match self.accept(device.clone(), payload, next.reference()).await {
            Ok(_) => tracing::info!(%message, number, %device, "a message is tried again"),
            // It is kept as such, and judged like every other try.
            Err(NotAccepted::Refused(refused)) => {
                tracing::warn!(%message, number, %device, reason = refused.reason, "a further try is refused");
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn accept(
        &self,
        device: DeviceId,
        payload: String,
        reference: String,
    ) -> Result<Accepted, NotAccepted> {
        let topic = Topic::parse(&keyed::messages(&device)).expect("a name holds no wildcard");
        let origin = Origin { source: Source::Message, name: NAME.into(), reference: Some(reference.into()) };
        let command = NewCommand {
            device,
            topic,
            payload: payload.into(),
            qos: Qos::AtLeastOnce,
            origin,
            key: None,
            good_for: self.0.settings.good_for,
            reply: None,
        };
        self.0.ledger.accept(command).await
    }

    /// The announced device with the fewest messages waiting; `before` only if there is no other.
    fn choose(&self, before: Option<&DeviceId>) -> Option<DeviceId> {
        let announced = (self.0.announced)();
        let waiting = self.waiting();
        let load = |device: &DeviceId| waiting.get(device).copied().unwrap_or_default();
        announced.into_iter().min_by_key(|device| (Some(device) == before, load(device)))
    }

    fn known(&self, reference: &str) -> Option<SharedCommand> {
        let mut known = None;
        self.commands(None, |command| {
            if command.origin.reference.as_deref() == Some(reference) {
                known = Some(Arc::clone(command));
            }
        });
        known
    }

    fn tries(&self) -> Tries {
        let mut tries = Tries::default();
        self.commands(None, |command| tries.add(Arc::clone(command)));
        tries
    }

    /// All commands that are messages: no more than the ledger keeps.
    fn commands(&self, state: Option<State>, mut with: impl FnMut(&SharedCommand)) {
        let source_name = Some(NAME.into());
        let wanted = WantedCommands { device: None, state, source: Some(Source::Message), source_name };
        let mut after = None;
        loop {
            let page = self.0.ledger.list(&wanted, after, BATCH);
            page.commands.iter().for_each(&mut with);
            match page.next {
                Some(next) => after = Some(next),
                None => return,
            }
        }
    }

    fn shown(&self, id: CommandId, tries: &BTreeMap<u32, SharedCommand>) -> Option<Message> {
        shown::message(id, tries, &self.0.settings, self.0.ledger.clock())
    }
}

impl Wanted {
    fn fits(&self, message: &Message) -> bool {
        self.device.as_ref().is_none_or(|device| *device == message.device)
            && self.state.is_none_or(|state| state == message.state)
    }
}

impl NotSent {
    fn refused(command: &SharedCommand) -> Self {
        Self::Refused(command.reason.as_deref().unwrap_or("refused").to_owned())
    }
}

impl From<NotAccepted> for NotSent {
    fn from(error: NotAccepted) -> Self {
        match error {
            NotAccepted::Refused(command) => Self::refused(&command),
            NotAccepted::NoRoom | NotAccepted::Closed => Self::Closed,
        }
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}
