//! The fuzz target of whole sessions, without a fuzzer: the kept corpus, and some of what chance gives.

use super::hostile::Random;
use crate::broker::fuzzing::sessions;

#[test]
fn the_kept_corpus_of_sessions_holds() {
    let directory = format!("{}/fuzz/corpus/sessions", env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        println!("{}", path.display());
        sessions(&std::fs::read(path).unwrap());
        count += 1;
    }
    assert!(count >= 8, "{count} inputs are kept");
}

#[test]
fn random_sessions_of_two_clients_hold() {
    let mut random = Random::from_env();
    for _ in 0..150 {
        let length = random.below(300);
        let bytes: Vec<u8> = (0..length).map(|_| random.next().to_le_bytes()[0]).collect();
        println!("{bytes:02x?}");
        sessions(&bytes);
    }
}
