//! What the operator wants. [`Config`] is valid by construction: a text that is not becomes
//! a list of [`Problem`]s, each naming the key, where it was set, and what would be right.

mod settings;

pub use settings::*;
