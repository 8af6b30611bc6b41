//! The table at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::device::Sent;
use super::proof::{Evidence, Fate, Proof};
use crate::buffer::{DropReason, SinkFigures};

/// Kinds of dead letters that are listed.
const LISTED: usize = 20;
/// Characters of a reason that are shown.
const REASON_CHARS: usize = 90;

/// Puts everything into words.
pub(super) fn report(evidence: &Evidence, proof: &Proof, sent: Sent) -> String {
    let mut text = Text::default();
    text.line("");
    text.head("What the devices know");
    text.line(&format!("  {:<52}{:>7}", "messages acknowledged to them (QoS 1)", sent.acked));
    text.line(&format!(
        "  {:<52}{:>7}",
        "messages that are not (0 at the end of the show)", sent.waiting_for_ack
    ));
    text.line(&format!("  {:<52}{:>7}", "messages sent without an ack (QoS 0)", sent.without_ack));
    text.line(&format!("  {:<52}{:>7}", "retransmissions after a lost connection", sent.retransmissions));
    text.line(&format!(
        "  {:<52}{:>7}",
        "  of them, stored under a second sequence number", proof.sent_twice
    ));

    text.sinks("What became of the acknowledged messages");
    let fates = (proof.supabase, proof.thingspeak);
    let mut fate = |name: &str, of: fn(&Fate) -> u64| text.row(name, of(&fates.0), of(&fates.1));
    fate("there", |fate| fate.delivered);
    fate("a dead letter, with its reason", |fate| fate.dead_letters);
    fate("holds no value that the sink is given", |fate| fate.not_for_it);
    fate("in the same second as another one", |fate| fate.collided);
    fate("missing", |fate| fate.missing);

    text.sinks("What the gateway says, QoS 0 and retransmissions included");
    let none = SinkFigures::default();
    let [supabase, thingspeak] =
        ["supabase", "thingspeak"].map(|name| evidence.figures.get(name).unwrap_or(&none));
    text.row("accepted", supabase.accepted, thingspeak.accepted);
    text.row("= delivered", supabase.delivered, thingspeak.delivered);
    let reasons: BTreeSet<DropReason> =
        supabase.dropped.keys().chain(thingspeak.dropped.keys()).copied().collect();
    for reason in reasons {
        let dropped = |figures: &SinkFigures| figures.dropped.get(&reason).copied().unwrap_or(0);
        text.row(&format!("+ dropped: {}", words(reason)), dropped(supabase), dropped(thingspeak));
    }
    text.row("+ pending", supabase.pending, thingspeak.pending);

    text.sinks("What the cloud was sent twice, because a reply was lost");
    text.row(
        "not stored again: its key or its second was there",
        evidence.sent_again[0],
        evidence.sent_again[1],
    );
    text.letters(evidence);
    text.verdict(proof);
    text.0
}

fn words(reason: DropReason) -> String {
    // The names that the gateway's own figures use.
    let name = serde_json::to_value(reason).unwrap_or_default();
    name.as_str().unwrap_or("other").replace('_', " ")
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn head(&mut self, text: &str) {
        self.line(text);
    }

    fn sinks(&mut self, text: &str) {
        writeln!(self.0, "\n{text:<58}{:>10}{:>12}", "supabase", "thingspeak").expect("a String grows");
    }

    fn row(&mut self, name: &str, supabase: u64, thingspeak: u64) {
        writeln!(self.0, "  {name:<56}{supabase:>10}{thingspeak:>12}").expect("a String grows");
    }

    fn letters(&mut self, evidence: &Evidence) {
        let mut kinds: BTreeMap<(String, String), u64> = BTreeMap::new();
        for letter in &evidence.letters {
            let sink = letter.sink.as_ref().map_or("every sink".to_owned(), ToString::to_string);
            let reason = letter.reason.chars().take(REASON_CHARS).collect();
            *kinds.entry((sink, reason)).or_default() += 1;
        }
        self.line("\nDead letters: kept, and not for these sinks");
        for ((sink, reason), times) in kinds.iter().take(LISTED) {
            self.line(&format!("  {times:>5} x  {sink}: {reason}"));
        }
        if kinds.len() > LISTED {
            self.line(&format!("         and {} other reasons", kinds.len() - LISTED));
        }
    }

    fn verdict(&mut self, proof: &Proof) {
        self.line("");
        for wrong in &proof.broken {
            self.line(&format!("BROKEN: {wrong}"));
        }
        if proof.broken.is_empty() {
            self.line("Conserved: every acknowledged message is where it belongs, and none is stored twice.");
        }
    }
}
