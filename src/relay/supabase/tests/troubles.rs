//! What can go wrong with Realtime, and what the source does then.

use super::*;

/// Heartbeats so quick that a test sees many.
fn quick(source: &mut SupabaseSource) {
    let door = source.door.as_mut().unwrap();
    door.timing = Timing { heartbeat: Duration::from_millis(200), ..Timing::default() };
}

async fn quick_bench(cloud: Cloud) -> Bench {
    Bench::with(cloud, NEVER, ClockSource::Trusted, quick).await
}

/// Commands come: by the ring, or without it.
async fn commands_come(bench: &Bench) {
    let before = usize::try_from(bench.ledger.figures().accepted).unwrap();
    bench.insert(json!({}));
    bench.commands(before + 1).await;
}

async fn until_deaf(bench: &Bench, because: &str) {
    eventually(because, || {
        bench.status.borrow().deaf_because.as_ref().is_some_and(|why| why.contains(because))
    })
    .await;
}

#[tokio::test]
async fn a_server_that_restarts_is_joined_again_and_nothing_is_missed() {
    let bench = Bench::start(NEVER).await;
    bench.until_ready(1).await;
    bench.cloud.supabase.line().go_away().await;
    bench.insert(json!({}));
    eventually("it is seen", || bench.status.borrow().listens == Some(false)).await;
    bench.cloud.supabase.line().come_back().await;
    bench.commands(1).await;
    bench.until_ready(2).await;
    commands_come(&bench).await;
}

#[tokio::test]
async fn a_channel_that_is_closed_or_crashes_is_joined_again() {
    let bench = Bench::start(NEVER).await;
    bench.until_ready(1).await;
    bench.realtime().crash_channels();
    until_deaf(&bench, "the channel has crashed").await;
    bench.until_ready(2).await;
    bench.realtime().close_channels("Realtime is restarting, please standby");
    until_deaf(&bench, "Realtime has ended the channel: Realtime is restarting").await;
    bench.until_ready(3).await;
    commands_come(&bench).await;
}

#[tokio::test]
async fn a_table_that_is_not_watched_any_more_is_asked_meanwhile() {
    let bench = Bench::with(cloud().await, "interval = \"1s\"", ClockSource::Trusted, |_| {}).await;
    bench.until_ready(1).await;
    bench.realtime().stop_watching("Subscribing to PostgreSQL failed");
    eventually("it is seen", || bench.status.borrow().listens == Some(false)).await;
    bench.realtime().lose_rows(true);
    commands_come(&bench).await;
}

#[tokio::test]
async fn a_connection_whose_heartbeats_are_not_answered_is_given_up() {
    let bench = quick_bench(cloud().await).await;
    bench.until_ready(1).await;
    eventually("heartbeats come", || bench.realtime().seen().heartbeats >= 3).await;
    bench.realtime().ignore_heartbeats(true);
    until_deaf(&bench, "a heartbeat was not answered").await;
    bench.realtime().ignore_heartbeats(false);
    let ready = bench.realtime().seen().ready;
    bench.until_ready(ready + 1).await;
    commands_come(&bench).await;
}

#[tokio::test]
async fn a_token_that_is_replaced_in_its_file_reaches_the_open_channel() {
    let bench = quick_bench(cloud().await).await;
    bench.until_ready(1).await;
    std::fs::write(&bench.token_file, OTHER_TOKEN).unwrap();
    eventually("it is told", || bench.realtime().seen().renewed == [OTHER_TOKEN]).await;
    bench.realtime().expire("demo.gateway.jwt");
    commands_come(&bench).await;
    assert_eq!(bench.realtime().seen().connections, 1, "the channel lives on");
}

#[tokio::test]
async fn a_token_that_has_expired_holds_until_there_is_a_newer_one() {
    let bench = quick_bench(cloud().await).await;
    bench.until_ready(1).await;
    bench.realtime().expire("demo.gateway.jwt");
    until_deaf(&bench, "Token has expired").await;
    assert_eq!(bench.realtime().seen().connections, 1, "the same token is not tried again");
    std::fs::write(&bench.token_file, OTHER_TOKEN).unwrap();
    bench.until_ready(2).await;
    let joins = bench.realtime().seen().joins;
    assert_eq!(joins[1].1.as_deref(), Some(OTHER_TOKEN));
    commands_come(&bench).await;
}

#[tokio::test]
async fn each_refusal_of_a_join_has_its_consequence() {
    for (reason, joins_again) in [
        ("InitializingProjectConnection: please try again", true),
        ("Unknown Error on Channel", true),
        ("ConnectionRateLimitReached: Too many connected users", false),
        ("Unauthorized: You do not have permissions to read from this Channel topic", false),
        ("MalformedJWT: The token provided is not a valid JWT", false),
    ] {
        let cloud = cloud().await;
        cloud.supabase.realtime().refuse_join(reason);
        let bench = Bench::with(cloud, "interval = \"1s\"", ClockSource::Trusted, |_| {}).await;
        until_deaf(&bench, reason).await;
        if joins_again {
            bench.until_ready(1).await;
            assert_eq!(bench.realtime().seen().connections, 2);
        } else {
            // Longer than the longest first delay of a failure that may pass by itself.
            for _ in 0..3 {
                commands_come(&bench).await;
            }
            assert_eq!(bench.realtime().seen().joins.len(), 1, "{reason}");
        }
    }
}

#[tokio::test]
async fn an_upgrade_that_is_refused_or_answered_by_somebody_else_is_asked_for_again() {
    let cloud = cloud().await;
    let realtime = cloud.supabase.realtime().clone();
    realtime.refuse_upgrade(Reply::captive_portal());
    realtime.refuse_upgrade(Reply::json(503, r#"{"error":"unavailable"}"#));
    let bench = Bench::with(cloud, NEVER, ClockSource::Trusted, |_| {}).await;
    until_deaf(&bench, "this is not Realtime's answer").await;
    until_deaf(&bench, "Realtime is not well").await;
    bench.until_ready(1).await;
    commands_come(&bench).await;
}

#[tokio::test]
async fn a_key_that_is_refused_is_not_quoted() {
    let cloud = cloud().await;
    let quoting = r#"{"error":"sb_publishable_demo and demo.gateway.jwt"}"#;
    cloud.supabase.realtime().refuse_upgrade(Reply::json(401, quoting));
    cloud.supabase.line().always(Some(Fault::Reply(Reply::json(401, quoting))));
    let bench = Bench::with(cloud, NEVER, ClockSource::Trusted, |_| {}).await;
    until_deaf(&bench, "not accepted").await;
    eventually("REST is held, too", || bench.status.borrow().held).await;
    let status = format!("{:?}", bench.status.borrow());
    assert!(!status.contains("publishable") && !status.contains("gateway.jwt"), "{status}");
}
