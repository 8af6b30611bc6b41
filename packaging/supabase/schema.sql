-- The table that tampu's Supabase sink writes whole readings into.
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

commit;

-- PostgREST reads the schema once; tell it that there is more now.
notify pgrst, 'reload schema';
