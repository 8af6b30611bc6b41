//! What a message is made of, parsed once.

use std::fmt;

/// The digits of a number in international form (ITU-T E.164, 6.2.1): at most 15.
const MAX_DIGITS: usize = 15;
/// Shorter ones are no numbers of subscribers anywhere.
const MIN_DIGITS: usize = 6;

/// The number of a phone, as E.164 has it: an optional `+`, and 6 to 15 digits of which the first is no 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhoneNumber(Box<str>);

/// The text of a message: never empty, of a bounded length, with LF for every new line and no other control
/// character but the tab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageText(Box<str>);

/// Why a message cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// It is no number.
    #[error(
        "a phone number is written as in +447700900123: {MIN_DIGITS} to {MAX_DIGITS} digits, the first no 0, a + before \
         them, nothing between"
    )]
    Number,
    /// There is no text.
    #[error("the message is empty")]
    Empty,
    /// It is longer than `messages.max_characters`.
    #[error("the message has {0} characters, more than the {1} of messages.max_characters")]
    TooLong(usize, usize),
    /// A character that would end a text early, or steer something.
    #[error("the message holds the control character {0:?}; of those it may have new lines and tabs")]
    Control(char),
}

impl PhoneNumber {
    /// Parses a number.
    ///
    /// # Errors
    /// [`InvalidMessage::Number`].
    pub fn parse(text: &str) -> Result<Self, InvalidMessage> {
        let digits = text.strip_prefix('+').unwrap_or(text);
        let is_number = (MIN_DIGITS..=MAX_DIGITS).contains(&digits.len())
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && !digits.starts_with('0');
        if is_number { Ok(Self(text.into())) } else { Err(InvalidMessage::Number) }
    }
}

impl fmt::Display for PhoneNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl MessageText {
    /// Parses a text of at most so many characters. CR LF is taken for LF.
    ///
    /// # Errors
    /// All but [`InvalidMessage::Number`].
    pub fn parse(text: &str, max_characters: usize) -> Result<Self, InvalidMessage> {
        let text = text.replace("\r\n", "\n");
        let count = text.chars().count();
        if text.trim().is_empty() {
            return Err(InvalidMessage::Empty);
        }
        if count > max_characters {
            return Err(InvalidMessage::TooLong(count, max_characters));
        }
        match text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
            Some(control) => Err(InvalidMessage::Control(control)),
            None => Ok(Self(text.into())),
        }
    }
}

/// What goes to a phone: `number:text`. A number holds no `:`, so the first one divides them.
pub(super) fn payload(phone: &PhoneNumber, MessageText(text): &MessageText) -> String {
    format!("{phone}:{text}")
}

/// The number and the text of such a payload.
pub(super) fn parts(payload: &[u8]) -> (String, String) {
    let text = String::from_utf8_lossy(payload);
    let (phone, text) = text.split_once(':').unwrap_or(("", &text));
    (phone.to_owned(), text.to_owned())
}
