//! Figures as a table, and how they stand against the bars.

use crate::broker::Kind;
use crate::load::{CLIENTS, Figures, Run, WINDOW};

/// A bar is met when the value is at most this.
struct Bar {
    what: &'static str,
    value: f64,
    at_most: f64,
    unit: &'static str,
}

pub(crate) fn print(rounds: &[(Kind, Figures)]) {
    println!(
        "{CLIENTS} clients with certificates, QoS 1, window {WINDOW}, a publish a TLS record, 205-byte payloads."
    );
    println!("Rates and latencies are those of this machine now; CPU seconds are the broker's alone.\n");
    if cfg!(debug_assertions) {
        println!(
            "This build of tampu is not optimised: it shows that the benchmark works, and nothing else.\n"
        );
    }
    for (kind, figures) in rounds {
        println!(
            "{}: {}, accepts after {} ms, {:.1} KiB an idle connection",
            kind.name(),
            figures.tls,
            figures.started_in.as_millis(),
            figures.idle_kib
        );
        line("alone", &figures.alone);
        line("with a # subscriber", &figures.watched);
        line("gentle", &figures.gentle);
    }
    let (mosquitto, tampu) = (of(rounds, Kind::Mosquitto), of(rounds, Kind::Tampu));
    if mosquitto.is_empty() || tampu.is_empty() {
        return;
    }
    println!(
        "\ntampu (every publish synced before its ack) against mosquitto (nothing on disk), means of the rounds:"
    );
    for bar in bars(&mosquitto, &tampu) {
        let verdict = if bar.value <= bar.at_most {
            "met".to_owned()
        } else {
            format!("missed by {:.0} %", (bar.value / bar.at_most - 1.0) * 100.0)
        };
        println!(
            "  {:<58}{:>8.2} {:<4} bar {:>5} {:<4} {verdict}",
            bar.what, bar.value, bar.unit, bar.at_most, bar.unit
        );
    }
}

fn bars(mosquitto: &[&Figures], tampu: &[&Figures]) -> Vec<Bar> {
    let ratio = |of: fn(&Figures) -> f64| mean(tampu, of) / mean(mosquitto, of);
    vec![
        Bar {
            what: "CPU per 100k publishes, tampu / mosquitto",
            value: ratio(|f| f.alone.cpu_per_100k()),
            at_most: 0.6,
            unit: "",
        },
        Bar {
            what: "the same with a # subscriber",
            value: ratio(|f| f.watched.cpu_per_100k()),
            at_most: 0.6,
            unit: "",
        },
        Bar {
            what: "the same at 500 messages/s",
            value: ratio(|f| f.gentle.cpu_per_100k()),
            at_most: 1.5,
            unit: "",
        },
        Bar {
            what: "device to subscriber at 500 messages/s, p99",
            value: mean(tampu, |f| millis(percentile(&f.gentle.deliveries, 99))),
            at_most: 20.0,
            unit: "ms",
        },
        Bar {
            what: "resident memory an idle TLS connection",
            value: mean(tampu, |f| f.idle_kib),
            at_most: 10.0,
            unit: "KiB",
        },
        Bar {
            what: "device bytes written per payload byte, append alone",
            value: mean(tampu, |f| f.alone.written),
            at_most: 0.8,
            unit: "",
        },
    ]
}

fn line(name: &str, run: &Run) {
    print!(
        "  {name:<20}{:>8.0} msg/s  ack p50 {:>7.2} p99 {:>7.2} ms  CPU {:>6.3} s per 100k  {:.2} B written per B",
        run.rate(),
        millis(percentile(&run.acks, 50)),
        millis(percentile(&run.acks, 99)),
        run.cpu_per_100k(),
        run.written,
    );
    if run.delivered > 0 {
        print!(
            "  delivered {:.1} %, p50 {:.2} p99 {:.2} ms",
            run.delivered as f64 * 100.0 / run.published as f64,
            millis(percentile(&run.deliveries, 50)),
            millis(percentile(&run.deliveries, 99)),
        );
    }
    println!();
}

fn of(rounds: &[(Kind, Figures)], kind: Kind) -> Vec<&Figures> {
    rounds.iter().filter(|(k, _)| *k == kind).map(|(_, figures)| figures).collect()
}

fn mean(figures: &[&Figures], of: fn(&Figures) -> f64) -> f64 {
    figures.iter().map(|f| of(f)).sum::<f64>() / figures.len() as f64
}

/// The value below which `percent` of all lie; 0 of none.
fn percentile(sorted: &[u32], percent: usize) -> u32 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or(0)
}

fn millis(micros: u32) -> f64 {
    f64::from(micros) / 1_000.0
}
