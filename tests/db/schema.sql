CREATE FUNCTION public.actor_name(kind text, id text) RETURNS text
    LANGUAGE sql STABLE
    AS $_$
    SELECT CASE kind WHEN 'user' THEN (SELECT u.email FROM users u WHERE u.id = $2)
                     WHEN 'api_key' THEN (SELECT k.name FROM api_keys k WHERE k.id = $2) END
$_$;
CREATE FUNCTION public.append_only() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$;
CREATE TABLE public.audit_logs (
    chain text NOT NULL,
    number bigint NOT NULL,
    id text NOT NULL,
    at timestamp with time zone NOT NULL,
    actor_type text NOT NULL,
    actor_id text,
    actor_name text,
    peer text NOT NULL,
    method text NOT NULL,
    operation text NOT NULL,
    resource_type text,
    resource_id text,
    status integer NOT NULL,
    code text,
    request_id text NOT NULL,
    digest bytea NOT NULL,
    CONSTRAINT audit_logs_actor_type_check CHECK ((actor_type = ANY (ARRAY['user'::text, 'api_key'::text, 'host'::text, 'anonymous'::text])))
);
CREATE FUNCTION public.audit_append(r public.audit_logs) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    head audit_heads;
BEGIN
    INSERT INTO audit_heads (chain) VALUES (r.chain) ON CONFLICT DO NOTHING;
    SELECT * INTO head FROM audit_heads WHERE chain = r.chain FOR UPDATE;
    r.number := greatest(head.number, (SELECT max(number) FROM audit_logs WHERE chain = r.chain)) + 1;
    r.at := clock_timestamp();
    r.actor_name := actor_name(r.actor_type, r.actor_id);
    r.digest := sha256(head.digest || convert_to(audit_content(r), 'UTF8'));
    INSERT INTO audit_logs SELECT r.*;
    UPDATE audit_heads SET number = r.number, digest = r.digest WHERE chain = r.chain;
END $$;
CREATE FUNCTION public.audit_content(r public.audit_logs) RETURNS text
    LANGUAGE sql STABLE
    AS $$
    SELECT array_to_json(ARRAY[
        r.chain, r.number::text, r.id, to_char(r.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), r.actor_type,
        r.actor_id, r.actor_name, r.peer, r.method, r.operation, r.resource_type, r.resource_id, r.status::text, r.code,
        r.request_id])::text
$$;
CREATE FUNCTION public.audit_refuse() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION 'audit_logs is append-only';
END $$;
CREATE FUNCTION public.event_write(team_id text, type text, outcome text, resource_type text, resource_id text, actor text, metadata jsonb, error text, sandbox jsonb) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    kind text := coalesce(split_part(actor, ' ', 1), 'system');
    who text := nullif(split_part(actor, ' ', 2), '');
BEGIN
    INSERT INTO events (team_id, type, outcome, resource_type, resource_id, actor_type, actor_id, actor_name,
                        metadata, error, sandbox)
    VALUES (team_id, type, outcome, resource_type, resource_id, kind, who, actor_name(kind, who),
            jsonb_strip_nulls(metadata), error, sandbox);
    PERFORM pg_notify('wrenn', 'event');
END $$;
CREATE FUNCTION public.events_publish(at_most integer) RETURNS integer
    LANGUAGE plpgsql
    AS $$
DECLARE
    head bigint;
    teams text[];
    count integer;
    told integer;
BEGIN
    SELECT position INTO head FROM event_head FOR UPDATE;
    WITH new AS (
        SELECT sequence, row_number() OVER (ORDER BY sequence) AS number
          FROM (SELECT sequence FROM events WHERE position IS NULL ORDER BY sequence LIMIT at_most) oldest),
    numbered AS (
        UPDATE events e SET position = head + new.number FROM new WHERE e.sequence = new.sequence
        RETURNING e.id, e.team_id, e.type, e.position),
    delivered AS (
        INSERT INTO deliveries (channel_id, event_id, type)
        SELECT c.id, n.id, n.type FROM numbered n JOIN channels c ON c.team_id = n.team_id
         WHERE c.enabled AND c.events && ARRAY[n.type, '*'] ORDER BY n.position
        RETURNING 1)
    SELECT (SELECT array_agg(DISTINCT coalesce(team_id, '')) FROM numbered), (SELECT count(*) FROM numbered),
           (SELECT count(*) FROM delivered) INTO teams, count, told;
    IF count > 0 THEN
        UPDATE event_head SET position = head + count;
        PERFORM pg_notify('wrenn', 'events ' || team) FROM unnest(teams) AS team;
    END IF;
    IF told > 0 THEN
        PERFORM pg_notify('wrenn', 'deliveries');
    END IF;
    RETURN count;
END $$;
CREATE FUNCTION public.hosts_event() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM event_write(
        NEW.team_id, CASE NEW.status WHEN 'online' THEN 'host.up' ELSE 'host.down' END, NULL, 'host', NEW.id,
        NULL, jsonb_build_object('from', OLD.status, 'address', NEW.address), NULL, NULL);
    RETURN NULL;
END $$;
CREATE FUNCTION public.hosts_notify() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM pg_notify('wrenn', 'host ' || NEW.id);
    RETURN NULL;
END $$;
CREATE FUNCTION public.ledger_balances() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF (SELECT count(*) < 2 OR sum(amount) <> 0 FROM ledger_entries WHERE transaction_id = NEW.id) THEN
        RAISE EXCEPTION 'transaction % of the ledger does not balance', NEW.id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION public.ledger_complete() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF (SELECT written_by <> pg_current_xact_id() FROM ledger_transactions WHERE id = NEW.transaction_id) THEN
        RAISE EXCEPTION 'transaction % of the ledger is closed', NEW.transaction_id;
    END IF;
    RETURN NEW;
END $$;
CREATE FUNCTION public.pool_key(team text) RETURNS bigint
    LANGUAGE sql IMMUTABLE
    AS $$
    SELECT hashtextextended('pool ' || team, 0)
$$;
CREATE FUNCTION public.pool_notify(team text) RETURNS void
    LANGUAGE sql
    AS $$
    SELECT pg_notify('wrenn', 'pool ' || team) WHERE EXISTS (SELECT FROM pool_waiters WHERE team_id = team)
$$;
CREATE TABLE public.sandboxes (
    id text NOT NULL,
    team_id text NOT NULL,
    template_id text NOT NULL,
    template text NOT NULL,
    host_id text,
    generation integer DEFAULT 1 NOT NULL,
    state text NOT NULL,
    vcpus integer NOT NULL,
    memory_mb integer NOT NULL,
    disk_mb integer NOT NULL,
    timeout_sec integer DEFAULT 0 NOT NULL,
    on_timeout text DEFAULT 'kill'::text NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    access_token text NOT NULL,
    envd_version text DEFAULT ''::text NOT NULL,
    reason text,
    message text,
    console text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    started_at timestamp with time zone,
    last_active_at timestamp with time zone,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone,
    check_after timestamp with time zone,
    pause_memory boolean DEFAULT true NOT NULL,
    auto_resume boolean DEFAULT false NOT NULL,
    saved_memory boolean,
    network jsonb DEFAULT '{}'::jsonb NOT NULL,
    traffic_token text,
    mask_host text,
    image text DEFAULT ''::text NOT NULL,
    snapshot_id text,
    saved_generation integer,
    stored_generation integer,
    stored_machine text,
    stored_in text,
    actor text,
    activity text[] DEFAULT '{}'::text[] NOT NULL,
    key_id text,
    pool_ticket bigint,
    host_tags text[] DEFAULT '{}'::text[] NOT NULL,
    availability_zone text,
    CONSTRAINT sandboxes_on_timeout_check CHECK ((on_timeout = ANY (ARRAY['kill'::text, 'pause'::text]))),
    CONSTRAINT sandboxes_state_check CHECK ((state = ANY (ARRAY['starting'::text, 'running'::text, 'pausing'::text, 'paused'::text, 'resuming'::text, 'lost'::text, 'failed'::text, 'killing'::text, 'killed'::text])))
)
WITH (fillfactor='80');
CREATE FUNCTION public.pool_take(sandbox public.sandboxes, more_cpus integer, more_memory bigint, more_disk bigint) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    growing CONSTANT boolean := more_cpus > 0 OR more_memory > 0 OR more_disk > 0;
    ahead bigint;
    full_cap record;
    pool record;
BEGIN
    SELECT * INTO pool FROM pools WHERE team_id = sandbox.team_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM pg_advisory_xact_lock_shared(pool_key(sandbox.team_id));
        SELECT * INTO pool FROM pools WHERE team_id = sandbox.team_id FOR NO KEY UPDATE;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;
    IF growing THEN
        SELECT count(*) INTO ahead FROM pool_waiters
         WHERE team_id = sandbox.team_id AND NOT capped AND seen_at > clock_timestamp() - interval '15 seconds'
           AND (sandbox.pool_ticket IS NULL OR id < sandbox.pool_ticket);
        IF ahead > 0 OR pool.vcpus_drawn + more_cpus > pool.vcpus OR pool.memory_mb_drawn + more_memory > pool.memory_mb
           OR pool.disk_mb_drawn + more_disk > pool.disk_mb THEN
            RAISE EXCEPTION 'the pool of team % has no room', sandbox.team_id USING ERRCODE = 'WRP01', DETAIL =
                json_build_object('ahead', ahead,
                    'vcpus', greatest(pool.vcpus_drawn + more_cpus - pool.vcpus, 0),
                    'memory_mb', greatest(pool.memory_mb_drawn + more_memory - pool.memory_mb, 0),
                    'disk_mb', greatest(pool.disk_mb_drawn + more_disk - pool.disk_mb, 0),
                    'never', sandbox.vcpus > pool.vcpus OR sandbox.memory_mb > pool.memory_mb
                             OR sandbox.disk_mb > pool.disk_mb);
        END IF;
        SELECT * INTO full_cap FROM pool_caps c
         WHERE c.team_id = sandbox.team_id
           AND CASE c.kind WHEN 'key' THEN c.name = sandbox.key_id
                           ELSE sandbox.metadata @> jsonb_build_object(c.name, c.value) END
           AND (c.vcpus_drawn + more_cpus > c.vcpus OR c.memory_mb_drawn + more_memory > c.memory_mb
                OR c.disk_mb_drawn + more_disk > c.disk_mb)
         ORDER BY c.id LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'a cap in the pool of team % is reached', sandbox.team_id USING ERRCODE = 'WRP01', DETAIL =
                json_build_object('cap', full_cap.id,
                    'vcpus', greatest(full_cap.vcpus_drawn + more_cpus - full_cap.vcpus, 0),
                    'memory_mb', greatest(full_cap.memory_mb_drawn + more_memory - full_cap.memory_mb, 0),
                    'disk_mb', greatest(full_cap.disk_mb_drawn + more_disk - full_cap.disk_mb, 0),
                    'never', coalesce(sandbox.vcpus > full_cap.vcpus, false)
                             OR coalesce(sandbox.memory_mb > full_cap.memory_mb, false)
                             OR coalesce(sandbox.disk_mb > full_cap.disk_mb, false));
        END IF;
        DELETE FROM pool_waiters WHERE id = sandbox.pool_ticket;
    END IF;
    UPDATE pools SET vcpus_drawn = vcpus_drawn + more_cpus, memory_mb_drawn = memory_mb_drawn + more_memory,
                     disk_mb_drawn = disk_mb_drawn + more_disk
     WHERE team_id = sandbox.team_id;
    UPDATE pool_caps c
       SET vcpus_drawn = vcpus_drawn + more_cpus, memory_mb_drawn = memory_mb_drawn + more_memory,
           disk_mb_drawn = disk_mb_drawn + more_disk
     WHERE c.team_id = sandbox.team_id
       AND CASE c.kind WHEN 'key' THEN c.name = sandbox.key_id
                       ELSE sandbox.metadata @> jsonb_build_object(c.name, c.value) END;
    PERFORM pool_notify(sandbox.team_id);
END $$;
CREATE FUNCTION public.sandbox_draw(state text, reason text, before text) RETURNS text
    LANGUAGE sql IMMUTABLE
    AS $$
    SELECT CASE WHEN state IN ('starting', 'resuming') THEN 'all'
                WHEN state IN ('failed', 'killed') THEN 'none'
                WHEN state = 'paused' AND before = 'all' AND coalesce(reason, '') NOT IN ('drain', 'rollback')
                     THEN 'disk'
                ELSE before END
$$;
CREATE FUNCTION public.sandbox_takes(state text, vcpus integer, memory_mb integer, disk_mb integer, OUT cpus integer, OUT memory integer, OUT disk integer, OUT count integer) RETURNS record
    LANGUAGE sql IMMUTABLE
    AS $$
    SELECT CASE WHEN state IN ('failed', 'killed', 'paused') THEN 0 ELSE vcpus END,
           CASE WHEN state IN ('failed', 'killed', 'paused') THEN 0 ELSE memory_mb END,
           CASE WHEN state IN ('failed', 'killed') THEN 0 WHEN state = 'paused' THEN disk_mb + memory_mb ELSE disk_mb END,
           CASE WHEN state IN ('failed', 'killed') THEN 0 ELSE 1 END
$$;
CREATE FUNCTION public.sandboxes_draw() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
DECLARE
    sandbox CONSTANT sandboxes := CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    before text := 'none';
    after text := 'none';
    cpus integer;
    disks integer;
    moment timestamptz;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        before := coalesce((SELECT draw FROM draws WHERE sandbox_id = sandbox.id AND ended_at IS NULL), 'none');
    END IF;
    IF TG_OP <> 'DELETE' THEN
        after := sandbox_draw(sandbox.state, sandbox.reason, before);
    END IF;
    IF before = after THEN
        RETURN NULL;
    END IF;
    cpus := (after = 'all')::integer - (before = 'all')::integer;
    disks := (after <> 'none')::integer - (before <> 'none')::integer;
    PERFORM pool_take(sandbox, cpus * sandbox.vcpus, cpus * sandbox.memory_mb, disks * sandbox.disk_mb);
    moment := clock_timestamp();
    UPDATE draws SET ended_at = greatest(moment, began_at) WHERE sandbox_id = sandbox.id AND ended_at IS NULL;
    IF after <> 'none' THEN
        INSERT INTO draws (sandbox_id, team_id, draw, vcpus, memory_mb, disk_mb, began_at)
        VALUES (sandbox.id, sandbox.team_id, after, sandbox.vcpus, sandbox.memory_mb, sandbox.disk_mb, moment);
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION public.sandboxes_event() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
DECLARE
    working CONSTANT text[] := ARRAY['starting', 'pausing', 'resuming', 'killing'];
    done text := CASE
        WHEN NEW.state = 'killed' THEN 'sandbox.destroy'
        WHEN OLD.state = 'starting' AND NEW.state IN ('running', 'failed') THEN 'sandbox.create'
        WHEN OLD.state IN ('running', 'pausing') AND NEW.state = 'paused'
          OR OLD.state = 'pausing' AND NEW.state = 'running' THEN 'sandbox.pause'
        WHEN OLD.state = 'resuming' AND (NEW.state = 'running' OR NEW.state = 'paused' AND NEW.message IS NOT NULL)
            THEN 'sandbox.resume' END;
    good boolean := NOT (NEW.state = 'failed' OR OLD.state = 'pausing' AND NEW.state = 'running'
                         OR OLD.state = 'resuming' AND NEW.state = 'paused');
    changed jsonb := CASE WHEN done IS NULL THEN jsonb_build_object('from', OLD.state, 'to', NEW.state) ELSE '{}' END;
BEGIN
    PERFORM event_write(
        NEW.team_id,
        coalesce(done, 'sandbox.state.changed'),
        CASE WHEN done IS NOT NULL THEN CASE WHEN good THEN 'success' ELSE 'error' END END,
        'sandbox',
        NEW.id,
        CASE WHEN NEW.state <> 'lost' AND (OLD.state = ANY (working) OR NEW.state = ANY (working)) THEN NEW.actor END,
        changed || jsonb_build_object('reason', NEW.reason),
        CASE WHEN done IS NOT NULL AND NOT good THEN coalesce(NEW.message, NEW.reason, done || ' failed') END,
        jsonb_build_object(
            'state', NEW.state, 'template', NEW.template, 'vcpus', NEW.vcpus, 'memory_mb', NEW.memory_mb,
            'disk_mb', NEW.disk_mb, 'timeout_sec', NEW.timeout_sec, 'generation', NEW.generation,
            'created_at', NEW.created_at, 'started_at', NEW.started_at, 'last_active_at', NEW.last_active_at,
            'updated_at', NEW.updated_at, 'metadata', NEW.metadata));
    RETURN NULL;
END $$;
CREATE FUNCTION public.sandboxes_notify() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM pg_notify('wrenn', CASE OLD.state WHEN 'running' THEN 'sandbox ' ELSE 'settled ' END || NEW.id);
    RETURN NULL;
END $$;
CREATE FUNCTION public.sandboxes_reserve() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
DECLARE
    before record;
    after record;
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.host_id IS NOT NULL THEN
        before := sandbox_takes(OLD.state, OLD.vcpus, OLD.memory_mb, OLD.disk_mb);
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.host_id IS NOT NULL THEN
        after := sandbox_takes(NEW.state, NEW.vcpus, NEW.memory_mb, NEW.disk_mb);
    END IF;
    IF TG_OP = 'UPDATE' AND OLD.host_id = NEW.host_id THEN
        IF before IS DISTINCT FROM after THEN
            UPDATE hosts SET cpus_reserved = cpus_reserved + after.cpus - before.cpus,
                             memory_mb_reserved = memory_mb_reserved + after.memory - before.memory,
                             disk_mb_reserved = disk_mb_reserved + after.disk - before.disk,
                             sandboxes = sandboxes + after.count - before.count
             WHERE id = NEW.host_id;
        END IF;
        RETURN NULL;
    END IF;
    IF before IS NOT NULL THEN
        UPDATE hosts SET cpus_reserved = cpus_reserved - before.cpus,
                         memory_mb_reserved = memory_mb_reserved - before.memory,
                         disk_mb_reserved = disk_mb_reserved - before.disk,
                         sandboxes = sandboxes - before.count
         WHERE id = OLD.host_id;
    END IF;
    IF after IS NOT NULL THEN
        UPDATE hosts SET cpus_reserved = cpus_reserved + after.cpus,
                         memory_mb_reserved = memory_mb_reserved + after.memory,
                         disk_mb_reserved = disk_mb_reserved + after.disk,
                         sandboxes = sandboxes + after.count
         WHERE id = NEW.host_id;
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION public.snapshots_event() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM event_write(
        NEW.team_id,
        CASE OLD.state WHEN 'creating' THEN 'snapshot.create' ELSE 'snapshot.delete' END,
        CASE WHEN OLD.state = 'creating' AND NEW.state <> 'ready' THEN 'error' ELSE 'success' END,
        'snapshot',
        NEW.id,
        NEW.actor,
        jsonb_build_object('sandbox_id', NEW.sandbox_id, 'template', NEW.template),
        CASE WHEN OLD.state = 'creating' AND NEW.state <> 'ready' THEN 'the snapshot could not be made' END,
        NULL);
    RETURN NULL;
END $$;
CREATE FUNCTION public.teams_pool() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    WITH plan AS (SELECT * FROM plans WHERE is_default),
         opened AS (
        INSERT INTO pools (team_id, vcpus, memory_mb, disk_mb, spend_limit, vcpus_drawn, memory_mb_drawn, disk_mb_drawn)
        SELECT NEW.id, vcpus, memory_mb, disk_mb, spend_limit, 0, 0, 0 FROM plan RETURNING *)
    INSERT INTO pool_changes (team_id, kind, version, vcpus, memory_mb, disk_mb, spend_limit)
    SELECT team_id, 'open', version, vcpus, memory_mb, disk_mb, spend_limit FROM opened;
    RETURN NULL;
END $$;
CREATE TABLE public.api_keys (
    id text NOT NULL,
    team_id text NOT NULL,
    name text NOT NULL,
    digest bytea NOT NULL,
    key_prefix text NOT NULL,
    created_by text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    last_used_at timestamp with time zone,
    scopes text[] DEFAULT '{read,write}'::text[] NOT NULL,
    expires_at timestamp with time zone,
    sandbox_id text,
    CONSTRAINT api_keys_scopes CHECK (((scopes <@ '{read,write,admin}'::text[]) AND (cardinality(scopes) > 0)))
);
CREATE UNLOGGED TABLE public.attempts (
    what text NOT NULL,
    left_over double precision NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.audit_heads (
    chain text NOT NULL,
    number bigint DEFAULT 0 NOT NULL,
    digest bytea DEFAULT '\x'::bytea NOT NULL
);
CREATE TABLE public.channels (
    id text NOT NULL,
    team_id text NOT NULL,
    name text NOT NULL,
    provider text NOT NULL,
    events text[] NOT NULL,
    config bytea NOT NULL,
    enabled boolean DEFAULT true NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT channels_provider_check CHECK ((provider = ANY (ARRAY['webhook'::text, 'slack'::text, 'discord'::text, 'teams'::text, 'googlechat'::text, 'telegram'::text, 'matrix'::text])))
);
CREATE TABLE public.deliveries (
    sequence bigint NOT NULL,
    id text DEFAULT ('dlv_'::text || substr(replace((gen_random_uuid())::text, '-'::text, ''::text), 1, 20)) NOT NULL,
    channel_id text NOT NULL,
    event_id text,
    type text NOT NULL,
    state text DEFAULT 'pending'::text NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    restarted integer DEFAULT 0 NOT NULL,
    next_at timestamp with time zone DEFAULT now() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    settled_at timestamp with time zone,
    CONSTRAINT deliveries_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'delivered'::text, 'failed'::text])))
);
ALTER TABLE public.deliveries ALTER COLUMN sequence ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.deliveries_sequence_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.delivery_attempts (
    delivery_id text NOT NULL,
    number integer NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    duration_ms integer NOT NULL,
    status integer,
    error text,
    answer text NOT NULL
);
CREATE TABLE public.draws (
    sandbox_id text NOT NULL,
    team_id text NOT NULL,
    draw text NOT NULL,
    vcpus integer NOT NULL,
    memory_mb integer NOT NULL,
    disk_mb integer NOT NULL,
    began_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    CONSTRAINT draws_draw_check CHECK ((draw = ANY (ARRAY['all'::text, 'disk'::text])))
);
CREATE TABLE public.event_head (
    id integer DEFAULT 1 NOT NULL,
    "position" bigint DEFAULT 0 NOT NULL,
    CONSTRAINT event_head_id_check CHECK ((id = 1))
);
CREATE TABLE public.events (
    sequence bigint NOT NULL,
    "position" bigint,
    id text DEFAULT ('evt_'::text || substr(replace((gen_random_uuid())::text, '-'::text, ''::text), 1, 20)) NOT NULL,
    team_id text,
    type text NOT NULL,
    outcome text,
    resource_type text NOT NULL,
    resource_id text NOT NULL,
    actor_type text NOT NULL,
    actor_id text,
    actor_name text,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    error text,
    sandbox jsonb,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT events_actor_type_check CHECK ((actor_type = ANY (ARRAY['user'::text, 'api_key'::text, 'system'::text]))),
    CONSTRAINT events_outcome_check CHECK ((outcome = ANY (ARRAY['success'::text, 'error'::text])))
);
ALTER TABLE public.events ALTER COLUMN sequence ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.events_sequence_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.host_tokens (
    digest bytea NOT NULL,
    host_id text NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    used_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.hosts (
    id text NOT NULL,
    type text DEFAULT 'regular'::text NOT NULL,
    status text DEFAULT 'pending'::text NOT NULL,
    address text,
    arch text DEFAULT ''::text NOT NULL,
    cpus integer DEFAULT 0 NOT NULL,
    memory_mb integer DEFAULT 0 NOT NULL,
    disk_mb integer DEFAULT 0 NOT NULL,
    vmm text DEFAULT ''::text NOT NULL,
    vmm_version text DEFAULT ''::text NOT NULL,
    accelerated boolean DEFAULT false NOT NULL,
    version text DEFAULT ''::text NOT NULL,
    templates text[] DEFAULT '{}'::text[] NOT NULL,
    cpus_reserved integer DEFAULT 0 NOT NULL,
    memory_mb_reserved bigint DEFAULT 0 NOT NULL,
    disk_mb_reserved bigint DEFAULT 0 NOT NULL,
    sandboxes integer DEFAULT 0 NOT NULL,
    token_epoch integer DEFAULT 0 NOT NULL,
    agent_started_at double precision DEFAULT 0 NOT NULL,
    heartbeat_sequence bigint DEFAULT 0 NOT NULL,
    last_heartbeat_at timestamp with time zone,
    created_by text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    machine text DEFAULT ''::text NOT NULL,
    store text DEFAULT ''::text NOT NULL,
    draining boolean DEFAULT false NOT NULL,
    team_id text,
    tags text[] DEFAULT '{}'::text[] NOT NULL,
    availability_zone text,
    installation text DEFAULT ''::text NOT NULL,
    renewed_epoch integer DEFAULT 0 NOT NULL,
    CONSTRAINT hosts_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'online'::text, 'unreachable'::text]))),
    CONSTRAINT hosts_type_check CHECK (((type = ANY (ARRAY['regular'::text, 'byoc'::text])) AND ((type = 'byoc'::text) = (team_id IS NOT NULL))))
)
WITH (fillfactor='70');
CREATE TABLE public.idempotency_keys (
    team_id text NOT NULL,
    key text NOT NULL,
    digest bytea NOT NULL,
    generation integer DEFAULT 1 NOT NULL,
    resource text,
    answer bytea,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    seen_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.identities (
    provider text NOT NULL,
    subject text NOT NULL,
    user_id text NOT NULL,
    login text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.invitations (
    id text NOT NULL,
    team_id text NOT NULL,
    email text NOT NULL,
    role text NOT NULL,
    digest bytea NOT NULL,
    invited_by text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT invitations_email_check CHECK ((email = lower(email))),
    CONSTRAINT invitations_role_check CHECK ((role = ANY (ARRAY['admin'::text, 'member'::text])))
);
CREATE TABLE public.invoices (
    id text NOT NULL,
    team_id text NOT NULL,
    month date NOT NULL,
    currency text NOT NULL,
    total bigint NOT NULL,
    document text NOT NULL,
    csv text NOT NULL,
    issued_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.ledger_entries (
    transaction_id bigint NOT NULL,
    account text NOT NULL,
    amount bigint NOT NULL
);
CREATE TABLE public.ledger_transactions (
    id bigint NOT NULL,
    team_id text NOT NULL,
    period_from timestamp with time zone NOT NULL,
    period_to timestamp with time zone NOT NULL,
    rate_id bigint NOT NULL,
    vcpus integer NOT NULL,
    memory_mb bigint NOT NULL,
    disk_mb bigint NOT NULL,
    written_at timestamp with time zone DEFAULT now() NOT NULL,
    written_by xid8 DEFAULT pg_current_xact_id() NOT NULL,
    CONSTRAINT ledger_transactions_check CHECK ((period_from < period_to))
);
ALTER TABLE public.ledger_transactions ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.ledger_transactions_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.members (
    team_id text NOT NULL,
    user_id text NOT NULL,
    role text NOT NULL,
    joined_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT members_role_check CHECK ((role = ANY (ARRAY['owner'::text, 'admin'::text, 'member'::text])))
);
CREATE TABLE public.plans (
    name text NOT NULL,
    vcpus integer NOT NULL,
    memory_mb bigint NOT NULL,
    disk_mb bigint NOT NULL,
    spend_limit bigint,
    is_default boolean DEFAULT false NOT NULL,
    CONSTRAINT plans_disk_mb_check CHECK ((disk_mb >= 0)),
    CONSTRAINT plans_memory_mb_check CHECK ((memory_mb >= 0)),
    CONSTRAINT plans_spend_limit_check CHECK ((spend_limit >= 0)),
    CONSTRAINT plans_vcpus_check CHECK ((vcpus >= 0))
);
CREATE TABLE public.platform_keys (
    name text NOT NULL,
    private_pem text NOT NULL,
    public_pem text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.pool_caps (
    id text NOT NULL,
    team_id text NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    value text DEFAULT ''::text NOT NULL,
    vcpus integer,
    memory_mb bigint,
    disk_mb bigint,
    vcpus_drawn integer NOT NULL,
    memory_mb_drawn bigint NOT NULL,
    disk_mb_drawn bigint NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT pool_caps_disk_mb_check CHECK ((disk_mb >= 0)),
    CONSTRAINT pool_caps_kind_check CHECK ((kind = ANY (ARRAY['key'::text, 'label'::text]))),
    CONSTRAINT pool_caps_memory_mb_check CHECK ((memory_mb >= 0)),
    CONSTRAINT pool_caps_not_overdrawn CHECK (((vcpus_drawn <= vcpus) AND (memory_mb_drawn <= memory_mb) AND (disk_mb_drawn <= disk_mb))),
    CONSTRAINT pool_caps_vcpus_check CHECK ((vcpus >= 0))
);
CREATE TABLE public.pool_changes (
    id bigint NOT NULL,
    team_id text NOT NULL,
    kind text NOT NULL,
    version integer NOT NULL,
    vcpus integer NOT NULL,
    memory_mb bigint NOT NULL,
    disk_mb bigint NOT NULL,
    spend_limit bigint,
    changed_by text,
    at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT pool_changes_kind_check CHECK ((kind = ANY (ARRAY['open'::text, 'resize'::text, 'close'::text])))
);
ALTER TABLE public.pool_changes ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.pool_changes_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.pool_waiters (
    id bigint NOT NULL,
    team_id text NOT NULL,
    request text,
    capped boolean DEFAULT false NOT NULL,
    joined_at timestamp with time zone DEFAULT now() NOT NULL,
    seen_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
ALTER TABLE public.pool_waiters ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.pool_waiters_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.pools (
    team_id text NOT NULL,
    vcpus integer NOT NULL,
    memory_mb bigint NOT NULL,
    disk_mb bigint NOT NULL,
    spend_limit bigint,
    vcpus_drawn integer NOT NULL,
    memory_mb_drawn bigint NOT NULL,
    disk_mb_drawn bigint NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    opened_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    charged_until timestamp with time zone DEFAULT date_trunc('second'::text, now()) NOT NULL,
    CONSTRAINT pools_disk_mb_check CHECK ((disk_mb >= 0)),
    CONSTRAINT pools_memory_mb_check CHECK ((memory_mb >= 0)),
    CONSTRAINT pools_not_overdrawn CHECK ((((vcpus_drawn >= 0) AND (vcpus_drawn <= vcpus)) AND ((memory_mb_drawn >= 0) AND (memory_mb_drawn <= memory_mb)) AND ((disk_mb_drawn >= 0) AND (disk_mb_drawn <= disk_mb)))),
    CONSTRAINT pools_spend_limit_check CHECK ((spend_limit >= 0)),
    CONSTRAINT pools_vcpus_check CHECK ((vcpus >= 0))
)
WITH (fillfactor='70');
CREATE TABLE public.rate_card (
    id bigint NOT NULL,
    effective_from timestamp with time zone NOT NULL,
    currency text NOT NULL,
    vcpu_hour bigint NOT NULL,
    gib_hour bigint NOT NULL,
    gib_month bigint NOT NULL,
    metered_vcpu_hour bigint NOT NULL,
    metered_gib_hour bigint NOT NULL,
    metered_gib_month bigint NOT NULL,
    created_by text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT rate_card_gib_hour_check CHECK ((gib_hour >= 0)),
    CONSTRAINT rate_card_gib_month_check CHECK ((gib_month >= 0)),
    CONSTRAINT rate_card_metered_gib_hour_check CHECK ((metered_gib_hour >= 0)),
    CONSTRAINT rate_card_metered_gib_month_check CHECK ((metered_gib_month >= 0)),
    CONSTRAINT rate_card_metered_vcpu_hour_check CHECK ((metered_vcpu_hour >= 0)),
    CONSTRAINT rate_card_vcpu_hour_check CHECK ((vcpu_hour >= 0))
);
ALTER TABLE public.rate_card ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.rate_card_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.sample_epochs (
    host_id text NOT NULL,
    epoch double precision NOT NULL,
    taken int8multirange DEFAULT '{}'::int8multirange NOT NULL,
    seen_at timestamp with time zone DEFAULT now() NOT NULL
)
WITH (fillfactor='70');
CREATE TABLE public.samples (
    sandbox_id text NOT NULL,
    at timestamp with time zone NOT NULL,
    cpu_count integer NOT NULL,
    cpu_used_pct real NOT NULL,
    mem_used bigint NOT NULL,
    mem_total bigint NOT NULL,
    mem_cache bigint NOT NULL,
    disk_used bigint NOT NULL,
    disk_total bigint NOT NULL
);
CREATE TABLE public.schema_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.sessions (
    id text NOT NULL,
    user_id text NOT NULL,
    team_id text,
    kind text NOT NULL,
    digest bytea NOT NULL,
    previous_digest bytea,
    rotated_at timestamp with time zone DEFAULT now() NOT NULL,
    address text NOT NULL,
    user_agent text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    last_used_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT sessions_kind_check CHECK ((kind = ANY (ARRAY['token'::text, 'cookie'::text])))
);
CREATE TABLE public.snapshots (
    id text NOT NULL,
    team_id text NOT NULL,
    sandbox_id text NOT NULL,
    template_id text NOT NULL,
    template text NOT NULL,
    image text NOT NULL,
    host_id text,
    state text NOT NULL,
    memory boolean NOT NULL,
    vcpus integer NOT NULL,
    memory_mb integer NOT NULL,
    disk_mb integer NOT NULL,
    size_bytes bigint DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    check_after timestamp with time zone,
    stored_machine text,
    stored_in text,
    actor text,
    CONSTRAINT snapshots_state_check CHECK ((state = ANY (ARRAY['creating'::text, 'ready'::text, 'failed'::text, 'deleting'::text])))
);
CREATE TABLE public.teams (
    id text NOT NULL,
    name text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    slug text NOT NULL,
    deleted_at timestamp with time zone
);
CREATE TABLE public.template_tags (
    template_id text NOT NULL,
    tag text NOT NULL,
    snapshot_id text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.templates (
    id text NOT NULL,
    team_id text,
    name text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    image text
);
CREATE TABLE public.usage_days (
    sandbox_id text NOT NULL,
    day date NOT NULL,
    team_id text NOT NULL,
    cpu_ms bigint NOT NULL,
    memory_mb_ms bigint NOT NULL,
    disk_mb_ms bigint NOT NULL,
    egress_bytes bigint NOT NULL
)
WITH (fillfactor='70');
CREATE TABLE public.user_tokens (
    digest bytea NOT NULL,
    user_id text NOT NULL,
    purpose text NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT user_tokens_purpose_check CHECK ((purpose = ANY (ARRAY['activate'::text, 'reset'::text])))
);
CREATE TABLE public.users (
    id text NOT NULL,
    email text NOT NULL,
    name text NOT NULL,
    password_hash text,
    is_admin boolean DEFAULT false NOT NULL,
    status text DEFAULT 'active'::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT users_email_check CHECK ((email = lower(email))),
    CONSTRAINT users_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'active'::text, 'disabled'::text, 'deleted'::text])))
);
ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_digest_key UNIQUE (digest);
ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_pkey PRIMARY KEY (what);
ALTER TABLE ONLY public.audit_heads
    ADD CONSTRAINT audit_heads_pkey PRIMARY KEY (chain);
ALTER TABLE ONLY public.audit_logs
    ADD CONSTRAINT audit_logs_id_key UNIQUE (id);
ALTER TABLE ONLY public.audit_logs
    ADD CONSTRAINT audit_logs_pkey PRIMARY KEY (chain, number);
ALTER TABLE ONLY public.channels
    ADD CONSTRAINT channels_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.channels
    ADD CONSTRAINT channels_team_id_name_key UNIQUE (team_id, name);
ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT deliveries_id_key UNIQUE (id);
ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT deliveries_pkey PRIMARY KEY (sequence);
ALTER TABLE ONLY public.delivery_attempts
    ADD CONSTRAINT delivery_attempts_pkey PRIMARY KEY (delivery_id, number);
ALTER TABLE ONLY public.event_head
    ADD CONSTRAINT event_head_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_id_key UNIQUE (id);
ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (sequence);
ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_position_key UNIQUE ("position");
ALTER TABLE ONLY public.host_tokens
    ADD CONSTRAINT host_tokens_pkey PRIMARY KEY (digest);
ALTER TABLE ONLY public.hosts
    ADD CONSTRAINT hosts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.idempotency_keys
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (team_id, key);
ALTER TABLE ONLY public.identities
    ADD CONSTRAINT identities_pkey PRIMARY KEY (provider, subject);
ALTER TABLE ONLY public.identities
    ADD CONSTRAINT identities_user_id_provider_key UNIQUE (user_id, provider);
ALTER TABLE ONLY public.invitations
    ADD CONSTRAINT invitations_digest_key UNIQUE (digest);
ALTER TABLE ONLY public.invitations
    ADD CONSTRAINT invitations_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.invitations
    ADD CONSTRAINT invitations_team_id_email_key UNIQUE (team_id, email);
ALTER TABLE ONLY public.invoices
    ADD CONSTRAINT invoices_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.invoices
    ADD CONSTRAINT invoices_team_id_month_key UNIQUE (team_id, month);
ALTER TABLE ONLY public.ledger_entries
    ADD CONSTRAINT ledger_entries_pkey PRIMARY KEY (transaction_id, account);
ALTER TABLE ONLY public.ledger_transactions
    ADD CONSTRAINT ledger_transactions_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.ledger_transactions
    ADD CONSTRAINT ledger_transactions_team_id_period_from_key UNIQUE (team_id, period_from);
ALTER TABLE ONLY public.members
    ADD CONSTRAINT members_pkey PRIMARY KEY (user_id, team_id);
ALTER TABLE ONLY public.plans
    ADD CONSTRAINT plans_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.platform_keys
    ADD CONSTRAINT platform_keys_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.pool_caps
    ADD CONSTRAINT pool_caps_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.pool_caps
    ADD CONSTRAINT pool_caps_team_id_kind_name_value_key UNIQUE (team_id, kind, name, value);
ALTER TABLE ONLY public.pool_changes
    ADD CONSTRAINT pool_changes_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.pool_waiters
    ADD CONSTRAINT pool_waiters_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.pool_waiters
    ADD CONSTRAINT pool_waiters_team_id_request_key UNIQUE (team_id, request);
ALTER TABLE ONLY public.pools
    ADD CONSTRAINT pools_pkey PRIMARY KEY (team_id);
ALTER TABLE ONLY public.rate_card
    ADD CONSTRAINT rate_card_effective_from_key UNIQUE (effective_from);
ALTER TABLE ONLY public.rate_card
    ADD CONSTRAINT rate_card_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.sample_epochs
    ADD CONSTRAINT sample_epochs_pkey PRIMARY KEY (host_id, epoch);
ALTER TABLE ONLY public.samples
    ADD CONSTRAINT samples_pkey PRIMARY KEY (sandbox_id, at);
ALTER TABLE ONLY public.sandboxes
    ADD CONSTRAINT sandboxes_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.schema_version
    ADD CONSTRAINT schema_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_digest_key UNIQUE (digest);
ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_previous_digest_key UNIQUE (previous_digest);
ALTER TABLE ONLY public.snapshots
    ADD CONSTRAINT snapshots_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.teams
    ADD CONSTRAINT teams_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.teams
    ADD CONSTRAINT teams_slug UNIQUE (slug);
ALTER TABLE ONLY public.template_tags
    ADD CONSTRAINT template_tags_pkey PRIMARY KEY (template_id, tag);
ALTER TABLE ONLY public.templates
    ADD CONSTRAINT templates_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.templates
    ADD CONSTRAINT templates_team_id_name_key UNIQUE NULLS NOT DISTINCT (team_id, name);
ALTER TABLE ONLY public.usage_days
    ADD CONSTRAINT usage_days_pkey PRIMARY KEY (team_id, day, sandbox_id);
ALTER TABLE ONLY public.user_tokens
    ADD CONSTRAINT user_tokens_pkey PRIMARY KEY (digest);
ALTER TABLE ONLY public.user_tokens
    ADD CONSTRAINT user_tokens_user_id_purpose_key UNIQUE (user_id, purpose);
ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_email_key UNIQUE (email);
ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_pkey PRIMARY KEY (id);
CREATE INDEX api_keys_sandbox ON public.api_keys USING btree (sandbox_id) WHERE (sandbox_id IS NOT NULL);
CREATE INDEX api_keys_team ON public.api_keys USING btree (team_id, created_at);
CREATE INDEX audit_logs_at ON public.audit_logs USING btree (chain, at);
CREATE INDEX deliveries_channel ON public.deliveries USING btree (channel_id, sequence);
CREATE INDEX deliveries_created ON public.deliveries USING btree (created_at);
CREATE INDEX deliveries_due ON public.deliveries USING btree (next_at) WHERE (state = 'pending'::text);
CREATE INDEX draws_old ON public.draws USING btree (ended_at) WHERE (ended_at IS NOT NULL);
CREATE UNIQUE INDEX draws_open ON public.draws USING btree (sandbox_id) WHERE (ended_at IS NULL);
CREATE INDEX draws_team ON public.draws USING btree (team_id, ended_at) WHERE (ended_at IS NOT NULL);
CREATE INDEX draws_team_open ON public.draws USING btree (team_id) WHERE (ended_at IS NULL);
CREATE INDEX events_created ON public.events USING btree (created_at);
CREATE INDEX events_new ON public.events USING btree (sequence) WHERE ("position" IS NULL);
CREATE INDEX events_team ON public.events USING btree (team_id, "position");
CREATE INDEX host_tokens_host ON public.host_tokens USING btree (host_id);
CREATE INDEX hosts_team ON public.hosts USING btree (team_id) WHERE (team_id IS NOT NULL);
CREATE INDEX idempotency_keys_created ON public.idempotency_keys USING btree (created_at);
CREATE UNIQUE INDEX members_owner ON public.members USING btree (team_id) WHERE (role = 'owner'::text);
CREATE INDEX members_team ON public.members USING btree (team_id, joined_at);
CREATE UNIQUE INDEX plans_default ON public.plans USING btree (is_default) WHERE is_default;
CREATE INDEX pool_changes_team ON public.pool_changes USING btree (team_id, id DESC);
CREATE INDEX pool_waiters_team ON public.pool_waiters USING btree (team_id, id);
CREATE INDEX samples_at ON public.samples USING btree (at);
CREATE INDEX sandboxes_alive ON public.sandboxes USING btree (team_id, created_at DESC, id DESC) WHERE (state <> ALL (ARRAY['failed'::text, 'killed'::text]));
CREATE INDEX sandboxes_check ON public.sandboxes USING btree (check_after) WHERE (check_after IS NOT NULL);
CREATE INDEX sandboxes_host ON public.sandboxes USING btree (host_id) WHERE (state <> ALL (ARRAY['failed'::text, 'killed'::text]));
CREATE INDEX sandboxes_interrupted ON public.sandboxes USING btree (updated_at) WHERE ((state = 'paused'::text) AND (reason = ANY (ARRAY['drain'::text, 'rollback'::text])));
CREATE INDEX sandboxes_metadata ON public.sandboxes USING gin (metadata jsonb_path_ops) WHERE ((state <> ALL (ARRAY['failed'::text, 'killed'::text])) AND (metadata <> '{}'::jsonb));
CREATE INDEX sandboxes_snapshot ON public.sandboxes USING btree (snapshot_id) WHERE ((snapshot_id IS NOT NULL) AND (state <> ALL (ARRAY['failed'::text, 'killed'::text])));
CREATE INDEX sandboxes_team ON public.sandboxes USING btree (team_id, created_at DESC, id DESC);
CREATE INDEX sandboxes_template ON public.sandboxes USING btree (team_id, template_id, created_at DESC, id DESC) WHERE (state <> ALL (ARRAY['failed'::text, 'killed'::text]));
CREATE INDEX sessions_expired ON public.sessions USING btree (expires_at);
CREATE INDEX sessions_user ON public.sessions USING btree (user_id, created_at DESC);
CREATE INDEX snapshots_check ON public.snapshots USING btree (check_after) WHERE (check_after IS NOT NULL);
CREATE INDEX snapshots_team ON public.snapshots USING btree (team_id, created_at DESC, id DESC);
CREATE INDEX template_tags_snapshot ON public.template_tags USING btree (snapshot_id);
CREATE INDEX usage_days_old ON public.usage_days USING btree (day) WHERE (sandbox_id <> ''::text);
CREATE INDEX usage_days_sandbox ON public.usage_days USING btree (sandbox_id, day);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.invoices FOR EACH STATEMENT EXECUTE FUNCTION public.append_only();
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.ledger_entries FOR EACH STATEMENT EXECUTE FUNCTION public.append_only();
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.ledger_transactions FOR EACH STATEMENT EXECUTE FUNCTION public.append_only();
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.pool_changes FOR EACH STATEMENT EXECUTE FUNCTION public.append_only();
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.rate_card FOR EACH STATEMENT EXECUTE FUNCTION public.append_only();
CREATE TRIGGER audit_logs_refuse BEFORE DELETE OR UPDATE OR TRUNCATE ON public.audit_logs FOR EACH STATEMENT EXECUTE FUNCTION public.audit_refuse();
CREATE TRIGGER hosts_event AFTER UPDATE OF status ON public.hosts FOR EACH ROW WHEN (((old.status <> new.status) AND (new.status = ANY (ARRAY['online'::text, 'unreachable'::text])))) EXECUTE FUNCTION public.hosts_event();
CREATE TRIGGER hosts_notify AFTER UPDATE OF address, status ON public.hosts FOR EACH ROW WHEN (((old.address IS DISTINCT FROM new.address) OR (old.status <> new.status))) EXECUTE FUNCTION public.hosts_notify();
CREATE CONSTRAINT TRIGGER ledger_balances AFTER INSERT ON public.ledger_transactions DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.ledger_balances();
CREATE TRIGGER ledger_complete BEFORE INSERT ON public.ledger_entries FOR EACH ROW EXECUTE FUNCTION public.ledger_complete();
CREATE TRIGGER sandboxes_event AFTER UPDATE OF state ON public.sandboxes FOR EACH ROW WHEN ((old.state <> new.state)) EXECUTE FUNCTION public.sandboxes_event();
CREATE TRIGGER sandboxes_notify AFTER UPDATE ON public.sandboxes FOR EACH ROW WHEN ((((old.state = ANY (ARRAY['running'::text, 'pausing'::text, 'resuming'::text])) AND (new.state <> old.state)) OR ((old.state = 'running'::text) AND ((new.generation <> old.generation) OR (new.host_id IS DISTINCT FROM old.host_id))))) EXECUTE FUNCTION public.sandboxes_notify();
CREATE TRIGGER sandboxes_reserve_insert AFTER INSERT OR DELETE ON public.sandboxes FOR EACH ROW EXECUTE FUNCTION public.sandboxes_reserve();
CREATE TRIGGER sandboxes_reserve_update AFTER UPDATE OF state, host_id ON public.sandboxes FOR EACH ROW WHEN (((old.state <> new.state) OR (old.host_id IS DISTINCT FROM new.host_id))) EXECUTE FUNCTION public.sandboxes_reserve();
CREATE TRIGGER sandboxes_take_insert AFTER INSERT OR DELETE ON public.sandboxes FOR EACH ROW EXECUTE FUNCTION public.sandboxes_draw();
CREATE TRIGGER sandboxes_take_update AFTER UPDATE OF state ON public.sandboxes FOR EACH ROW WHEN ((old.state <> new.state)) EXECUTE FUNCTION public.sandboxes_draw();
CREATE TRIGGER snapshots_event AFTER UPDATE OF state ON public.snapshots FOR EACH ROW WHEN ((((old.state = 'creating'::text) AND (new.state <> 'creating'::text)) OR ((old.state = 'ready'::text) AND (new.state = 'deleting'::text)))) EXECUTE FUNCTION public.snapshots_event();
CREATE TRIGGER teams_pool AFTER INSERT ON public.teams FOR EACH ROW EXECUTE FUNCTION public.teams_pool();
ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_created_by_fkey FOREIGN KEY (created_by) REFERENCES public.users(id) ON DELETE SET NULL;
ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_sandbox_id_fkey FOREIGN KEY (sandbox_id) REFERENCES public.sandboxes(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_team_id_fkey FOREIGN KEY (team_id) REFERENCES public.teams(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.channels
    ADD CONSTRAINT channels_team_id_fkey FOREIGN KEY (team_id) REFERENCES public.teams(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT deliveries_channel_id_fkey FOREIGN KEY (channel_id) REFERENCES public.channels(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.delivery_attempts
    ADD CONSTRAINT delivery_attempts_delivery_id_fkey FOREIGN KEY (delivery_id) REFERENCES public.deliveries(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.host_tokens
    ADD CONSTRAINT host_tokens_host_id_fkey FOREIGN KEY (host_id) REFERENCES public.hosts(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.hosts
    ADD CONSTRAINT hosts_created_by_fkey FOREIGN KEY (created_by) REFERENCES public.users(id) ON DELETE SET NULL;
ALTER TABLE ONLY public.hosts
    ADD CONSTRAINT hosts_team_id_fkey FOREIGN KEY (team_id) REFERENCES public.teams(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.idempotency_keys
    ADD CONSTRAINT idempotency_keys_team_id_fkey FOREIGN KEY (team_id) REFERENCES public.teams(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.identities
    ADD CONSTRAINT identities_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.invitations
    ADD CONSTRAINT invitations_invited_by_fkey FOREIGN KEY (invited_by) REFERENCES public.users(id) ON DELETE SET NULL;
ALTER TABLE ONLY public.invitations
    ADD CONSTRAINT invitations_team_id_fkey FOREIGN KEY (team_id) REFERENCES public.teams(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.ledger_entries
    ADD CONSTRAINT ledger_entries_transaction_id_fkey FOREIGN KEY (transaction_id) REFERENCES public.ledger_transactions(id);
ALTER TABLE ONLY public.ledger_transactions
    ADD CONSTRAINT ledger_transactions_rate_id_fkey FOREIGN KEY (rate_id) REFERENCES public.rate_card(id);
ALTER TABLE ONLY public.members
    ADD CONSTRAINT members_team_id_fkey FOREIGN KEY (team_id) REFERENCES public.teams(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.members
    ADD CONSTRAINT members_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.pool_caps
    ADD CONSTRAINT pool_caps_team_id_fkey FOREIGN KEY (team_id) REFERENCES public.pools(team_id) ON DELETE CASCADE;
ALTER TABLE ONLY public.pool_waiters
    ADD CONSTRAINT pool_waiters_team_id_fkey FOREIGN KEY (team_id) REFERENCES public.pools(team_id) ON DELETE CASCADE;
ALTER TABLE ONLY public.pools
    ADD CONSTRAINT pools_team_id_fkey FOREIGN KEY (team_id) REFERENCES public.teams(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.sample_epochs
    ADD CONSTRAINT sample_epochs_host_id_fkey FOREIGN KEY (host_id) REFERENCES public.hosts(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.sandboxes
    ADD CONSTRAINT sandboxes_host_id_fkey FOREIGN KEY (host_id) REFERENCES public.hosts(id) ON DELETE SET NULL;
ALTER TABLE ONLY public.sandboxes
    ADD CONSTRAINT sandboxes_team_id_fkey FOREIGN KEY (team_id) REFERENCES public.teams(id);
ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_team_id_fkey FOREIGN KEY (team_id) REFERENCES public.teams(id) ON DELETE SET NULL;
ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.snapshots
    ADD CONSTRAINT snapshots_host_id_fkey FOREIGN KEY (host_id) REFERENCES public.hosts(id) ON DELETE SET NULL;
ALTER TABLE ONLY public.snapshots
    ADD CONSTRAINT snapshots_team_id_fkey FOREIGN KEY (team_id) REFERENCES public.teams(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.template_tags
    ADD CONSTRAINT template_tags_snapshot_id_fkey FOREIGN KEY (snapshot_id) REFERENCES public.snapshots(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.template_tags
    ADD CONSTRAINT template_tags_template_id_fkey FOREIGN KEY (template_id) REFERENCES public.templates(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.templates
    ADD CONSTRAINT templates_team_id_fkey FOREIGN KEY (team_id) REFERENCES public.teams(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.user_tokens
    ADD CONSTRAINT user_tokens_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
