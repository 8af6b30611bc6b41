//! Whose the gateway's files are: one file of another owner in its store, and it cannot write any more.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A user, shown by name, or as `#1000` if it has none: `sudo -u` takes both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    id: u32,
    name: Option<String>,
}

impl User {
    fn of(id: u32) -> Self {
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        Self { id, name: name_in(&users, id) }
    }

    /// Whom this process acts as.
    #[must_use]
    pub fn current() -> Self {
        Self::of(rustix::process::geteuid().as_raw())
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => f.write_str(name),
            None => write!(f, "#{}", self.id),
        }
    }
}

/// The owner of a directory, if it is another user than the one that this process acts as.
///
/// # Errors
/// When the directory is not there or cannot be looked at.
pub fn other_owner(directory: &Path) -> io::Result<Option<User>> {
    let owner = std::fs::metadata(directory)?.uid();
    Ok((owner != rustix::process::geteuid().as_raw()).then(|| User::of(owner)))
}

/// The first user with this number, in the form of passwd(5).
fn name_in(users: &str, id: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(id) && !name.is_empty()).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_shown_as_sudo_takes_it() {
        let users = "root:x:0:0:root:/root:/bin/sh\n# a comment\ntampu:x:990:990::/:/usr/sbin/nologin\n";
        let shown = |id| User { id, name: name_in(users, id) }.to_string();
        assert_eq!([shown(0), shown(990), shown(61_234)], ["root", "tampu", "#61234"]);
    }

    #[test]
    fn ones_own_directory_has_no_other_owner() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(other_owner(directory.path()).unwrap(), None);
        assert!(other_owner(&directory.path().join("nothing")).is_err());
    }
}
