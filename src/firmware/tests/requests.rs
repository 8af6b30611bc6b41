use axum::http::header::{IF_NONE_MATCH, IF_RANGE, RANGE};
use axum::http::{HeaderMap, HeaderName};

use super::*;
use crate::firmware::asked::{Answer, Asked, Wanted, etag, has_tag};

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let parsed = |(name, value): &(&str, &str)| {
        (HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).unwrap(), value.parse().unwrap())
    };
    lines.iter().map(parsed).collect()
}

fn asked(lines: &[(&str, &str)]) -> Asked {
    Asked::of(&headers(lines))
}

fn release(image: &[u8], version: &str, kind: Kind) -> Release {
    let image = Image::check(image, kind, 1 << 20, |_| Ok(())).unwrap();
    Release {
        id: 1,
        version: version.parse().unwrap(),
        target: Target::Everybody,
        rollout: Rollout::ALL,
        withdrawn: false,
        added: OffsetDateTime::UNIX_EPOCH,
        image,
    }
}

#[test]
fn an_updater_is_known_by_its_headers_and_that_of_esp_idf_by_none() {
    let esp32 = asked(&[("x-ESP32-version", "1.2"), ("x-ESP32-mode", "sketch")]);
    assert_eq!((esp32.board, esp32.kind), (Some(Board::Esp32), Kind::Program));
    assert_eq!(esp32.version.unwrap().as_str(), "1.2");
    let esp8266 = asked(&[("x-ESP8266-mode", "spiffs")]);
    assert_eq!((esp8266.board, esp8266.kind), (Some(Board::Esp8266), Kind::FileSystem));
    assert_eq!(asked(&[("User-Agent", "ESP32 HTTP Client/1.0")]), Asked::default());
    let nonsense =
        asked(&[("x-ESP32-version", "two words"), ("x-ESP32-free-space", "-1"), ("x-ESP32-sketch-md5", "x")]);
    assert_eq!(nonsense, asked(&[("x-ESP32-mode", "sketch")]));
}

#[test]
fn a_device_has_a_release_if_its_version_or_its_digest_says_so() {
    let bytes = described("2.0", "x", 1_000);
    let release = release(&bytes, "2.0", Kind::Program);
    let appended: String = bytes[bytes.len() - 32..].iter().map(|byte| format!("{byte:02X}")).collect();
    for (has, line) in [
        (true, ("x-ESP32-version", "2.0".to_owned())),
        (false, ("x-ESP32-version", "2.0.1".to_owned())),
        (true, ("x-ESP32-sketch-md5", release.image.md5.to_string())),
        (true, ("x-ESP8266-sketch-md5", release.image.md5.to_string().to_uppercase())),
        (true, ("x-ESP32-sketch-sha256", appended)),
        (false, ("x-ESP32-sketch-sha256", "0".repeat(64))),
        (false, ("x-ESP32-mode", "sketch".to_owned())),
    ] {
        assert_eq!(asked(&[(line.0, &line.1)]).has(&release), has, "{line:?}");
    }
    let md5 = release.image.md5.to_string();
    let file_system = asked(&[("x-ESP32-mode", "spiffs"), ("x-ESP32-sketch-md5", &md5)]);
    assert!(!file_system.has(&release), "that is the digest of the program");
}

#[test]
fn an_image_that_does_not_fit_is_not_offered_again_and_again() {
    let bytes = described("2.0", "x", 1_000);
    let program = release(&bytes, "2.0", Kind::Program);
    let size = bytes.len().to_string();
    let less = (bytes.len() - 1).to_string();
    assert_eq!(
        asked(&[("x-ESP32-free-space", &size)]).answer(Offer::Release(&program)),
        Answer::Image(&program)
    );
    let answer = asked(&[("x-ESP32-free-space", &less)]);
    assert!(
        matches!(answer.answer(Offer::Release(&program)), Answer::CannotTake(_, why) if why.contains(&less))
    );
    let data = release(b"data", "2.0", Kind::FileSystem);
    let free = asked(&[("x-ESP32-free-space", "1"), ("x-ESP32-mode", "spiffs")]);
    assert_eq!(free.answer(Offer::Release(&data)), Answer::Image(&data), "that space is for programs");
}

#[test]
fn only_the_updater_of_an_esp8266_is_given_a_compressed_image() {
    let gzip = release(&[0x1F, 0x8B, 8, 0], "2.0", Kind::Program);
    let offer = Offer::Release(&gzip);
    let versioned = [("x-ESP8266-mode", "sketch"), ("x-ESP8266-version", "1.0")];
    assert_eq!(asked(&versioned).answer(offer), Answer::Image(&gzip));
    assert!(matches!(asked(&[("x-ESP32-mode", "sketch")]).answer(offer), Answer::CannotTake(..)));
    assert_eq!(asked(&[]).answer(offer), Answer::NotFound);
    let silent = asked(&[("x-ESP8266-mode", "sketch")]).answer(offer);
    assert!(matches!(silent, Answer::CannotTake(..)), "it could not tell that it has it: {silent:?}");
}

#[test]
fn an_image_for_an_esp32_is_not_given_to_an_esp8266() {
    let mut esp32 = release(&[0xE9, 0, 0, 0], "2.0", Kind::Program);
    esp32.image.format = Format::Described;
    let offer = Offer::Release(&esp32);
    assert_eq!(asked(&[("x-ESP32-mode", "sketch")]).answer(offer), Answer::Image(&esp32));
    assert!(matches!(asked(&[("x-ESP8266-mode", "sketch")]).answer(offer), Answer::CannotTake(..)));
    assert_eq!(asked(&[]).answer(offer), Answer::Image(&esp32), "esp_https_ota");
}

#[test]
fn without_an_offer_arduino_hears_304_until_its_turn_and_the_others_404() {
    let arduino = asked(&[("x-ESP32-mode", "sketch")]);
    assert_eq!(arduino.answer(Offer::NotYet), Answer::Nothing);
    assert_eq!(arduino.answer(Offer::Nothing), Answer::NotFound);
    assert_eq!(asked(&[]).answer(Offer::NotYet), Answer::NotFound);
}

#[test]
fn ranges_are_read_as_the_rfc_has_it() {
    let image = release(&[0xE9; 100], "1", Kind::Program).image;
    for (range, wanted) in [
        ("bytes=0-", Wanted::Part(0, 100)),
        ("bytes=0-0", Wanted::Part(0, 1)),
        ("bytes=10-19", Wanted::Part(10, 20)),
        ("bytes=90-1000", Wanted::Part(90, 100)),
        ("bytes=99-99999999999999999999999", Wanted::Part(99, 100)),
        ("bytes=-10", Wanted::Part(90, 100)),
        ("bytes=-1000", Wanted::Part(0, 100)),
        ("bytes=100-", Wanted::Beyond),
        ("bytes=100-200", Wanted::Beyond),
        ("bytes=-0", Wanted::Beyond),
        ("bytes=20-10", Wanted::All),
        ("bytes=-", Wanted::All),
        ("bytes=+1-2", Wanted::All),
        ("bytes=1-x", Wanted::All),
        ("bytes=0-1,5-6", Wanted::All),
        ("lines=1-2", Wanted::All),
    ] {
        assert_eq!(Wanted::of(&headers(&[("range", range)]), &image), wanted, "{range}");
    }
    assert_eq!(Wanted::of(&headers(&[]), &image), Wanted::All);
    let tag = etag(&image);
    let with = |if_range: &str| {
        let mut headers = headers(&[("range", "bytes=10-19")]);
        headers.insert(IF_RANGE, if_range.parse().unwrap());
        assert!(headers.contains_key(RANGE));
        Wanted::of(&headers, &image)
    };
    assert_eq!(with(&tag), Wanted::Part(10, 20));
    assert_eq!(with("\"another\""), Wanted::All);
    assert_eq!(with("Sat, 29 Oct 1994 19:43:31 GMT"), Wanted::All, "a date says nothing of an image");
    assert_eq!(with(&format!("W/{tag}")), Wanted::All, "a weak tag is none for a range");

    for (value, has) in [
        (tag.clone(), true),
        (format!("\"x\", W/{tag}"), true),
        ("*".to_owned(), true),
        ("\"x\"".to_owned(), false),
        (image.sha256.to_string(), false),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(IF_NONE_MATCH, value.parse().unwrap());
        assert_eq!(has_tag(&headers, &image), has, "{value}");
    }
}
