// supabase-js joins a channel, tells when it is ready, waits for two rows, renews its token, and leaves.
const { createClient } = require('@supabase/supabase-js');

const { url, key, token, renewed } = JSON.parse(process.argv[2]);
const client = createClient(url, key, {
  auth: { persistSession: false },
  realtime: { transport: require('ws') },
});
const say = (what) => console.log(JSON.stringify(what));
const fail = (why) => {
  console.error(why);
  process.exit(1);
};
setTimeout(() => fail('nothing came in time'), 60_000);

const main = async () => {
  await client.realtime.setAuth(token);
  const rows = [];
  const wanted = { event: 'INSERT', schema: 'public', table: 'commands', filter: 'gateway_id=eq.gw' };
  const channel = client.channel('judge');
  channel.on('system', {}, (payload) => {
    if (payload.extension !== 'postgres_changes' || payload.status !== 'ok') fail(JSON.stringify(payload));
    say('ready');
  });
  channel.on('postgres_changes', wanted, async (change) => {
    rows.push(change);
    say({ row: change.new, type: change.eventType, table: change.table, errors: change.errors });
    if (rows.length === 1) {
      await client.realtime.setAuth(renewed);
      say('renewed');
    } else {
      const left = await client.removeChannel(channel);
      say({ left });
      process.exit(left === 'ok' ? 0 : 1);
    }
  });
  channel.subscribe((status, error) => {
    if (status === 'CHANNEL_ERROR' || status === 'TIMED_OUT') fail(`${status} ${error}`);
    say({ status });
  });
};
main().catch(fail);
