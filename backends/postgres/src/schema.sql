-- The tables and functions of repmd. Each verb of a daemon is one function, so each is one transaction and one round
-- trip. The server's clock alone decides what has run out. What is here may be run again: it changes nothing that is
-- as it should be, and brings an older schema up to date.
--
--   repmd.daemons    a row a run of a daemon: its lease. A renewal writes this row alone, whatever it holds.
--   repmd.names      a row a registration; it belongs to its daemon's row, and lasts as long as that
--   repmd.aliases    other names of a daemon's host
--   repmd.hosts      the last creation that was given out on a host
--   repmd.notes      what daemons tell all others
--   repmd.clusters   when a cluster was last swept
--
-- Whoever changes the names of a host holds the row of that host in repmd.hosts, so that two daemons of one host
-- take turns; rows of daemons are locked after it. A renewal locks its own row and no other. So nobody waits in a
-- circle. A snapshot of READ COMMITTED is taken for each statement of a function, and so after the lock.
--
-- Names, clusters and what daemons are called are bytes: a database may have any encoding.

do $$
begin
  if to_regnamespace('repmd') is null then
    create schema repmd;
  elsif to_regclass('repmd.hosts') is not null then
    -- In the order in which registrations lock them.
    lock table repmd.hosts, repmd.daemons, repmd.names, repmd.aliases;
  end if;
end
$$;

create table if not exists repmd.schema (
  version integer not null,
  -- The oldest version of these functions whose daemons may go on with them.
  usable_from integer not null
);

-- Half of each page is left free, so that a renewal writes the new row beside the old one and touches no index. For
-- the same reason there is no index on the time.
create table if not exists repmd.daemons (
  cluster bytea not null,
  id bytea not null check (octet_length(id) = 16),
  name bytea not null check (octet_length(name) <= 1020),
  host text collate "C" not null check (octet_length(host) <= 253),
  aliases text[] not null check (cardinality(aliases) <= 256),
  addresses text[] not null check (cardinality(addresses) <= 256),
  port integer not null check (port between 0 and 65535),
  ttl_ms bigint not null,
  renewed_at timestamptz not null,
  retired boolean not null default false,
  -- How many names it has, and a sum over them: by these a renewal sees that the store has lost some.
  names bigint not null default 0,
  digest bigint not null default 0,
  primary key (cluster, id)
) with (fillfactor = 50);

create table if not exists repmd.names (
  cluster bytea not null,
  host text collate "C" not null check (octet_length(host) <= 253),
  name bytea not null check (octet_length(name) between 1 and 1020),
  daemon bytea not null,
  -- Which of the claims of the daemon this is: with the daemon's id it is the token.
  number bigint not null,
  -- What the daemon makes of the rest of the row, so that it knows by the digest that the row is as it wrote it.
  mark bigint not null,
  creation bigint not null check (creation between 4 and 4294967295),
  port integer not null check (port between 0 and 65535),
  advertised_port integer not null check (advertised_port between 0 and 65535),
  node_type integer not null check (node_type between 0 and 255),
  protocol integer not null check (protocol between 0 and 255),
  highest_version integer not null check (highest_version between 0 and 65535),
  lowest_version integer not null check (lowest_version between 0 and 65535),
  extra bytea not null check (octet_length(extra) <= 1020),
  -- Nanoseconds since 1970, by the daemon's clock.
  registered_at bigint not null,
  primary key (cluster, host, name),
  foreign key (cluster, daemon) references repmd.daemons on delete cascade
);
create index if not exists names_by_name on repmd.names (cluster, name);
create index if not exists names_by_daemon on repmd.names (cluster, daemon, number);

create table if not exists repmd.aliases (
  cluster bytea not null,
  alias text collate "C" not null,
  daemon bytea not null,
  primary key (cluster, alias, daemon),
  foreign key (cluster, daemon) references repmd.daemons on delete cascade
);
create index if not exists aliases_by_daemon on repmd.aliases (cluster, daemon);

-- Not UNLOGGED: a counter that a crash takes back would give creations out twice.
create table if not exists repmd.hosts (
  cluster bytea not null,
  host text collate "C" not null,
  creation bigint not null,
  -- Counts what watchers are told, for those who cannot LISTEN.
  changes bigint not null default 0,
  seen_at timestamptz not null,
  primary key (cluster, host)
) with (fillfactor = 50);

-- UNLOGGED: a note is left again and again, and one that a crash takes is missed by nobody.
create unlogged table if not exists repmd.notes (
  cluster bytea not null,
  daemon bytea not null,
  note bytea not null check (octet_length(note) <= 262144),
  until timestamptz not null,
  primary key (cluster, daemon)
);

create table if not exists repmd.clusters (
  cluster bytea primary key,
  swept_at timestamptz not null
);

-- The names and the digest of a daemon follow what is in repmd.names, whoever changes that.
create or replace function repmd.count_added() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  update repmd.daemons d set names = d.names + changed.names, digest = d.digest + changed.digest
    from (select cluster, daemon, count(*) as names, sum(mark # (creation << 8))::bigint as digest
            from added group by cluster, daemon) changed
   where d.cluster = changed.cluster and d.id = changed.daemon;
  return null;
end
$$;

create or replace function repmd.count_removed() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  update repmd.daemons d set names = d.names - changed.names, digest = d.digest - changed.digest
    from (select cluster, daemon, count(*) as names, sum(mark # (creation << 8))::bigint as digest
            from removed group by cluster, daemon) changed
   where d.cluster = changed.cluster and d.id = changed.daemon;
  return null;
end
$$;

create or replace function repmd.count_none() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  update repmd.daemons set names = 0, digest = 0;
  return null;
end
$$;

drop trigger if exists added on repmd.names;
create trigger added after insert on repmd.names
  referencing new table as added for each statement execute function repmd.count_added();
drop trigger if exists changed_to on repmd.names;
create trigger changed_to after update on repmd.names
  referencing new table as added for each statement execute function repmd.count_added();
drop trigger if exists changed_from on repmd.names;
create trigger changed_from after update on repmd.names
  referencing old table as removed for each statement execute function repmd.count_removed();
drop trigger if exists removed on repmd.names;
create trigger removed after delete on repmd.names
  referencing old table as removed for each statement execute function repmd.count_removed();
drop trigger if exists emptied on repmd.names;
create trigger emptied after truncate on repmd.names
  for each statement execute function repmd.count_none();

-- Where the changes of a cluster are told. A channel's name is short, and a cluster's need not be.
create or replace function repmd.channel(p_cluster bytea) returns text
  language sql immutable set search_path = pg_catalog, pg_temp as $$
  select 'repmd_' || left(encode(sha256(p_cluster), 'hex'), 40)
$$;

-- Tells the watchers, with as few notifications as it takes: one is shorter than 8000 bytes. A transaction that notifies
-- holds a lock of the whole server until it has committed, so none of those waits for the disk: what a crash takes of
-- them, renewals bring back. A registration does wait, and is told afterwards, by another transaction.
create or replace function repmd.tell(p_cluster bytea, p_changes text[]) returns void
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_channel constant text := repmd.channel(p_cluster);
  v_text text := '';
  v_change text;
begin
  perform set_config('synchronous_commit', 'off', true);
  foreach v_change in array coalesce(p_changes, '{}') loop
    if 7900 < length(v_text) + length(v_change) then
      perform pg_notify(v_channel, v_text);
      v_text := '';
    end if;
    v_text := v_text || v_change || ' ';
  end loop;
  if v_text <> '' then
    perform pg_notify(v_channel, v_text);
  end if;
end
$$;

-- What a change is called: a sign, the host, and the name's bytes in hexadecimal.
create or replace function repmd.change(p_sign text, p_host text, p_name bytea) returns text
  language sql immutable set search_path = pg_catalog, pg_temp as $$
  select p_sign || p_host || '/' || encode(p_name, 'hex')
$$;

-- Waits for the others who change names of this host, and returns its last creation. No longer than two seconds: the
-- caller waits less, and asks again.
create or replace function repmd.lock_host(p_cluster bytea, p_host text) returns bigint
  language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
declare
  v_creation bigint;
begin
  loop
    select h.creation into v_creation from repmd.hosts h
     where h.cluster = p_cluster and h.host = p_host for update;
    if found then
      return v_creation;
    end if;
    insert into repmd.hosts (cluster, host, creation, seen_at) values (p_cluster, p_host, 0, clock_timestamp())
      on conflict do nothing;
  end loop;
end
$$;

-- Lets a daemon count as alive, as it says that it is. The host is locked.
create or replace function repmd.stay_alive(
    p_cluster bytea, p_id bytea, p_instance bytea, p_host text, p_aliases text[], p_addresses text[], p_port integer,
    p_ttl bigint)
  returns void
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_daemon record;
begin
  select d.aliases, d.renewed_at + d.ttl_ms * interval '1 millisecond' <= clock_timestamp() as is_over
    into v_daemon from repmd.daemons d where d.cluster = p_cluster and d.id = p_id for no key update;
  if found and v_daemon.is_over then
    -- What has run out does not come back by itself.
    delete from repmd.names n where n.cluster = p_cluster and n.daemon = p_id;
  end if;
  insert into repmd.daemons as d (cluster, id, name, host, aliases, addresses, port, ttl_ms, renewed_at)
    values (p_cluster, p_id, p_instance, p_host, p_aliases, p_addresses, p_port, p_ttl, clock_timestamp())
    on conflict (cluster, id) do update
      set name = excluded.name, host = excluded.host, aliases = excluded.aliases, addresses = excluded.addresses,
          port = excluded.port, ttl_ms = excluded.ttl_ms, renewed_at = clock_timestamp(), retired = false;
  if v_daemon.aliases is distinct from p_aliases then
    delete from repmd.aliases a where a.cluster = p_cluster and a.daemon = p_id and a.alias <> all (p_aliases);
    insert into repmd.aliases (cluster, alias, daemon)
      select p_cluster, alias, p_id from unnest(p_aliases) as alias on conflict do nothing;
  end if;
end
$$;

-- Whether a daemon counts as alive. Without a search path of its own, so that it costs its callers nothing: they have one.
create or replace function repmd.is_alive(d repmd.daemons) returns boolean language sql as $$
  select not d.retired
         and pg_catalog.clock_timestamp() < d.renewed_at + (d.ttl_ms * 2 / 3) * interval '1 millisecond'
$$;

-- Registers a name unless another daemon's live lease holds it. Answers 'held' and the creation, or 'taken' and who
-- holds it.
create or replace function repmd.register(
    p_cluster bytea, p_id bytea, p_instance bytea, p_host text, p_aliases text[], p_addresses text[], p_port integer,
    p_ttl bigint, p_name bytea, p_number bigint, p_mark bigint, p_last bigint, p_node_port integer,
    p_advertised_port integer, p_node_type integer, p_protocol integer, p_highest_version integer,
    p_lowest_version integer, p_extra bytea, p_registered_at bigint,
    out outcome text, out creation bigint, out holder bytea)
  returns record
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  -- Creations from here on come from daemons that could not reach their store: they are kept, and never counted on
  -- from.
  c_offline constant bigint := 2147483648;
  v_counter bigint := repmd.lock_host(p_cluster, p_host);
  v_clock bigint;
  v_held record;
  v_holder record;
  v_known bigint[] := case when 0 < p_last then array[p_last] else array[]::bigint[] end;
  v_before bigint;
begin
  perform repmd.stay_alive(p_cluster, p_id, p_instance, p_host, p_aliases, p_addresses, p_port, p_ttl);
  select n.daemon, n.number, n.creation into v_held
    from repmd.names n where n.cluster = p_cluster and n.host = p_host and n.name = p_name;
  if found then
    if v_held.daemon = p_id and v_held.number = p_number then
      outcome := 'held';
      creation := v_held.creation;
      return;
    end if;
    -- Locked, so that it is not renewed between this look and what follows from it.
    select d.name, repmd.is_alive(d) as is_alive into v_holder
      from repmd.daemons d where d.cluster = p_cluster and d.id = v_held.daemon for no key update;
    -- An earlier run of this daemon keeps nothing from it, unless this claim comes late, after a newer one of
    -- the same run.
    if v_held.daemon = p_id and p_number < v_held.number
       or v_holder.is_alive and v_holder.name <> p_instance then
      outcome := 'taken';
      holder := v_holder.name;
      return;
    end if;
    v_known := v_known || v_held.creation;
    delete from repmd.names n where n.cluster = p_cluster and n.host = p_host and n.name = p_name;
  end if;

  -- In 64ths of a second, so that it is past all that was given out, whatever of it a counter that was lost, or came
  -- back from a replica as it was before, does not know: no host registers so many nodes for long.
  v_clock := greatest(floor(extract(epoch from clock_timestamp()) * 64)::bigint % c_offline, 4);
  select greatest(v_clock, v_counter, max(known)) into creation
    from unnest(v_known) as known where known < c_offline;
  creation := greatest((creation + 1) % c_offline, 4);
  -- Nodes below version 6 are told one of three numbers by it, and another one than those of the lives before.
  for i in 1..2 loop
    foreach v_before in array v_known loop
      if creation % 3 = v_before % 3 then
        creation := greatest((creation + 1) % c_offline, 4);
      end if;
    end loop;
  end loop;

  insert into repmd.names (cluster, host, name, daemon, number, mark, creation, port, advertised_port, node_type,
      protocol, highest_version, lowest_version, extra, registered_at)
    values (p_cluster, p_host, p_name, p_id, p_number, p_mark, creation, p_node_port, p_advertised_port, p_node_type,
      p_protocol, p_highest_version, p_lowest_version, p_extra, p_registered_at);
  update repmd.hosts h set creation = register.creation, changes = h.changes + 1, seen_at = clock_timestamp()
   where h.cluster = p_cluster and h.host = p_host;
  outcome := 'held';
end
$$;

-- Keeps all that a daemon holds for another TTL, if it is known as it says that it is. Answers nothing where it is
-- not; else how many names it has, and their digest, and whether it is time to sweep the cluster.
create or replace function repmd.renew(
    p_cluster bytea, p_id bytea, p_instance bytea, p_host text, p_aliases text[], p_addresses text[], p_port integer,
    p_ttl bigint,
    out names bigint, out digest bigint, out is_time_to_sweep boolean)
  returns record
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- The disk is not waited for: a server that crashes has lost half a second of this lease.
  perform set_config('synchronous_commit', 'off', true);
  update repmd.daemons d set renewed_at = clock_timestamp(), retired = false
   where d.cluster = p_cluster and d.id = p_id
     and clock_timestamp() < d.renewed_at + d.ttl_ms * interval '1 millisecond'
     and (d.name, d.host, d.aliases, d.addresses, d.port, d.ttl_ms)
         = (p_instance, p_host, p_aliases, p_addresses, p_port, p_ttl)
    returning d.names, d.digest into names, digest;
  is_time_to_sweep := not exists (
    select from repmd.clusters c where c.cluster = p_cluster
       and clock_timestamp() between c.swept_at and c.swept_at + (p_ttl / 3) * interval '1 millisecond');
end
$$;

-- How many names a daemon has, and their digest, without those of some claims; and its latest claim of all.
create or replace function repmd.held(
    p_cluster bytea, p_id bytea, p_without bigint[], out names bigint, out digest bigint, out latest bigint)
  returns record
  language sql stable set search_path = pg_catalog, pg_temp as $$
  select d.names - (select count(*) from repmd.names n
                     where n.cluster = p_cluster and n.daemon = p_id and n.number = any (p_without)),
         d.digest - (select coalesce(sum(n.mark # (n.creation << 8)), 0)::bigint from repmd.names n
                      where n.cluster = p_cluster and n.daemon = p_id and n.number = any (p_without)),
         (select max(n.number) from repmd.names n where n.cluster = p_cluster and n.daemon = p_id)
    from repmd.daemons d where d.cluster = p_cluster and d.id = p_id
$$;

-- Writes registrations where they are absent, the daemon's own, or what it has left behind. Answers those that
-- another owner has, and who that is.
create or replace function repmd.publish(
    p_cluster bytea, p_id bytea, p_instance bytea, p_host text, p_aliases text[], p_addresses text[], p_port integer,
    p_ttl bigint, p_names bytea[], p_numbers bigint[], p_marks bigint[], p_creations bigint[], p_ports integer[],
    p_advertised_ports integer[], p_node_types integer[], p_protocols integer[], p_highest_versions integer[],
    p_lowest_versions integer[], p_extras bytea[], p_registered_at bigint[])
  returns table (number bigint, holder bytea)
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c_offline constant bigint := 2147483648;
  v_counter bigint := repmd.lock_host(p_cluster, p_host);
  v_written bigint[];
  v_taken bigint[];
  v_holders bytea[];
begin
  perform repmd.stay_alive(p_cluster, p_id, p_instance, p_host, p_aliases, p_addresses, p_port, p_ttl);
  perform from repmd.daemons d
    where d.cluster = p_cluster and d.id in (
      select n.daemon from repmd.names n
       where n.cluster = p_cluster and n.host = p_host and n.name = any (p_names) and n.daemon <> p_id)
    order by d.id for no key update;
  select coalesce(array_agg(g.number) filter (where g.what = 'write'), '{}'),
         coalesce(array_agg(g.number) filter (where g.what = 'taken'), '{}'),
         coalesce(array_agg(g.holder) filter (where g.what = 'taken'), '{}')
    into v_written, v_taken, v_holders
    from (
      select given.number, d.name as holder,
             case
               when n.daemon is null then 'write'
               when n.daemon = p_id and n.number = given.number then
                 case when (n.mark, n.creation) = (given.mark, given.creation) then 'held' else 'write' end
               when n.daemon = p_id then case when n.number < given.number then 'write' else 'taken' end
               -- Its lease is over, and it was not cleared away yet.
               when d.renewed_at + d.ttl_ms * interval '1 millisecond' <= clock_timestamp() then 'write'
               when d.name = p_instance and not repmd.is_alive(d) then 'write'
               else 'taken'
             end as what
        from unnest(p_names, p_numbers, p_marks, p_creations) as given (name, number, mark, creation)
        left join repmd.names n on n.cluster = p_cluster and n.host = p_host and n.name = given.name
        left join repmd.daemons d on d.cluster = p_cluster and d.id = n.daemon) g;
  if 0 < cardinality(v_written) then
    -- A store that lost its counters must not count from below what is known to have been given out.
    select greatest(v_counter, max(known.creation)) into v_counter
      from (select given.creation from unnest(p_numbers, p_creations) as given (number, creation)
             where given.number = any (v_written)
            union all
            select n.creation from repmd.names n
             where n.cluster = p_cluster and n.host = p_host and n.name = any (p_names)) known
     where known.creation < c_offline;
    delete from repmd.names n
     where n.cluster = p_cluster and n.host = p_host and n.name in (
       select given.name from unnest(p_names, p_numbers) as given (name, number)
        where given.number = any (v_written));
    insert into repmd.names (cluster, host, name, daemon, number, mark, creation, port, advertised_port, node_type,
        protocol, highest_version, lowest_version, extra, registered_at)
      select p_cluster, p_host, given.name, p_id, given.number, given.mark, given.creation, given.port,
             given.advertised_port, given.node_type, given.protocol, given.highest_version, given.lowest_version,
             given.extra, given.registered_at
        from unnest(p_names, p_numbers, p_marks, p_creations, p_ports, p_advertised_ports, p_node_types, p_protocols,
                    p_highest_versions, p_lowest_versions, p_extras, p_registered_at)
          as given (name, number, mark, creation, port, advertised_port, node_type, protocol, highest_version,
                    lowest_version, extra, registered_at)
       where given.number = any (v_written);
    update repmd.hosts h
       set creation = v_counter, changes = h.changes + cardinality(v_written), seen_at = clock_timestamp()
     where h.cluster = p_cluster and h.host = p_host;
    perform repmd.tell(p_cluster, array_agg(repmd.change('+', p_host, given.name)))
       from unnest(p_names, p_numbers) as given (name, number) where given.number = any (v_written);
  end if;
  return query select taken.number, taken.holder from unnest(v_taken, v_holders) as taken (number, holder);
end
$$;

-- Ends all that a daemon has but these, up to its claim p_until: it may have made others since it said this.
create or replace function repmd.keep(
    p_cluster bytea, p_id bytea, p_host text, p_numbers bigint[], p_until bigint)
  returns bigint
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_removed text[];
begin
  perform repmd.lock_host(p_cluster, p_host);
  with gone as (
    delete from repmd.names n
     where n.cluster = p_cluster and n.daemon = p_id and n.number <= p_until
       and not exists (select from unnest(p_numbers) as kept (number) where kept.number = n.number)
     returning n.host, n.name)
  select array_agg(repmd.change('-', gone.host, gone.name)) into v_removed from gone;
  if v_removed is not null then
    update repmd.hosts h set changes = h.changes + cardinality(v_removed), seen_at = clock_timestamp()
     where h.cluster = p_cluster and h.host = p_host;
    perform repmd.tell(p_cluster, v_removed);
  end if;
  return coalesce(cardinality(v_removed), 0);
end
$$;

-- Ends one registration, unless its name has another owner; whether it did. The disk is not waited for: what comes back
-- after a crash, the next renewal ends.
create or replace function repmd.release(p_cluster bytea, p_id bytea, p_host text, p_name bytea, p_number bigint)
  returns boolean
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform set_config('synchronous_commit', 'off', true);
  perform repmd.lock_host(p_cluster, p_host);
  delete from repmd.names n
   where n.cluster = p_cluster and n.host = p_host and n.name = p_name and n.daemon = p_id and n.number = p_number;
  if not found then
    return false;
  end if;
  update repmd.hosts h set changes = h.changes + 1, seen_at = clock_timestamp()
   where h.cluster = p_cluster and h.host = p_host;
  return true;
end
$$;

-- Lets a daemon count as alive no longer.
create or replace function repmd.retire(p_cluster bytea, p_id bytea) returns void
  language sql set search_path = pg_catalog, pg_temp as $$
  delete from repmd.notes n where n.cluster = p_cluster and n.daemon = p_id;
  update repmd.daemons d set retired = true where d.cluster = p_cluster and d.id = p_id
$$;

-- A registration of each row, with its daemon.
create or replace function repmd.find(
    p_cluster bytea, p_name bytea, p_host text, p_near text, p_most bigint)
  returns table (
    host text, name bytea, daemon bytea, creation bigint, port integer, advertised_port integer, node_type integer,
    protocol integer, highest_version integer, lowest_version integer, extra bytea, registered_at bigint,
    left_ms bigint,
    id bytea, instance bytea, instance_host text, aliases text[], addresses text[], instance_port integer)
  language plpgsql stable set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_now constant timestamptz := clock_timestamp();
  v_first constant text := coalesce(p_host, p_near);
begin
  return query
    select n.host, n.name, n.daemon, n.creation, n.port, n.advertised_port, n.node_type, n.protocol,
           n.highest_version, n.lowest_version, n.extra, n.registered_at,
           floor(extract(epoch from d.renewed_at - v_now) * 1000)::bigint + d.ttl_ms,
           d.id, d.name, d.host, d.aliases, d.addresses, d.port
      from repmd.names n join repmd.daemons d on d.cluster = n.cluster and d.id = n.daemon
     where n.cluster = p_cluster and n.host = v_first and n.name = p_name
       and v_now < d.renewed_at + d.ttl_ms * interval '1 millisecond'
     limit p_most;
  if p_host is null then
    return query
      select n.host, n.name, n.daemon, n.creation, n.port, n.advertised_port, n.node_type, n.protocol,
             n.highest_version, n.lowest_version, n.extra, n.registered_at,
             floor(extract(epoch from d.renewed_at - v_now) * 1000)::bigint + d.ttl_ms,
             d.id, d.name, d.host, d.aliases, d.addresses, d.port
        from repmd.names n join repmd.daemons d on d.cluster = n.cluster and d.id = n.daemon
       where n.cluster = p_cluster and n.name = p_name and n.host <> v_first
         and v_now < d.renewed_at + d.ttl_ms * interval '1 millisecond'
       limit p_most;
  else
    return query
      select n.host, n.name, n.daemon, n.creation, n.port, n.advertised_port, n.node_type, n.protocol,
             n.highest_version, n.lowest_version, n.extra, n.registered_at,
             floor(extract(epoch from d.renewed_at - v_now) * 1000)::bigint + d.ttl_ms,
             d.id, d.name, d.host, d.aliases, d.addresses, d.port
        from repmd.aliases a
        join repmd.daemons d on d.cluster = a.cluster and d.id = a.daemon
        join repmd.names n on n.cluster = d.cluster and n.host = d.host and n.name = p_name and n.daemon = d.id
       where a.cluster = p_cluster and a.alias = p_host and n.host <> p_host
         and v_now < d.renewed_at + d.ttl_ms * interval '1 millisecond'
       limit p_most;
  end if;
end
$$;

-- The registrations of a host, or of all; who holds them is in repmd.daemons_within.
create or replace function repmd.names_within(p_cluster bytea, p_host text, p_most bigint)
  returns table (
    host text, name bytea, daemon bytea, creation bigint, port integer, advertised_port integer, node_type integer,
    protocol integer, highest_version integer, lowest_version integer, extra bytea, registered_at bigint,
    left_ms bigint)
  language plpgsql stable set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_now constant timestamptz := clock_timestamp();
begin
  if p_host is null then
    return query
      select n.host, n.name, n.daemon, n.creation, n.port, n.advertised_port, n.node_type, n.protocol,
             n.highest_version, n.lowest_version, n.extra, n.registered_at,
             floor(extract(epoch from d.renewed_at - v_now) * 1000)::bigint + d.ttl_ms
        from repmd.names n join repmd.daemons d on d.cluster = n.cluster and d.id = n.daemon
       where n.cluster = p_cluster and v_now < d.renewed_at + d.ttl_ms * interval '1 millisecond'
       limit p_most;
  else
    return query
      select n.host, n.name, n.daemon, n.creation, n.port, n.advertised_port, n.node_type, n.protocol,
             n.highest_version, n.lowest_version, n.extra, n.registered_at,
             floor(extract(epoch from d.renewed_at - v_now) * 1000)::bigint + d.ttl_ms
        from repmd.names n join repmd.daemons d on d.cluster = n.cluster and d.id = n.daemon
       where n.cluster = p_cluster and n.host = p_host
         and v_now < d.renewed_at + d.ttl_ms * interval '1 millisecond'
       limit p_most;
    return query
      select n.host, n.name, n.daemon, n.creation, n.port, n.advertised_port, n.node_type, n.protocol,
             n.highest_version, n.lowest_version, n.extra, n.registered_at,
             floor(extract(epoch from d.renewed_at - v_now) * 1000)::bigint + d.ttl_ms
        from repmd.aliases a
        join repmd.daemons d on d.cluster = a.cluster and d.id = a.daemon
        join repmd.names n on n.cluster = d.cluster and n.daemon = d.id
       where a.cluster = p_cluster and a.alias = p_host and n.host <> p_host
         and v_now < d.renewed_at + d.ttl_ms * interval '1 millisecond'
       limit p_most;
  end if;
end
$$;

-- The daemons of a host, or of all: those that count as alive, or those whose leases are not over.
create or replace function repmd.daemons_within(p_cluster bytea, p_host text, p_alive boolean, p_most bigint)
  returns table (
    id bytea, instance bytea, instance_host text, aliases text[], addresses text[], instance_port integer)
  language plpgsql stable set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
  return query
    select d.id, d.name, d.host, d.aliases, d.addresses, d.port from repmd.daemons d
     where d.cluster = p_cluster
       and (p_host is null or d.host = p_host or p_host = any (d.aliases))
       and clock_timestamp() < d.renewed_at + d.ttl_ms * interval '1 millisecond'
       and (repmd.is_alive(d) or not p_alive)
     limit p_most;
end
$$;

create or replace function repmd.leave_note(p_cluster bytea, p_id bytea, p_note bytea, p_ms bigint) returns void
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform set_config('synchronous_commit', 'off', true);
  insert into repmd.notes as n (cluster, daemon, note, until)
    values (p_cluster, p_id, p_note, clock_timestamp() + p_ms * interval '1 millisecond')
    on conflict (cluster, daemon) do update set note = excluded.note, until = excluded.until;
end
$$;

-- The notes of the daemons that count as alive; null in the place of one that is longer than a note may be.
create or replace function repmd.notes_of(p_cluster bytea, p_note_max bigint, p_most bigint)
  returns table (daemon bytea, note bytea)
  language sql stable set search_path = pg_catalog, pg_temp as $$
  select n.daemon, case when octet_length(n.note) <= p_note_max then n.note end
    from repmd.notes n join repmd.daemons d on d.cluster = n.cluster and d.id = n.daemon
   where n.cluster = p_cluster and clock_timestamp() < n.until and repmd.is_alive(d)
   limit p_most
$$;

-- A number that is another one after each change in the cluster, for those who cannot LISTEN.
create or replace function repmd.changes(p_cluster bytea) returns bigint
  language sql stable set search_path = pg_catalog, pg_temp as $$
  select (coalesce(sum(h.changes), 0) + count(*))::bigint from repmd.hosts h where h.cluster = p_cluster
$$;

-- Clears away what has run out: nobody saw it any longer. One daemon at a time does it, for all.
create or replace function repmd.sweep(p_cluster bytea) returns void
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_now timestamptz := clock_timestamp();
  v_clock constant bigint := floor(extract(epoch from v_now) * 64)::bigint % 2147483648;
  v_daemon record;
  v_gone text[];
begin
  if not pg_try_advisory_xact_lock(hashtextextended('repmd sweep ' || encode(p_cluster, 'hex'), 0)) then
    return;
  end if;
  perform set_config('synchronous_commit', 'off', true);
  insert into repmd.clusters as c (cluster, swept_at) values (p_cluster, v_now)
    on conflict (cluster) do update set swept_at = excluded.swept_at;
  -- The server's clock was set back, or this is another server: no lease is longer for it than from now on.
  update repmd.daemons d set renewed_at = v_now
   where d.cluster = p_cluster and v_now + interval '1 second' < d.renewed_at;
  for v_daemon in
    select d.id, d.host from repmd.daemons d
     where d.cluster = p_cluster and d.renewed_at + d.ttl_ms * interval '1 millisecond' <= v_now limit 100
  loop
    -- Whoever registers there at this moment does it as well.
    perform from repmd.hosts h where h.cluster = p_cluster and h.host = v_daemon.host for update skip locked;
    continue when not found and exists (
      select from repmd.hosts h where h.cluster = p_cluster and h.host = v_daemon.host);
    perform from repmd.daemons d
      where d.cluster = p_cluster and d.id = v_daemon.id
        and d.renewed_at + d.ttl_ms * interval '1 millisecond' <= v_now for update skip locked;
    continue when not found;
    with gone as (
      delete from repmd.names n where n.cluster = p_cluster and n.daemon = v_daemon.id returning n.host, n.name)
    select array_agg(repmd.change('x', gone.host, gone.name)) into v_gone from gone;
    delete from repmd.daemons d where d.cluster = p_cluster and d.id = v_daemon.id;
    if v_gone is not null then
      update repmd.hosts h set changes = h.changes + cardinality(v_gone)
       where h.cluster = p_cluster and h.host = v_daemon.host;
      perform repmd.tell(p_cluster, v_gone);
    end if;
  end loop;
  -- A counter is kept until the clock is past it, which is at once unless somebody brought a high one, and for a day
  -- more: the next clock that counts may be that of another server.
  delete from repmd.hosts h
   where (h.cluster, h.host) in (
     select old.cluster, old.host from repmd.hosts old
      where old.cluster = p_cluster and old.seen_at < v_now - interval '1 day' and old.creation < v_clock
        and not exists (select from repmd.names n where n.cluster = p_cluster and n.host = old.host)
      limit 100 for update skip locked);
  delete from repmd.notes n
   where n.cluster = p_cluster and n.until < v_now;
end
$$;
