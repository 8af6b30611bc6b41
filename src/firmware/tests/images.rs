use super::*;

fn check(image: &[u8], kind: Kind) -> Result<Image, BadImage> {
    Image::check(image, kind, 1 << 20, |_| Ok(()))
}

fn program(image: &[u8]) -> Result<Image, BadImage> {
    check(image, Kind::Program)
}

#[test]
fn an_image_of_esp_idf_tells_its_version_and_what_it_hashes_to() {
    let bytes = described("1.4.0", "thermometer", 5_000);
    let image = program(&bytes).unwrap();
    assert_eq!((image.format, image.bytes), (Format::Described, bytes.len() as u64));
    assert_eq!((image.version.as_deref(), image.project.as_deref()), (Some("1.4.0"), Some("thermometer")));
    assert_eq!(image.sha256.to_string(), hex_of(digest(&SHA256, &bytes).as_ref()));
    let appended = hex_of(&bytes[bytes.len() - 32..]);
    assert_eq!(image.program_sha256.unwrap().to_string(), appended, "what esp_partition_get_sha256 gives");
}

#[test]
fn an_md5_is_the_one_that_other_programs_compute() {
    // RFC 1321, A.5: of "message digest"; as a file system its first byte does not matter.
    let image = check(b"message digest", Kind::FileSystem).unwrap();
    assert_eq!(image.md5.to_string(), "f96b697d7cb7938d525a2f31aaf161d0");
    assert_eq!((image.format, image.kind()), (Format::FileSystem, Kind::FileSystem));
}

#[test]
fn what_is_no_image_is_refused() {
    assert!(matches!(program(b""), Err(BadImage::Empty)));
    assert!(matches!(program(b"\x7fELF"), Err(BadImage::Magic(0x7F))));
    assert!(matches!(
        Image::check(&[0xE9; 100][..], Kind::Program, 99, |_| Ok(())),
        Err(BadImage::TooLarge(99))
    ));
    let unreadable = Image::check(Unreadable, Kind::Program, 99, |_| Ok(()));
    assert!(matches!(unreadable, Err(BadImage::Io(_))));
}

#[test]
fn an_image_for_an_esp8266_is_known_by_its_first_bytes() {
    assert_eq!(program(&[0xE9, 1, 2, 0x40]).unwrap().format, Format::Plain);
    let gzip = program(&[0x1F, 0x8B, 8, 0]).unwrap();
    assert_eq!((gzip.format, gzip.kind(), gzip.program_sha256), (Format::Gzip, Kind::Program, None));
}

#[test]
fn whatever_is_behind_an_image_is_its_signature_and_not_looked_at() {
    let mut bytes = described("1", "x", 100);
    let whole = program(&bytes).unwrap();
    bytes.extend_from_slice(&[0xFF; 4_096]);
    assert_eq!(program(&bytes).unwrap().program_sha256, whole.program_sha256);
}

#[test]
fn an_image_that_is_cut_anywhere_is_refused() {
    let bytes = described("1", "x", 700);
    for length in 40..bytes.len() {
        let cut = program(&bytes[..length]);
        assert!(matches!(cut, Err(BadImage::Damaged("its end is missing"))), "{length}: {cut:?}");
    }
}

proptest! {
    #[test]
    fn a_flipped_bit_in_an_image_is_found(at in 36_usize..1_000, bit in 0_u8..8) {
        let mut bytes = described("1", "x", 700);
        prop_assume!(at < bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(matches!(program(&bytes), Err(BadImage::Damaged(_))));
    }

    #[test]
    fn any_bytes_in_any_pieces_are_judged_as_the_whole(
        noise in prop::collection::vec(any::<u8>(), 0..300), is_image: bool, pieces in 1_usize..64,
    ) {
        let mut bytes = if is_image { described("1", "x", 64) } else { vec![0xE9] };
        bytes.extend_from_slice(&noise);
        let whole = program(&bytes).unwrap();
        let in_pieces = Image::check(Pieces(&bytes, pieces), Kind::Program, 1 << 20, |_| Ok(())).unwrap();
        prop_assert_eq!(whole, in_pieces);
    }
}

/// Gives so many bytes at a time.
struct Pieces<'a>(&'a [u8], usize);

impl io::Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.1.min(self.0.len()).min(into.len());
        let (piece, rest) = self.0.split_at(length);
        into[..length].copy_from_slice(piece);
        self.0 = rest;
        Ok(length)
    }
}

struct Unreadable;

impl io::Read for Unreadable {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Other.into())
    }
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
