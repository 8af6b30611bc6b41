//! JSON Web Tokens (RFC 7519) as passwords.

use super::identity::Mark;

/// The keys by which tokens are checked.
#[derive(Debug, Default)]
pub struct TokenKeys {
    marks: Vec<Mark>,
}

impl TokenKeys {
    /// Whether a key is still among them.
    pub(super) fn knows(&self, mark: Mark) -> bool {
        self.marks.contains(&mark)
    }
}
