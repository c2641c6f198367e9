-- Users, teams and keys

CREATE TABLE users (
    id            text PRIMARY KEY,
    email         text NOT NULL UNIQUE CHECK (email = lower(email)),
    name          text NOT NULL,
    password_hash text,
    is_admin      boolean NOT NULL DEFAULT false,
    status        text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled')),
    created_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE teams (
    id         text PRIMARY KEY,
    name       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE members (
    team_id   text NOT NULL REFERENCES teams ON DELETE CASCADE,
    user_id   text NOT NULL REFERENCES users ON DELETE CASCADE,
    role      text NOT NULL CHECK (role IN ('owner', 'admin', 'member')),
    joined_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, team_id)
);

CREATE TABLE api_keys (
    id           text PRIMARY KEY,
    team_id      text NOT NULL REFERENCES teams ON DELETE CASCADE,
    name         text NOT NULL,
    digest       bytea NOT NULL UNIQUE,
    key_prefix   text NOT NULL,
    created_by   text REFERENCES users ON DELETE SET NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz
);
CREATE INDEX api_keys_team ON api_keys (team_id, created_at);

-- Keys of the platform itself: `ca` signs the hosts' certificates, `signing` all tokens

CREATE TABLE platform_keys (
    name        text PRIMARY KEY,
    private_pem text NOT NULL,
    public_pem  text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- Hosts. `*_reserved` and `sandboxes` are kept by the trigger `sandboxes_reserve` alone

CREATE TABLE hosts (
    id                 text PRIMARY KEY,
    type               text NOT NULL DEFAULT 'regular' CHECK (type IN ('regular')),
    status             text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'online', 'unreachable')),
    address            text,
    arch               text NOT NULL DEFAULT '',
    cpus               integer NOT NULL DEFAULT 0,
    memory_mb          integer NOT NULL DEFAULT 0,
    disk_mb            integer NOT NULL DEFAULT 0,
    vmm                text NOT NULL DEFAULT '',
    vmm_version        text NOT NULL DEFAULT '',
    accelerated        boolean NOT NULL DEFAULT false,
    version            text NOT NULL DEFAULT '',
    templates          text[] NOT NULL DEFAULT '{}',
    cpus_reserved      integer NOT NULL DEFAULT 0,
    memory_mb_reserved bigint NOT NULL DEFAULT 0,
    disk_mb_reserved   bigint NOT NULL DEFAULT 0,
    sandboxes          integer NOT NULL DEFAULT 0,
    token_epoch        integer NOT NULL DEFAULT 0,
    agent_started_at   double precision NOT NULL DEFAULT 0,
    heartbeat_sequence bigint NOT NULL DEFAULT 0,
    last_heartbeat_at  timestamptz,
    created_by         text REFERENCES users ON DELETE SET NULL,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);

CREATE TABLE host_tokens (
    digest     bytea PRIMARY KEY,
    host_id    text NOT NULL REFERENCES hosts ON DELETE CASCADE,
    expires_at timestamptz NOT NULL,
    used_at    timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX host_tokens_host ON host_tokens (host_id);

-- Templates. Without a team: a template of the platform, there for everybody

CREATE TABLE templates (
    id         text PRIMARY KEY,
    team_id    text REFERENCES teams ON DELETE CASCADE,
    name       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (team_id, name)
);
INSERT INTO templates (id, name) VALUES ('tpl_minimal0000000000000', 'minimal');

-- Sandboxes. `check_after` is set while somebody works on the row or something about it must be looked into; the
-- reconciler takes rows whose time has come

CREATE TABLE sandboxes (
    id             text PRIMARY KEY,
    team_id        text NOT NULL REFERENCES teams,
    template_id    text NOT NULL,
    template       text NOT NULL,
    host_id        text REFERENCES hosts ON DELETE SET NULL,
    generation     integer NOT NULL DEFAULT 1,
    state          text NOT NULL CHECK (state IN
        ('starting', 'running', 'pausing', 'paused', 'resuming', 'lost', 'failed', 'killing', 'killed')),
    vcpus          integer NOT NULL,
    memory_mb      integer NOT NULL,
    disk_mb        integer NOT NULL,
    timeout_sec    integer NOT NULL DEFAULT 0,
    on_timeout     text NOT NULL DEFAULT 'kill' CHECK (on_timeout IN ('kill', 'pause')),
    metadata       jsonb NOT NULL DEFAULT '{}',
    access_token   text NOT NULL,
    envd_version   text NOT NULL DEFAULT '',
    reason         text,
    message        text,
    console        text,
    created_at     timestamptz NOT NULL DEFAULT now(),
    started_at     timestamptz,
    last_active_at timestamptz,
    updated_at     timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz,
    check_after    timestamptz
) WITH (fillfactor = 80);
CREATE INDEX sandboxes_team ON sandboxes (team_id, created_at DESC, id DESC);
CREATE INDEX sandboxes_alive ON sandboxes (team_id, created_at DESC, id DESC)
    WHERE state NOT IN ('failed', 'killed');
CREATE INDEX sandboxes_host ON sandboxes (host_id) WHERE state NOT IN ('failed', 'killed');
CREATE INDEX sandboxes_check ON sandboxes (check_after) WHERE check_after IS NOT NULL;

-- What a sandbox takes from its host in each state

CREATE FUNCTION sandbox_takes(
    state text, vcpus integer, memory_mb integer, disk_mb integer,
    OUT cpus integer, OUT memory integer, OUT disk integer, OUT count integer
) LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN state IN ('failed', 'killed', 'paused') THEN 0 ELSE vcpus END,
           CASE WHEN state IN ('failed', 'killed', 'paused') THEN 0 ELSE memory_mb END,
           CASE WHEN state IN ('failed', 'killed') THEN 0 WHEN state = 'paused' THEN disk_mb + memory_mb ELSE disk_mb END,
           CASE WHEN state IN ('failed', 'killed') THEN 0 ELSE 1 END
$$;

CREATE FUNCTION sandboxes_reserve() RETURNS trigger LANGUAGE plpgsql AS $$
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

CREATE TRIGGER sandboxes_reserve_insert AFTER INSERT OR DELETE ON sandboxes
    FOR EACH ROW EXECUTE FUNCTION sandboxes_reserve();
CREATE TRIGGER sandboxes_reserve_update AFTER UPDATE OF state, host_id ON sandboxes
    FOR EACH ROW WHEN (OLD.state <> NEW.state OR OLD.host_id IS DISTINCT FROM NEW.host_id)
    EXECUTE FUNCTION sandboxes_reserve();

-- Channel `wrenn`: a running sandbox stopped being where it was, or a host moved. Only then, because every NOTIFY makes
-- commits wait for each other

CREATE FUNCTION sandboxes_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('wrenn', 'sandbox ' || NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER sandboxes_notify AFTER UPDATE ON sandboxes
    FOR EACH ROW WHEN (OLD.state = 'running'
        AND (NEW.state <> OLD.state OR NEW.generation <> OLD.generation OR NEW.host_id IS DISTINCT FROM OLD.host_id))
    EXECUTE FUNCTION sandboxes_notify();

CREATE FUNCTION hosts_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('wrenn', 'host ' || NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER hosts_notify AFTER UPDATE OF address, status ON hosts
    FOR EACH ROW WHEN (OLD.address IS DISTINCT FROM NEW.address OR OLD.status <> NEW.status)
    EXECUTE FUNCTION hosts_notify();
