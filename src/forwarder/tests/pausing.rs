//! An operator lets it rest.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_is_paused_sends_nothing_until_it_is_resumed() {
    let (bench, forwarder) = Bench::new(10, |_, _| Ok(Accepted::Stored));
    let (switch, paused) = watch::channel(true);
    let forwarder = forwarder.paused_by(paused);
    bench.append(numbers(0..5)).await;
    let mut status = bench.status.clone();
    let sent = Arc::clone(&bench.sent);
    let resume = async move {
        status.wait_for(|status| status.state == State::Paused).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        assert!(sent.lock().unwrap().is_empty(), "it rests");
        switch.send_replace(false);
        // It is there as long as the forwarder.
        status.wait_for(is_done).await.unwrap();
    };
    tokio::join!(bench.run_until(forwarder, is_done), resume);
    assert_eq!(bench.figures(), (5, 0, BTreeMap::new()));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_readings_rests_at_once() {
    let (bench, forwarder) = Bench::new(10, |_, _| Ok(Accepted::Stored));
    let (switch, paused) = watch::channel(false);
    let forwarder = forwarder.paused_by(paused);
    let mut status = bench.status.clone();
    let pause = async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        switch.send_replace(true);
        status.wait_for(|status| status.state == State::Paused).await.unwrap();
    };
    tokio::join!(bench.run_until(forwarder, |status| status.state == State::Paused), pause);
}
