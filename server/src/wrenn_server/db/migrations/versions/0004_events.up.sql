-- Who asked for what is being done: `user usr_…`, `api_key key_…`; null: the platform by itself

ALTER TABLE sandboxes ADD COLUMN actor text;
ALTER TABLE snapshots ADD COLUMN actor text;

-- Events. Transactions may commit in another order than they began, so `sequence` is no place to go on from: a lower one
-- may come later. `position` is given to events that are on record already, by one at a time, and only grows

CREATE TABLE events (
    sequence      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    position      bigint UNIQUE,
    id            text NOT NULL UNIQUE DEFAULT 'evt_' || substr(replace(gen_random_uuid()::text, '-', ''), 1, 20),
    team_id       text,
    type          text NOT NULL,
    outcome       text CHECK (outcome IN ('success', 'error')),
    resource_type text NOT NULL,
    resource_id   text NOT NULL,
    actor_type    text NOT NULL CHECK (actor_type IN ('user', 'api_key', 'system')),
    actor_id      text,
    actor_name    text,
    metadata      jsonb NOT NULL DEFAULT '{}',
    error         text,
    sandbox       jsonb,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX events_new ON events (sequence) WHERE position IS NULL;
CREATE INDEX events_team ON events (team_id, position);
CREATE INDEX events_created ON events (created_at);

CREATE TABLE event_head (
    id       integer PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    position bigint NOT NULL DEFAULT 0
);
INSERT INTO event_head DEFAULT VALUES;

CREATE FUNCTION actor_name(kind text, id text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE kind WHEN 'user' THEN (SELECT u.email FROM users u WHERE u.id = $2)
                     WHEN 'api_key' THEN (SELECT k.name FROM api_keys k WHERE k.id = $2) END
$$;

CREATE FUNCTION event_write(
    team_id text, type text, outcome text, resource_type text, resource_id text, actor text, metadata jsonb,
    error text, sandbox jsonb
) RETURNS void LANGUAGE plpgsql AS $$
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

-- Every change of a sandbox's state is one event: the end of what was begun, or the change itself. What begins or ends
-- something is somebody's doing; all else is the platform's

CREATE FUNCTION sandboxes_event() RETURNS trigger LANGUAGE plpgsql AS $$
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
CREATE TRIGGER sandboxes_event AFTER UPDATE OF state ON sandboxes
    FOR EACH ROW WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION sandboxes_event();

CREATE FUNCTION snapshots_event() RETURNS trigger LANGUAGE plpgsql AS $$
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
CREATE TRIGGER snapshots_event AFTER UPDATE OF state ON snapshots
    FOR EACH ROW WHEN (OLD.state = 'creating' AND NEW.state <> 'creating' OR OLD.state = 'ready' AND NEW.state = 'deleting')
    EXECUTE FUNCTION snapshots_event();

-- Hosts are the platform's: so are their events

CREATE FUNCTION hosts_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM event_write(NULL, CASE NEW.status WHEN 'online' THEN 'host.up' ELSE 'host.down' END, NULL, 'host', NEW.id,
                        NULL, jsonb_build_object('from', OLD.status, 'address', NEW.address), NULL, NULL);
    RETURN NULL;
END $$;
CREATE TRIGGER hosts_event AFTER UPDATE OF status ON hosts
    FOR EACH ROW WHEN (OLD.status <> NEW.status AND NEW.status IN ('online', 'unreachable'))
    EXECUTE FUNCTION hosts_event();

-- Gives positions to what is on record. Each statement of a function sees what was committed when it began, so what the
-- last one who had the lock has numbered is not numbered again

CREATE FUNCTION events_publish(at_most integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    head bigint;
    teams text[];
    count integer;
BEGIN
    SELECT position INTO head FROM event_head FOR UPDATE;
    WITH new AS (
        SELECT sequence, row_number() OVER (ORDER BY sequence) AS number
          FROM (SELECT sequence FROM events WHERE position IS NULL ORDER BY sequence LIMIT at_most) oldest),
    numbered AS (
        UPDATE events e SET position = head + new.number FROM new WHERE e.sequence = new.sequence RETURNING e.team_id)
    SELECT array_agg(DISTINCT coalesce(team_id, '')), count(*) INTO teams, count FROM numbered;
    IF count > 0 THEN
        UPDATE event_head SET position = head + count;
        PERFORM pg_notify('wrenn', 'events ' || team) FROM unnest(teams) AS team;
    END IF;
    RETURN count;
END $$;
