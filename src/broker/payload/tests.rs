use super::*;
use crate::config::{DeviceSource, Stream};
use crate::message::TopicFilter;

fn fitness(format: PayloadFormat, fields: Vec<Field>) -> Fitness {
    Fitness::new(&Stream {
        name: "s".to_owned(),
        filter: TopicFilter::parse("#").unwrap(),
        device: DeviceSource::Certificate,
        format,
        fields,
        integrity: None,
        open_to: Vec::new(),
    })
}

fn check(fitness: &Fitness, payload: &[u8]) -> Result<(), String> {
    fitness.check(&DeviceId::parse("plug").unwrap(), payload).map_err(|unfit| unfit.to_string())
}

fn json(payload: &str) -> Result<(), String> {
    check(&fitness(PayloadFormat::Json, Vec::new()), payload.as_bytes())
}

fn number(payload: &str) -> Result<(), String> {
    check(&fitness(PayloadFormat::Number, Vec::new()), payload.as_bytes())
}

fn field(path: &str, kind: FieldKind, required: bool) -> Field {
    Field { path: path.to_owned(), kind, required }
}

/// Payloads from the field, in their order, with the verdict on each as JSON. An error holds this text.
#[test]
fn every_payload_from_the_field_gets_its_verdict() {
    let expected = [
        Ok(()),
        Ok(()),
        Ok(()),
        Ok(()),
        Ok(()),
        Ok(()),
        Err("not JSON: `on` at byte 1"),
        Ok(()),
        Err("not JSON: `nan` at byte 47: JSON has no such number"),
        Ok(()),
        Err("not JSON: `inf` at byte 6: JSON has no such number"),
        Err("not JSON: `}` at byte 11: trailing comma"),
        Err("not JSON: `'` at byte 2: texts stand in double quotes"),
        Err("not JSON: `t` at byte 2: key must be a string"),
        Err("not JSON: it ends unfinished after 9 bytes"),
        Err("the payload is empty"),
        Err("the payload is blank"),
        Err("not JSON: `\\0` at byte 11: the end of a C string does not belong to it"),
        // What is well-formed and may be wrong is for the sink to judge: it is kept.
        Ok(()),
        Ok(()),
        Ok(()),
        Err("not JSON: `1e400` at byte 6: number out of range"),
        Ok(()),
        Ok(()),
    ];
    let payloads: Vec<Value> = include_str!("../../../tests/payloads.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(payloads.len(), expected.len());
    for (line, expected) in payloads.iter().zip(expected) {
        let payload = line["payload"].as_str().unwrap();
        match (json(payload), expected) {
            (Ok(()), Ok(())) => {}
            (Err(fault), Err(expected)) if fault.starts_with(expected) => {}
            (verdict, expected) => panic!("{payload:?}: {verdict:?} instead of {expected:?}"),
        }
    }
}

#[test]
fn a_number_is_a_finite_decimal_and_a_c_strings_end_is_forgiven() {
    for good in ["21.4", "-0", " 21.4\r\n", "21.4\0", " 1e3\n\0", "+5", ".5"] {
        assert_eq!(number(good), Ok(()), "{good:?}");
    }
    for bad in ["nan", "inf", "-Infinity", "1e400", "on", "0x10", "1,5", "21.4\0\0", "21.4 C", "--1", "1e"] {
        let fault = number(bad).unwrap_err();
        assert!(fault.starts_with("not a finite decimal number: `"), "{bad:?}: {fault}");
    }
    for blank in ["\0", " \n", "\0\0"] {
        assert_eq!(number(blank), Err("the payload is blank".to_owned()), "{blank:?}");
    }
}

#[test]
fn a_text_is_utf_8() {
    let text = fitness(PayloadFormat::Text, Vec::new());
    assert_eq!(check(&text, "offen – ü".as_bytes()), Ok(()));
    assert_eq!(check(&text, b"ab\xff"), Err("not UTF-8: byte 3".to_owned()));
    assert_eq!(check(&text, b""), Err("the payload is empty".to_owned()));
}

#[test]
fn texts_and_depth_in_json_are_checked_though_nothing_is_kept() {
    let any = fitness(PayloadFormat::Json, Vec::new());
    assert!(check(&any, b"{\"t\":\"\xff\"}").unwrap_err().starts_with("not JSON"));
    assert!(check(&any, b"{\"t\":\"\\ud800\"}").unwrap_err().starts_with("not JSON"));
    assert!(check(&any, "[".repeat(100_000).as_bytes()).unwrap_err().starts_with("not JSON"));
    assert_eq!(json("{\"a\":[1,-2,3.5,true,null,\"x\\n\",{}]}"), Ok(()));
    assert!(json("{} {}").unwrap_err().contains("trailing characters"));
}

#[test]
fn the_place_of_an_error_is_found_on_a_later_line() {
    assert_eq!(
        json("{\n \"a\": 1,\n \"b\": NaN\n}"),
        Err("not JSON: `NaN` at byte 18: JSON has no such number".to_owned())
    );
}

#[test]
fn a_long_token_is_shortened_in_the_reason() {
    let fault = json(&"x".repeat(10_000)).unwrap_err();
    assert!(fault.chars().count() < 100, "{fault}");
}

#[test]
fn fields_have_the_kind_that_the_stream_promises() {
    let fields = vec![
        field("t", FieldKind::Number, true),
        field("DS18B20.Temperature", FieldKind::Number, false),
        field("n", FieldKind::Integer, false),
        field("on", FieldKind::Boolean, false),
        field("id", FieldKind::Text, false),
        field("x", FieldKind::Any, false),
    ];
    let typed = fitness(PayloadFormat::Json, fields);
    let verdict = |payload: &str| check(&typed, payload.as_bytes());
    assert_eq!(
        verdict(r#"{"t":1.5,"DS18B20":{"Temperature":20.6},"n":3,"on":true,"id":"a","x":[]}"#),
        Ok(())
    );
    assert_eq!(verdict(r#"{"t":1,"n":3.0,"extra":1}"#), Ok(()));
    assert_eq!(verdict(r#"{"t":1,"n":null}"#), Ok(()), "null: the value is not there");
    let fault = |payload| verdict(payload).unwrap_err();
    assert_eq!(fault(r#"{"n":1}"#), "the field t is missing");
    assert_eq!(fault(r#"{"t":null}"#), "the field t is missing");
    assert_eq!(fault("[1]"), "the field t is missing");
    assert_eq!(fault(r#"{"t":"21.5"}"#), "the field t is not a number: `\"21.5\"`");
    assert_eq!(fault(r#"{"t":1,"n":1.5}"#), "the field n is not a whole number: `1.5`");
    assert_eq!(fault(r#"{"t":1,"on":1}"#), "the field on is not true or false: `1`");
    assert_eq!(fault(r#"{"t":1,"id":2}"#), "the field id is not a text: `2`");
    assert!(fault(r#"{"t":1,"DS18B20":{"Temperature":"x"}}"#).starts_with("the field DS18B20.Temperature"));
    assert!(fault(r#"{"t":1e400}"#).contains("number out of range"));
}
