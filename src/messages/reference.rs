//! What the ledger keeps of a message besides its text: which try a command is, of what, and who chose the device.
//!
//! It stands in the command's reference, so that a restart knows all of it: `{number}{n|c}/{of}`. Of a first try `of`
//! stands for its token and idempotency key; of a further one it is the message's id. As the ledger knows a reference
//! again, no try is made twice.

use ring::digest::{Context, SHA256};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::message::CommandId;
use crate::relay::Command;

/// A command, as a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Try {
    /// From 1 on.
    pub(super) number: u32,
    /// Whether the device was named, and not chosen: then no other takes its place.
    pub(super) is_named: bool,
    /// The message: the command that was the first try.
    pub(super) message: CommandId,
}

/// The reference of a first try. Without a key it is one that was never there.
pub(super) fn first(is_named: bool, token: &str, key: Option<&str>) -> String {
    let mut context = Context::new(&SHA256);
    match key {
        Some(key) => {
            context.update(&(token.len() as u64).to_be_bytes());
            context.update(token.as_bytes());
            context.update(key.as_bytes());
        }
        None => {
            let mut random = [0; 32];
            SystemRandom::new().fill(&mut random).expect("the system gives random numbers");
            context.update(&random);
        }
    }
    let digest = context.finish();
    let of: String = digest.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("1{}/{of}", mark(is_named))
}

fn mark(is_named: bool) -> char {
    if is_named { 'n' } else { 'c' }
}

impl Try {
    /// Which try a command is; `None` if it is no message of ours.
    pub(super) fn of(command: &Command) -> Option<Self> {
        let (head, of) = command.origin.reference.as_deref()?.split_once('/')?;
        let (number, is_named) = match (head.strip_suffix('n'), head.strip_suffix('c')) {
            (Some(number), _) => (number, true),
            (_, Some(number)) => (number, false),
            _ => return None,
        };
        let number = number.parse().ok().filter(|number| *number > 0)?;
        let message = if number == 1 { command.id } else { of.parse().ok()? };
        Some(Self { number, is_named, message })
    }

    /// The try that follows this one.
    pub(super) fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }

    /// The reference of a further try.
    pub(super) fn reference(self) -> String {
        format!("{}{}/{}", self.number, mark(self.is_named), self.message)
    }
}
