use super::*;

const OTHER_BOOT: BootId = BootId([7; 16]);
const DAY_MS: i64 = 86_400_000;

struct Box {
    directory: tempfile::TempDir,
    settings: config::Clock,
}

impl Box {
    fn new(sync_wait: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let source = ClockSource::File(directory.path().join("synchronized"));
        Self { settings: config::Clock { sync_wait, source }, directory }
    }

    fn start(&self, offsets: BTreeMap<BootId, i64>) -> Clock {
        Clock::start(&self.settings, &self.floor(), offsets).unwrap()
    }

    fn floor(&self) -> PathBuf {
        self.directory.path().join("clock-floor")
    }

    fn synchronize(&self) {
        std::fs::write(self.directory.path().join("synchronized"), "").unwrap();
    }

    fn lose_synchronization(&self) {
        std::fs::remove_file(self.directory.path().join("synchronized")).unwrap();
    }
}

#[test]
fn a_reading_from_before_the_synchronisation_gets_its_true_time_afterwards() {
    let pi = Box::new(Duration::from_secs(3_600));
    let clock = pi.start(BTreeMap::new());
    // The wall clock stood in 1970 when this one came, a second ago by the boot clock.
    let now = clock.stamp();
    let early = Stamp { wall_ms: 7_000, boot_ms: now.boot_ms - 1_000, ..now };
    assert_eq!(early.quality, ClockQuality::Unsynchronized);
    assert_eq!(clock.resolve(&early), Resolved::Wait);

    pi.synchronize();
    assert!(matches!(clock.look(), Change::Synchronized { boot, .. } if boot == now.boot));
    let Resolved::At(ms, TimeQuality::Corrected) = clock.resolve(&early) else { panic!("not corrected") };
    let expected = wall_ms() - i64::try_from(kernel::boottime_ms() - early.boot_ms).unwrap();
    assert!((ms - expected).abs() <= 50, "{ms} is not {expected}");
    let later = clock.stamp();
    assert_eq!(clock.resolve(&later), Resolved::At(later.wall_ms, TimeQuality::Synchronized));
}

#[test]
fn readings_of_an_earlier_boot_are_corrected_if_its_offset_was_kept_and_marked_if_not() {
    let pi = Box::new(Duration::from_secs(3_600));
    let stamp = Stamp { wall_ms: 5, boot_ms: 2_000, boot: OTHER_BOOT, quality: ClockQuality::Unsynchronized };
    let clock = pi.start(BTreeMap::new());
    assert_eq!(clock.resolve(&stamp), Resolved::At(5, TimeQuality::Unsynchronized));
    let clock = pi.start(BTreeMap::from([(OTHER_BOOT, 1_800_000_000_000)]));
    assert_eq!(clock.resolve(&stamp), Resolved::At(1_800_000_002_000, TimeQuality::Corrected));
}

#[test]
fn after_the_wait_a_reading_goes_on_marked() {
    let clock = Box::new(Duration::ZERO).start(BTreeMap::new());
    let stamp = clock.stamp();
    assert_eq!(clock.resolve(&stamp), Resolved::At(stamp.wall_ms, TimeQuality::Unsynchronized));
}

#[test]
fn an_age_counts_on_the_boot_clock_and_across_boots_on_what_is_certain() {
    let close = |age: Duration, to_ms: i64| (age.as_millis() as i64 - to_ms).abs() < 30_000;
    let pi = Box::new(Duration::from_secs(3_600));
    let clock = pi.start(BTreeMap::from([(OTHER_BOOT, wall_ms() - DAY_MS)]));
    let now = clock.stamp();
    let up_ms = now.boot_ms as i64;
    let of_this_boot = Stamp { wall_ms: 0, boot_ms: now.boot_ms - 1_000, ..now };
    assert!(close(clock.age(&of_this_boot), 1_000), "whatever the wall clock says");

    let yesterday = Stamp { boot: OTHER_BOOT, boot_ms: 0, ..now };
    let never_known = Stamp { boot: BootId([8; 16]), wall_ms: wall_ms() - DAY_MS, ..now };
    for stamp in [yesterday, never_known] {
        assert!(close(clock.age(&stamp), up_ms), "the wall clock is not trusted, but so long is certain");
    }
    pi.synchronize();
    clock.look();
    assert!(close(clock.age(&yesterday), DAY_MS.max(up_ms)));
    assert!(close(clock.age(&never_known), up_ms));
    let tomorrow = Stamp { wall_ms: wall_ms() + DAY_MS, quality: ClockQuality::Synchronized, ..never_known };
    assert!(close(clock.age(&tomorrow), up_ms), "it was taken before this boot");
}

#[test]
fn the_floor_is_kept_only_when_the_clock_can_be_trusted_and_outlives_a_restart() {
    let pi = Box::new(Duration::ZERO);
    let clock = pi.start(BTreeMap::new());
    clock.keep_floor().unwrap();
    assert!(!pi.floor().exists(), "an untrusted time must not become the floor");
    pi.synchronize();
    clock.look();
    clock.keep_floor().unwrap();
    assert!(pi.floor().exists());

    // The box wakes up before its floor: what TLS is told is the floor.
    let future_ms = wall_ms() + DAY_MS;
    std::fs::write(pi.floor(), floor_line(future_ms)).unwrap();
    pi.lose_synchronization();
    assert_eq!(pi.start(BTreeMap::new()).trusted_now(), time_of(future_ms));
}

#[test]
fn a_floor_from_a_clock_that_was_set_wrongly_is_gone_once_the_clock_is_right() {
    let pi = Box::new(Duration::ZERO);
    std::fs::write(pi.floor(), floor_line(wall_ms() + 365 * DAY_MS)).unwrap();
    pi.synchronize();
    let clock = pi.start(BTreeMap::new());
    let soon = || SystemTime::now() + Duration::from_secs(60);
    assert!(clock.trusted_now() < soon());
    clock.keep_floor().unwrap();
    pi.lose_synchronization();
    clock.look();
    assert!(clock.trusted_now() < soon(), "the floor in memory");
    assert!(pi.start(BTreeMap::new()).trusted_now() < soon(), "the floor in the file");
}

#[test]
fn a_floor_file_that_is_damaged_or_cannot_be_true_counts_for_nothing() {
    let pi = Box::new(Duration::ZERO);
    let good = floor_line(wall_ms() + 365 * DAY_MS);
    for damaged in [
        &b"\xff\x001"[..],
        b"",
        b"17672256000001767\n",
        floor_line(17_672_256_000_001_767).as_bytes(),
        floor_line(WORN_OUT_MS + 1).as_bytes(),
        floor_line(BUILT_MS - 1).as_bytes(),
        &good.as_bytes()[1..],
        &good.as_bytes()[..good.len() - 2],
    ] {
        std::fs::write(pi.floor(), damaged).unwrap();
        let clock = pi.start(BTreeMap::new());
        assert_eq!(clock.floor_ms(), BUILT_MS, "{:?}", String::from_utf8_lossy(damaged));
    }
    std::fs::write(pi.floor(), &good).unwrap();
    assert_ne!(pi.start(BTreeMap::new()).floor_ms(), BUILT_MS);
}

#[test]
fn a_wall_clock_that_was_set_is_noticed_and_believed_after_the_next_look() {
    let pi = Box::new(Duration::ZERO);
    pi.synchronize();
    let clock = pi.start(BTreeMap::new());
    let (boot, right) = clock.offset().unwrap();
    // As if the wall clock had been an hour behind when the offset was taken, and was set since.
    clock.offsets_mut().insert(boot, right - 3_600_000);
    assert_eq!(clock.stamp().quality, ClockQuality::Unsynchronized);

    assert!(matches!(clock.look(), Change::Stepped { boot: this, .. } if this == boot));
    assert!(clock.offset().unwrap().1.abs_diff(right) < STEP_MS);
    assert_eq!(clock.stamp().quality, ClockQuality::Synchronized);
    assert_eq!(clock.look(), Change::None);
}

#[test]
fn a_lost_source_is_noticed() {
    let pi = Box::new(Duration::ZERO);
    pi.synchronize();
    let clock = pi.start(BTreeMap::new());
    assert!(clock.is_synchronized());
    assert!(clock.offset().is_some());
    pi.lose_synchronization();
    assert_eq!(clock.look(), Change::Lost);
    assert_eq!(clock.stamp().quality, ClockQuality::Unsynchronized);
}
