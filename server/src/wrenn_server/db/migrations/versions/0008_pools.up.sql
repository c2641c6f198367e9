-- Prices, in millionths of the currency's unit. Append-only: the newest one that has begun is in force. `metered_*` is
-- what the same would cost by the second of each sandbox, for comparison

CREATE TABLE rate_card (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    effective_from   timestamptz NOT NULL UNIQUE,
    currency         text NOT NULL,
    vcpu_hour        bigint NOT NULL CHECK (vcpu_hour >= 0),
    gib_hour         bigint NOT NULL CHECK (gib_hour >= 0),
    gib_month        bigint NOT NULL CHECK (gib_month >= 0),
    metered_vcpu_hour bigint NOT NULL CHECK (metered_vcpu_hour >= 0),
    metered_gib_hour bigint NOT NULL CHECK (metered_gib_hour >= 0),
    metered_gib_month bigint NOT NULL CHECK (metered_gib_month >= 0),
    created_by       text,
    created_at       timestamptz NOT NULL DEFAULT now()
);
INSERT INTO rate_card (effective_from, currency, vcpu_hour, gib_hour, gib_month, metered_vcpu_hour, metered_gib_hour,
                       metered_gib_month)
     VALUES ('1970-01-01Z', 'USD', 0, 0, 0, 0, 0, 0);

CREATE TABLE plans (
    name        text PRIMARY KEY,
    vcpus       integer NOT NULL CHECK (vcpus >= 0),
    memory_mb   bigint NOT NULL CHECK (memory_mb >= 0),
    disk_mb     bigint NOT NULL CHECK (disk_mb >= 0),
    spend_limit bigint CHECK (spend_limit >= 0),
    is_default  boolean NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX plans_default ON plans (is_default) WHERE is_default;

-- What a team has bought, and what its sandboxes draw of it. A team without a row may have what the hosts have.
-- Lock order: sandbox, host, pool, and under the pool's lock its caps and its queue

CREATE TABLE pools (
    team_id         text PRIMARY KEY REFERENCES teams (id) ON DELETE CASCADE,
    vcpus           integer NOT NULL CHECK (vcpus >= 0),
    memory_mb       bigint NOT NULL CHECK (memory_mb >= 0),
    disk_mb         bigint NOT NULL CHECK (disk_mb >= 0),
    spend_limit     bigint CHECK (spend_limit >= 0),
    vcpus_drawn     integer NOT NULL,
    memory_mb_drawn bigint NOT NULL,
    disk_mb_drawn   bigint NOT NULL,
    version         integer NOT NULL DEFAULT 1,
    opened_at       timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pools_not_overdrawn CHECK (
        vcpus_drawn BETWEEN 0 AND vcpus AND memory_mb_drawn BETWEEN 0 AND memory_mb AND disk_mb_drawn BETWEEN 0 AND disk_mb)
) WITH (fillfactor = 70);

-- Outlives the team
CREATE TABLE pool_changes (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    team_id     text NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('open', 'resize', 'close')),
    version     integer NOT NULL,
    vcpus       integer NOT NULL,
    memory_mb   bigint NOT NULL,
    disk_mb     bigint NOT NULL,
    spend_limit bigint,
    changed_by  text,
    at          timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX pool_changes_team ON pool_changes (team_id, id DESC);

-- How much of a pool the sandboxes of one key, or with one label, may draw. Null: no bound
CREATE TABLE pool_caps (
    id              text PRIMARY KEY,
    team_id         text NOT NULL REFERENCES pools (team_id) ON DELETE CASCADE,
    kind            text NOT NULL CHECK (kind IN ('key', 'label')),
    name            text NOT NULL,
    value           text NOT NULL DEFAULT '',
    vcpus           integer CHECK (vcpus >= 0),
    memory_mb       bigint CHECK (memory_mb >= 0),
    disk_mb         bigint CHECK (disk_mb >= 0),
    vcpus_drawn     integer NOT NULL,
    memory_mb_drawn bigint NOT NULL,
    disk_mb_drawn   bigint NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (team_id, kind, name, value),
    CONSTRAINT pool_caps_not_overdrawn CHECK (
        vcpus_drawn <= vcpus AND memory_mb_drawn <= memory_mb AND disk_mb_drawn <= disk_mb)
);

-- Who waits for room, in the order of their ids. `seen_at` is the lease: whoever is silent has lost the place.
-- `capped`: waits for a cap and not for the pool, so does not keep others waiting
CREATE TABLE pool_waiters (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    team_id   text NOT NULL REFERENCES pools (team_id) ON DELETE CASCADE,
    request   text,
    capped    boolean NOT NULL DEFAULT false,
    joined_at timestamptz NOT NULL DEFAULT now(),
    seen_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (team_id, request)
);
CREATE INDEX pool_waiters_team ON pool_waiters (team_id, id);

-- `key_id`: with which key it was made. `pool_ticket`: the place in the queue that its last start came from
ALTER TABLE sandboxes
    ADD COLUMN key_id      text,
    ADD COLUMN pool_ticket bigint;

-- What each sandbox drew from when to when: all of its shape while it runs, its disk while it rests
CREATE TABLE draws (
    sandbox_id text NOT NULL,
    team_id    text NOT NULL,
    draw       text NOT NULL CHECK (draw IN ('all', 'disk')),
    vcpus      integer NOT NULL,
    memory_mb  integer NOT NULL,
    disk_mb    integer NOT NULL,
    began_at   timestamptz NOT NULL,
    ended_at   timestamptz
);
CREATE UNIQUE INDEX draws_open ON draws (sandbox_id) WHERE ended_at IS NULL;
CREATE INDEX draws_team_open ON draws (team_id) WHERE ended_at IS NULL;
CREATE INDEX draws_team ON draws (team_id, ended_at) WHERE ended_at IS NOT NULL;

INSERT INTO draws (sandbox_id, team_id, draw, vcpus, memory_mb, disk_mb, began_at)
SELECT id, team_id, CASE state WHEN 'paused' THEN 'disk' ELSE 'all' END, vcpus, memory_mb, disk_mb, now()
  FROM sandboxes WHERE state NOT IN ('failed', 'killed');

-- Only a start and a resume let a draw grow: what hosts report later is never refused. One that is paused for a move to
-- another host or for a rollback goes on at once, so it keeps its draw

CREATE FUNCTION sandbox_draw(state text, reason text, before text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN state IN ('starting', 'resuming') THEN 'all'
                WHEN state IN ('failed', 'killed') THEN 'none'
                WHEN state = 'paused' AND before = 'all' AND coalesce(reason, '') NOT IN ('drain', 'rollback')
                     THEN 'disk'
                ELSE before END
$$;

-- Whoever draws while there is no pool holds this shared, so that whoever opens one knows what is drawn

CREATE FUNCTION pool_key(team text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT hashtextextended('pool ' || team, 0)
$$;

-- WRP01: the pool has no room; DETAIL is JSON, see `PoolExhausted`

CREATE FUNCTION pool_take(sandbox sandboxes, more_cpus integer, more_memory bigint, more_disk bigint) RETURNS void
LANGUAGE plpgsql AS $$
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

-- Whoever waits looks again. Only when somebody does, because every NOTIFY makes commits wait for each other

CREATE FUNCTION pool_notify(team text) RETURNS void LANGUAGE sql AS $$
    SELECT pg_notify('wrenn', 'pool ' || team) WHERE EXISTS (SELECT FROM pool_waiters WHERE team_id = team)
$$;

CREATE FUNCTION sandboxes_draw() RETURNS trigger LANGUAGE plpgsql AS $$
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

-- Triggers fire in the order of their names: these after sandboxes_reserve_*, so that hosts are locked before pools

CREATE TRIGGER sandboxes_take_insert AFTER INSERT OR DELETE ON sandboxes
    FOR EACH ROW EXECUTE FUNCTION sandboxes_draw();
CREATE TRIGGER sandboxes_take_update AFTER UPDATE OF state ON sandboxes
    FOR EACH ROW WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION sandboxes_draw();

-- A new team has the pool of the default plan, if there is one

CREATE FUNCTION teams_pool() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WITH plan AS (SELECT * FROM plans WHERE is_default),
         opened AS (
        INSERT INTO pools (team_id, vcpus, memory_mb, disk_mb, spend_limit, vcpus_drawn, memory_mb_drawn, disk_mb_drawn)
        SELECT NEW.id, vcpus, memory_mb, disk_mb, spend_limit, 0, 0, 0 FROM plan RETURNING *)
    INSERT INTO pool_changes (team_id, kind, version, vcpus, memory_mb, disk_mb, spend_limit)
    SELECT team_id, 'open', version, vcpus, memory_mb, disk_mb, spend_limit FROM opened;
    RETURN NULL;
END $$;
CREATE TRIGGER teams_pool AFTER INSERT ON teams FOR EACH ROW EXECUTE FUNCTION teams_pool();
