//! Which frames of records count in a salvage. A record that was removed, or put anew, has left its older frames in the
//! files: without the store's own index nobody can tell them from those that live.
//!
//! Two files in the damaged store help a later attempt: `undone` says what the records that the group which was never
//! acknowledged has changed were before, and `asked` counts how often whoever asked the index did not
//! come back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use super::frame::{Fields, put_bytes, put_varint};
use super::group::Group;
use super::record;
use super::store::{Store, StoreError};

/// A damaged store may hang when it is opened: it is not asked for ever.
const MAX_ASKED: u64 = 3;

/// What is known of the records in a store that cannot be trusted.
#[derive(Debug)]
pub(super) struct Survivors {
    /// What came later was never acknowledged.
    acked: u64,
    /// By the stem of their keys, of which generation records were before that; 0: there was none.
    undone: BTreeMap<Vec<u8>, u64>,
    index: Option<Index>,
}

/// What the store itself says, if it still does.
#[derive(Debug)]
struct Index {
    /// It knows of nothing later.
    generation: u64,
    /// The generation of each value.
    live: BTreeMap<Vec<u8>, u64>,
}

/// Writes down what was before the group that is `held`.
pub(super) fn prepare(dir: &Path, held: Option<&Group>) -> io::Result<()> {
    let mut undone = Vec::new();
    for (key, generation) in held.iter().flat_map(|group| &group.before) {
        put_bytes(&mut undone, record::stem(&key.part(0)));
        put_varint(&mut undone, *generation);
    }
    let mut file = File::create(dir.join("undone"))?;
    file.write_all(&undone)?;
    file.sync_all()
}

impl Survivors {
    /// Asks what is left in `dir`.
    pub(super) fn find(dir: Option<&Path>, acked: Option<u64>) -> Self {
        let undone = dir.and_then(|dir| fs::read(dir.join("undone")).ok()).unwrap_or_default();
        let mut fields = Fields::new(&undone);
        Self {
            acked: acked.unwrap_or(u64::MAX),
            undone: std::iter::from_fn(|| Some((fields.bytes()?.to_vec(), fields.varint()?))).collect(),
            index: dir.and_then(|dir| Index::read(dir).ok()),
        }
    }

    /// Whether what was removed may come back.
    pub(super) fn are_guessed(&self) -> bool {
        self.index.is_none()
    }

    /// Whether the value that was put under this key by the commit of this generation may still live. When nothing
    /// is known what was removed comes back: that is better than losing what was not.
    pub(super) fn may_live(&self, key: &[u8], generation: u64) -> bool {
        let lives = match (self.undone.get(record::stem(key)), &self.index) {
            (Some(before), _) => generation == *before,
            (None, Some(index)) => index.live.get(key) == Some(&generation) || generation > index.generation,
            (None, None) => true,
        };
        lives && generation <= self.acked
    }
}

impl Index {
    fn read(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("asked");
        let mut asked = File::options().append(true).create(true).open(&path)?;
        if asked.metadata()?.len() >= MAX_ASKED {
            return Err(StoreError::Damaged("whoever asks it does not come back".to_owned()));
        }
        asked.write_all(b"?")?;
        let read = Self::ask(dir);
        fs::remove_file(&path)?;
        read
    }

    fn ask(dir: &Path) -> Result<Self, StoreError> {
        let store = Store::open(dir)?;
        let read = Self::of(&store);
        store.discard();
        read
    }

    fn of(store: &Store) -> Result<Self, StoreError> {
        let generation = store.state()?.map_or(0, |state| state.generation);
        let live = record::generations(store)?;
        Ok(Self { generation, live })
    }
}
