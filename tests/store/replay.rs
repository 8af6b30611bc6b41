//! What a disk may hold after the power goes.
//!
//! The model, as nasty as ext4 (data=ordered, delayed allocation), xfs and f2fs really are:
//!
//! - **Data.** What was written to a file before an fsync or fdatasync of it began is on disk once that came back,
//!   the length included. Anything younger reaches the disk or not, for each 4 KiB page on its own and in any order.
//!   A page is written back whole: it holds what the page cache held at some moment since the last sync. The
//!   device may tear it at its 512-byte sectors. A page that never came out is as it was before, or a hole.
//! - **Length.** A file is as long as the last of its pages that came out; a truncation since the last sync happened
//!   or did not, and none happened without those before it.
//! - **Names.** Creations, renames and unlinks of a directory happen in order; until the directory is synced, any
//!   number of the last ones may be lost, in each directory on its own. A sync of the file does not sync its name.
//!   A name can be there without any of the file's data.
//! - **A failed sync.** The kernel marks the pages clean although they never came out (ext4): they stay as they were
//!   on disk, whatever later syncs say, until somebody writes to the same page again.
//! - **sync_file_range** is no barrier: it flushes neither metadata nor the device's cache.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use super::random::Rng;
use super::recorder::{Entry, SyncOutcome};

const PAGE: u64 = 4096;
const SECTOR: u64 = 512;
/// The number of the directory that all is in.
const ROOT: usize = 0;

/// Which of the unsynced pages the power cut takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// None: what a process finds that is started again after a crash.
    Nothing,
    Everything,
    /// Each with this chance in percent, and torn ones among them.
    Some(u64),
    AllButOne,
    One,
}

impl Loss {
    pub(super) fn random(rng: &mut Rng) -> Self {
        match rng.in_range(0..10) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 => Self::AllButOne,
            3 => Self::One,
            4 => Self::Some(10),
            5 => Self::Some(90),
            _ => Self::Some(50),
        }
    }
}

/// A change of a file's content. `number` counts all entries of the log.
struct Change {
    number: u64,
    kind: ChangeKind,
}

enum ChangeKind {
    /// Within one page: longer writes are cut at the borders of pages.
    Write {
        at: u64,
        data: Vec<u8>,
    },
    Truncate {
        len: u64,
    },
}

/// For each sector of a page, the number of the last change that it came out with.
type Versions = [u64; (PAGE / SECTOR) as usize];

#[derive(Default)]
struct File {
    synced: Vec<u8>,
    unsynced: Vec<Change>,
    /// Pages that a failed sync gave up and nobody wrote to since.
    given_up: BTreeSet<u64>,
}

/// A place in a directory. Directories are known by number, for they can be renamed.
type Place = (usize, String);

/// Names, as they are on disk or in memory.
type Names = BTreeMap<Place, usize>;

/// A change of names. It touches one directory, or two.
enum Naming {
    Add { place: Place, file: usize },
    Remove { place: Place },
    Move { from: Place, to: Place },
}

/// Which syncs do what they say. That the tests would see a missing one is shown by leaving it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syncs {
    All,
    None,
    OfFilesOnly,
    OfDirectoriesOnly,
}

/// What a disk holds, with everything that is still on its way to it.
pub(super) struct Disk {
    files: Vec<File>,
    directories: BTreeSet<usize>,
    by_ino: HashMap<u64, usize>,
    names_now: Names,
    names_synced: Names,
    namings: Vec<Naming>,
    syncing: HashMap<u64, u64>,
    changes: u64,
    syncs: Syncs,
}

/// A directory tree: the directories, and the files with their content.
#[derive(Debug, PartialEq, Eq, Default)]
pub(super) struct Image {
    pub directories: BTreeSet<String>,
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Disk {
    /// A disk that holds this tree.
    pub(super) fn with(image: &Image, syncs: Syncs) -> Self {
        let mut disk = Self::new(syncs);
        // A directory sorts before what is in it.
        for path in &image.directories {
            disk.directories.insert(disk.files.len());
            disk.put(path, File::default());
        }
        for (path, content) in &image.files {
            disk.put(path, File { synced: content.clone(), ..File::default() });
        }
        disk.names_synced = disk.names_now.clone();
        disk
    }

    fn put(&mut self, path: &str, file: File) {
        self.names_now.insert(self.place(path), self.files.len());
        self.files.push(file);
    }

    /// An empty directory.
    pub(super) fn new(syncs: Syncs) -> Self {
        Self {
            files: vec![File::default()],
            directories: BTreeSet::from([ROOT]),
            by_ino: HashMap::new(),
            names_now: Names::new(),
            names_synced: Names::new(),
            namings: Vec::new(),
            syncing: HashMap::new(),
            changes: 0,
            syncs,
        }
    }

    /// Takes the next entry of the log.
    pub(super) fn apply(&mut self, entry: &Entry) {
        self.changes += 1;
        let number = self.changes;
        match entry {
            Entry::Create { ino, path } => self.add(*ino, path, false),
            Entry::Open { ino, path } => {
                let file = if path.is_empty() { ROOT } else { self.names_now[&self.place(path)] };
                self.by_ino.insert(*ino, file);
            }
            Entry::Mkdir { ino, path } => self.add(*ino, path, true),
            Entry::Write { ino, at, data } => {
                let file = self.file(*ino);
                let (mut at, mut rest) = (*at, data.as_slice());
                while !rest.is_empty() {
                    let (part, later) = rest.split_at(rest.len().min((PAGE - at % PAGE) as usize));
                    file.change(number, ChangeKind::Write { at, data: part.to_vec() });
                    (at, rest) = (at + part.len() as u64, later);
                }
            }
            Entry::Truncate { ino, len } => {
                let kind = ChangeKind::Truncate { len: *len };
                self.file(*ino).change(number, kind);
            }
            Entry::Rename { from, to } => {
                let (from, to) = (self.place(from), self.place(to));
                self.name(Naming::Move { from, to });
            }
            Entry::Unlink { path } => {
                let place = self.place(path);
                self.name(Naming::Remove { place });
            }
            Entry::SyncBegin { id, .. } => {
                self.syncing.insert(*id, number);
            }
            Entry::SyncEnd { ino, id, outcome } => self.sync(*ino, *id, *outcome),
            Entry::Mark(_) | Entry::Fault => {}
            Entry::Unsupported(what) => panic!("the store uses {what}, which this model does not know"),
        }
    }

    /// A tree that the disk may hold if the power goes now.
    pub(super) fn image(&self, loss: Loss, rng: &mut Rng) -> Image {
        let names = self.names_after(loss, rng);
        let mut image = Image::default();
        // What is in a directory whose own name did not reach the disk is out of reach.
        let mut open = vec![(ROOT, String::new())];
        while let Some((directory, path)) = open.pop() {
            let inside = names.range((directory, String::new())..(directory + 1, String::new()));
            for ((_, name), file) in inside {
                let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                if self.directories.contains(file) {
                    image.directories.insert(path.clone());
                    open.push((*file, path));
                } else {
                    image.files.insert(path, self.files[*file].after(loss, rng));
                }
            }
        }
        image
    }

    fn add(&mut self, ino: u64, path: &str, is_directory: bool) {
        let file = self.files.len();
        self.files.push(File::default());
        self.by_ino.insert(ino, file);
        if is_directory {
            self.directories.insert(file);
        }
        let place = self.place(path);
        self.name(Naming::Add { place, file });
    }

    /// Where a path leads, in memory.
    fn place(&self, path: &str) -> Place {
        let (above, name) = path.rsplit_once('/').map_or(("", path), |(above, name)| (above, name));
        let directory = if above.is_empty() { ROOT } else { self.names_now[&self.place(above)] };
        (directory, name.to_owned())
    }

    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.names_now);
        self.namings.push(naming);
    }

    fn file(&mut self, ino: u64) -> &mut File {
        let file = self.by_ino.get(&ino).expect("a file that is written to was created or opened before");
        &mut self.files[*file]
    }

    fn sync(&mut self, ino: u64, id: u64, outcome: SyncOutcome) {
        let begun = self.syncing.remove(&id).expect("a sync that ends was begun");
        let files = matches!(self.syncs, Syncs::All | Syncs::OfFilesOnly);
        let directories = matches!(self.syncs, Syncs::All | Syncs::OfDirectoriesOnly);
        let file = self.by_ino[&ino];
        match outcome {
            _ if self.directories.contains(&file) => {
                if outcome == SyncOutcome::Done && directories {
                    self.sync_names(file);
                }
            }
            SyncOutcome::Done if files => self.files[file].sync(begun),
            SyncOutcome::Done => {}
            SyncOutcome::Failed => self.files[file].give_up(begun),
            SyncOutcome::Dropped => self.files[file].drop_unsynced(begun),
        }
    }

    /// Namings are in order within a directory; one that touches two ties their orders together.
    fn sync_names(&mut self, directory: usize) {
        let mut dirs = BTreeSet::from([directory]);
        let mut keep = vec![false; self.namings.len()];
        for (at, naming) in self.namings.iter().enumerate().rev() {
            if naming.directories().iter().any(|dir| dirs.contains(dir)) {
                dirs.extend(naming.directories());
                keep[at] = true;
            }
        }
        let mut synced = keep.into_iter();
        let names = &mut self.names_synced;
        self.namings.retain(|naming| {
            let happened = synced.next() == Some(true);
            if happened {
                naming.apply(names);
            }
            !happened
        });
    }

    fn names_after(&self, loss: Loss, rng: &mut Rng) -> Names {
        let mut names = self.names_synced.clone();
        let mut stopped = BTreeSet::new();
        for naming in &self.namings {
            let lost = match loss {
                Loss::Nothing => false,
                Loss::Everything => true,
                // Few namings wait at a time: a fair coin leaves prefixes of every length.
                Loss::Some(_) | Loss::AllButOne | Loss::One => rng.percent(35),
            };
            if lost || naming.directories().iter().any(|dir| stopped.contains(dir)) {
                stopped.extend(naming.directories());
            } else {
                naming.apply(&mut names);
            }
        }
        names
    }
}

impl Naming {
    fn directories(&self) -> [usize; 2] {
        match self {
            Self::Add { place, .. } | Self::Remove { place } => [place.0; 2],
            Self::Move { from, to } => [from.0, to.0],
        }
    }

    fn apply(&self, names: &mut Names) {
        match self {
            Self::Add { place, file } => {
                names.insert(place.clone(), *file);
            }
            Self::Remove { place } => {
                names.remove(place);
            }
            Self::Move { from, to } => {
                let file = names.remove(from).expect("namings of a directory happen in order");
                names.insert(to.clone(), file);
            }
        }
    }
}

impl Change {
    fn page(&self) -> Option<u64> {
        match self.kind {
            ChangeKind::Write { at, .. } => Some(at / PAGE),
            ChangeKind::Truncate { .. } => None,
        }
    }

    /// Applies what came out of this change, sector by sector.
    fn apply(&self, content: &mut Vec<u8>, versions: &Versions) {
        let (at, data) = match &self.kind {
            ChangeKind::Truncate { len } => return content.resize(*len as usize, 0),
            ChangeKind::Write { at, data } => (*at, data),
        };
        if versions.iter().all(|version| *version < self.number) {
            return;
        }
        let end = at + data.len() as u64;
        content.resize(content.len().max(end as usize), 0);
        let mut from = at;
        while from < end {
            let to = end.min((from / SECTOR + 1) * SECTOR);
            if versions[(from % PAGE / SECTOR) as usize] >= self.number {
                let part = &data[(from - at) as usize..(to - at) as usize];
                content[from as usize..to as usize].copy_from_slice(part);
            }
            from = to;
        }
    }
}

impl File {
    fn change(&mut self, number: u64, kind: ChangeKind) {
        let change = Change { number, kind };
        if let Some(page) = change.page() {
            self.given_up.remove(&page);
        }
        self.unsynced.push(change);
    }

    fn sync(&mut self, begun: u64) {
        for change in std::mem::take(&mut self.unsynced) {
            let given_up = change.page().is_some_and(|page| self.given_up.contains(&page));
            if change.number < begun && !given_up {
                change.apply(&mut self.synced, &[u64::MAX; 8]);
            } else {
                self.unsynced.push(change);
            }
        }
    }

    fn give_up(&mut self, begun: u64) {
        let pages = |change: &Change| change.page();
        self.given_up.extend(self.unsynced.iter().filter(|change| change.number < begun).filter_map(pages));
        for page in self.unsynced.iter().filter(|change| change.number >= begun).filter_map(pages) {
            self.given_up.remove(&page);
        }
    }

    fn drop_unsynced(&mut self, begun: u64) {
        self.unsynced.retain(|change| change.number >= begun || change.page().is_none());
    }

    fn after(&self, loss: Loss, rng: &mut Rng) -> Vec<u8> {
        let mut content = self.synced.clone();
        if self.unsynced.is_empty() {
            return content;
        }
        let versions = self.written_back(loss, rng);
        let truncations = match loss {
            Loss::Nothing => u64::MAX,
            Loss::Everything => 0,
            _ => self.unsynced[rng.in_range(0..self.unsynced.len())].number - u64::from(rng.percent(50)),
        };
        for change in &self.unsynced {
            match change.page() {
                Some(page) => change.apply(&mut content, &versions[&page]),
                None if change.number <= truncations => change.apply(&mut content, &[u64::MAX; 8]),
                None => {}
            }
        }
        content
    }

    fn written_back(&self, loss: Loss, rng: &mut Rng) -> BTreeMap<u64, Versions> {
        let mut dirty: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for change in &self.unsynced {
            if let Some(page) = change.page() {
                dirty.entry(page).or_default().push(change.number);
            }
        }
        let the_one = rng.in_range(0..dirty.len().max(1));
        let pages = dirty.into_iter().enumerate();
        let versions = pages.map(|(at, (page, numbers))| {
            let last = numbers[numbers.len() - 1];
            let mut any = || numbers[rng.in_range(0..numbers.len())];
            let version = match loss {
                Loss::Nothing => return (page, [last; 8]),
                _ if self.given_up.contains(&page) => return (page, [0; 8]),
                Loss::Everything => return (page, [0; 8]),
                Loss::AllButOne if at != the_one => last,
                Loss::AllButOne => 0,
                Loss::One if at != the_one => 0,
                Loss::One => any(),
                Loss::Some(_) => any(),
            };
            let before = any();
            let lost = matches!(loss, Loss::Some(chance) if rng.percent(chance));
            let version = if lost { 0 } else { version };
            let mut sectors = [version; 8];
            if rng.percent(10) {
                let before = if rng.percent(50) { 0 } else { before.min(version) };
                for sector in &mut sectors {
                    *sector = if rng.percent(50) { before } else { version };
                }
            }
            (page, sectors)
        });
        versions.collect()
    }
}

impl Image {
    /// The tree as it really is below a directory.
    pub(super) fn of(root: &Path) -> Self {
        let mut image = Self::default();
        let mut open = vec![root.to_owned()];
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(&dir).unwrap() {
                let entry = entry.unwrap();
                let path = entry.path();
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                if entry.file_type().unwrap().is_dir() {
                    image.directories.insert(name);
                    open.push(path);
                } else {
                    image.files.insert(name, std::fs::read(&path).unwrap());
                }
            }
        }
        image
    }

    /// Writes the tree into an empty directory.
    pub(super) fn write(&self, root: &Path) {
        for directory in &self.directories {
            std::fs::create_dir(root.join(directory)).unwrap();
        }
        for (path, content) in &self.files {
            std::fs::write(root.join(path), content).unwrap();
        }
    }

    /// What differs, in words; `None` if nothing does.
    pub(super) fn difference(&self, other: &Self) -> Option<String> {
        if self.directories != other.directories {
            return Some(format!("directories {:?} and {:?}", self.directories, other.directories));
        }
        let names = |image: &Self| image.files.keys().cloned().collect::<Vec<_>>();
        if names(self) != names(other) {
            return Some(format!("files {:?} and {:?}", names(self), names(other)));
        }
        self.files.iter().zip(other.files.values()).find(|((_, mine), theirs)| mine != theirs).map(
            |((path, mine), theirs)| {
                let at = mine.iter().zip(theirs).position(|(one, other)| one != other);
                format!("{path}: {} and {} bytes, first difference at {at:?}", mine.len(), theirs.len())
            },
        )
    }
}
