-- The tables of tampu at Supabase: `readings`, which the sink writes whole readings into, and `commands`, which
-- commands for devices come from.
--
-- Supabase: paste it into the SQL editor. Any other PostgreSQL: psql -f schema.sql
-- It can be run again at any time: what is there stays, what is missing is made.

begin;

create table if not exists public.readings (
    -- These three name a reading for ever: which gateway, which life of its buffer, which number in it.
    gateway_id  text        not null,
    epoch       bigint      not null,
    seq         bigint      not null,
    -- Who sent it, in which stream, to which MQTT topic.
    device      text        not null,
    stream      text        not null,
    topic       text        not null,
    -- When the gateway received it, and how far the gateway's clock could be trusted: 'corrected' was received
    -- before the clock was set and got its true time afterwards; of 'unsynchronized' nobody knows.
    received_at timestamptz not null,
    clock       text        not null check (clock in ('synchronized', 'corrected', 'unsynchronized')),
    -- What the device said. NULL is the JSON null: PostgREST makes no difference.
    payload     jsonb,
    stored_at   timestamptz not null default now(),
    -- The sink sends on_conflict=gateway_id,epoch,seq: a batch that is sent again, because its reply was lost,
    -- is stored once. That needs a unique index on exactly these columns.
    primary key (gateway_id, epoch, seq)
);

comment on table public.readings is 'Readings from tampu gateways, each exactly once';

-- "The last day of this device", and "the last day of everything".
create index if not exists readings_device_received_at on public.readings (device, received_at desc);
create index if not exists readings_received_at on public.readings (received_at desc);

-- A gateway stands in a field, and its key may be stolen. So it has a role of its own, which can add readings
-- and do nothing else. Give the sink a publishable key as `key`, which opens the gate, and as `token` a JWT
-- that the project's JWT secret or key has signed: {"role": "tampu_gateway", "exp": ...}.
--
-- A secret key (sb_secret_...) or the service_role JWT as `key` alone works too, past every policy: it may do
-- everything with every table. Prefer the role where you can.
do $$
begin
    if not exists (select from pg_roles where rolname = 'tampu_gateway') then
        create role tampu_gateway nologin noinherit;
    end if;
    -- PostgREST logs in as this role and becomes the one that the JWT names.
    if exists (select from pg_roles where rolname = 'authenticator') then
        grant tampu_gateway to authenticator;
    end if;
end
$$;

grant usage on schema public to tampu_gateway;
grant insert on public.readings to tampu_gateway;
-- ON CONFLICT reads the key columns, even when nothing conflicts: without this it is refused (42501).
-- The key columns alone: a stolen key does not open what devices have said.
grant select (gateway_id, epoch, seq) on public.readings to tampu_gateway;

-- Supabase grants every new table to these roles and leaves the rest to row level security. TRUNCATE knows
-- no row level security.
do $$
declare
    role_name text;
begin
    foreach role_name in array array['anon', 'authenticated'] loop
        if exists (select from pg_roles where rolname = role_name) then
            execute format('revoke all on public.readings from %I', role_name);
        end if;
    end loop;
    if exists (select from pg_roles where rolname = 'service_role') then
        grant select, insert, update, delete on public.readings to service_role;
    end if;
end
$$;

alter table public.readings enable row level security;

-- create policy has no "if not exists".
drop policy if exists "gateways add readings" on public.readings;
create policy "gateways add readings" on public.readings
    for insert to tampu_gateway with check (true);

-- Row level security asks for a select policy too when an insert has an ON CONFLICT clause.
drop policy if exists "gateways see which readings are there" on public.readings;
create policy "gateways see which readings are there" on public.readings
    for select to tampu_gateway using (true);

-- To let people who are logged in read what was measured, add in a file of your own:
--     grant select on public.readings to authenticated;
--     create policy "people read" on public.readings for select to authenticated using (true);
--
-- To let gateways write with a publishable key (sb_publishable_…), which anybody can find in a web page:
--     grant insert, select (gateway_id, epoch, seq) on public.readings to anon;
--     create policy "anybody adds readings" on public.readings for insert to anon with check (true);
--     create policy "anybody sees which are there" on public.readings for select to anon using (true);

-- ---------------------------------------------------------------------------------------------------------------
-- Commands for devices: whoever is logged in inserts a row, its gateway takes it and writes back what became of it.

create table if not exists public.commands (
    -- Commands of a gateway are carried out in the order of their ids, as far as it sees them in that order.
    id          bigint generated always as identity primary key,
    -- Who is to carry it out: the gateway (gateway.id of its configuration), and the device behind it.
    gateway_id  text        not null check (gateway_id <> ''),
    device      text        not null check (device <> ''),
    -- What is published: a JSON string without its quotes, any other JSON as it is. Without a topic, and without the
    -- other settings, that of the gateway's configuration is taken.
    topic       text        check (octet_length(topic) <= 65535),
    payload     jsonb       check (octet_length(payload::text) <= 65536),
    qos         smallint    check (qos between 0 and 2),
    -- A command takes the place of an earlier one with the same device and key that was not sent yet.
    key         text        check (char_length(key) <= 128),
    -- Seconds from created_at. A command that is older is not carried out: it expires.
    good_for_s  double precision check (good_for_s > 0 and good_for_s <= 31536000),
    -- Where the device answers. Without it, the command is done when the device has acknowledged it.
    reply_topic text        check (octet_length(reply_topic) <= 65535),

    -- What follows is written by the gateway alone.
    status      text        not null default 'queued' check (status in
                    ('queued', 'sent', 'acked', 'done', 'failed', 'expired', 'refused', 'cancelled')),
    -- The command's id at the gateway, once it has taken the row.
    command_id  uuid,
    reason      text,
    result      text,
    attempts    integer     not null default 0,
    -- As far as the gateway's clock could be trusted then, or was corrected afterwards.
    accepted_at timestamptz,
    sent_at     timestamptz,
    acked_at    timestamptz,
    finished_at timestamptz,

    created_at  timestamptz not null default now(),
    created_by  text        default (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')
);

comment on table public.commands is 'Commands for the devices of tampu gateways, and what became of them';

-- "What is there for me?", of the few rows that have no end yet.
create index if not exists commands_open on public.commands (gateway_id, id)
    where status in ('queued', 'sent', 'acked');

-- A gateway sees its own commands and writes their outcomes. Which gateway it is, its token says:
-- {"role": "tampu_gateway", "gateway_id": "...", "exp": ...}
grant select on public.commands to tampu_gateway;
grant update (status, command_id, reason, result, attempts, accepted_at, sent_at, acked_at, finished_at)
    on public.commands to tampu_gateway;

-- Who is logged in says what is to be done, sees what became of it, and changes nothing afterwards.
do $$
begin
    if exists (select from pg_roles where rolname = 'anon') then
        revoke all on public.commands from anon;
    end if;
    if exists (select from pg_roles where rolname = 'authenticated') then
        revoke all on public.commands from authenticated;
        grant select on public.commands to authenticated;
        grant insert (gateway_id, device, topic, payload, qos, key, good_for_s, reply_topic)
            on public.commands to authenticated;
    end if;
    if exists (select from pg_roles where rolname = 'service_role') then
        grant select, insert, update, delete on public.commands to service_role;
    end if;
end
$$;

alter table public.commands enable row level security;

drop policy if exists "gateways see their commands" on public.commands;
create policy "gateways see their commands" on public.commands for select to tampu_gateway
    using (gateway_id = nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'gateway_id');

drop policy if exists "gateways tell what became of their commands" on public.commands;
create policy "gateways tell what became of their commands" on public.commands for update to tampu_gateway
    using (gateway_id = nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'gateway_id')
    with check (gateway_id = nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'gateway_id');

-- Everybody who can log in may switch every device. Where strangers can sign up, put in your own condition here,
-- in a file that runs after this one.
do $$
begin
    if exists (select from pg_roles where rolname = 'authenticated') then
        drop policy if exists "people send commands" on public.commands;
        create policy "people send commands" on public.commands for insert to authenticated with check (true);
        drop policy if exists "people see their commands" on public.commands;
        create policy "people see their commands" on public.commands for select to authenticated
            using (created_by = nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub');
    end if;
end
$$;

-- Supabase Realtime tells the gateway of new rows. Elsewhere there is no such publication: the gateway asks.
do $$
begin
    if exists (select from pg_publication where pubname = 'supabase_realtime')
        and not exists (select from pg_publication_tables
            where pubname = 'supabase_realtime' and schemaname = 'public' and tablename = 'commands') then
        alter publication supabase_realtime add table public.commands;
    end if;
end
$$;

commit;

-- PostgREST reads the schema once; tell it that there is more now.
notify pgrst, 'reload schema';
