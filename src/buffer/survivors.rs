//! Which frames of records count in a salvage. A record that was removed, or put anew, has left its older frames in the
//! files: without the store's own index nobody can tell them from those that live.
//!
//! Two files in the damaged store help a later attempt: `undone` names the records that the group which was never
//! acknowledged may have changed, and `asked` counts how often the index was asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use super::frame::{Fields, put_bytes};
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
    /// What these records were before that is what counts.
    undone: BTreeSet<Vec<u8>>,
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

/// Writes down what the group that is `held` may have changed.
pub(super) fn prepare(dir: &Path, held: Option<&Group>) -> io::Result<()> {
    let mut undone = Vec::new();
    for key in held.iter().flat_map(|group| group.sections_from(0)).flat_map(|section| section.changes.keys())
    {
        put_bytes(&mut undone, record::stem(&key.part(0)));
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
            undone: std::iter::from_fn(|| fields.bytes().map(<[u8]>::to_vec)).collect(),
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
        let Some(index) = &self.index else { return generation <= self.acked };
        let lives = match index.live.get(key) {
            Some(live) => *live == generation || *live > self.acked,
            None => self.undone.contains(record::stem(key)),
        };
        generation <= self.acked && (lives || generation > index.generation)
    }
}

impl Index {
    fn read(dir: &Path) -> Result<Self, StoreError> {
        let mut asked = File::options().append(true).create(true).open(dir.join("asked"))?;
        if asked.metadata()?.len() >= MAX_ASKED {
            return Err(StoreError::Damaged("whoever asks it does not come back".to_owned()));
        }
        asked.write_all(b"?")?;
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
