-- Sandboxes: what ends and wakes them, what they may reach, what they started from

ALTER TABLE sandboxes
    ADD COLUMN pause_memory  boolean NOT NULL DEFAULT true,
    ADD COLUMN auto_resume   boolean NOT NULL DEFAULT false,
    ADD COLUMN saved_memory  boolean,
    ADD COLUMN network       jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN traffic_token text,
    ADD COLUMN mask_host     text,
    ADD COLUMN image         text NOT NULL DEFAULT '',
    ADD COLUMN snapshot_id   text;
UPDATE sandboxes SET image = template;
CREATE INDEX sandboxes_snapshot ON sandboxes (snapshot_id)
    WHERE snapshot_id IS NOT NULL AND state NOT IN ('failed', 'killed');

-- What lists filter by

CREATE INDEX sandboxes_template ON sandboxes (team_id, template_id, created_at DESC, id DESC)
    WHERE state NOT IN ('failed', 'killed');
CREATE INDEX sandboxes_metadata ON sandboxes USING gin (metadata jsonb_path_ops)
    WHERE state NOT IN ('failed', 'killed') AND metadata <> '{}';

-- Channel `wrenn`: also that a pause or resume has ended, for those who wait for it

CREATE OR REPLACE FUNCTION sandboxes_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('wrenn', CASE OLD.state WHEN 'running' THEN 'sandbox ' ELSE 'settled ' END || NEW.id);
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER sandboxes_notify AFTER UPDATE ON sandboxes
    FOR EACH ROW WHEN (
        OLD.state IN ('running', 'pausing', 'resuming') AND NEW.state <> OLD.state
        OR OLD.state = 'running'
            AND (NEW.generation <> OLD.generation OR NEW.host_id IS DISTINCT FROM OLD.host_id))
    EXECUTE FUNCTION sandboxes_notify();

-- Templates. `image`: the root file system that hosts know it by; null for those that are made of snapshots

ALTER TABLE templates ADD COLUMN image text;
UPDATE templates SET image = name WHERE team_id IS NULL;
INSERT INTO templates (id, name, image) VALUES ('tpl_base0000000000000000', 'base', 'minimal')
    ON CONFLICT (team_id, name) DO NOTHING;

-- Snapshots: saved sandboxes that others start from. `template_id`, `template`, `image`: what the source's disk lies on

CREATE TABLE snapshots (
    id          text PRIMARY KEY,
    team_id     text NOT NULL REFERENCES teams ON DELETE CASCADE,
    sandbox_id  text NOT NULL,
    template_id text NOT NULL,
    template    text NOT NULL,
    image       text NOT NULL,
    host_id     text REFERENCES hosts ON DELETE SET NULL,
    state       text NOT NULL CHECK (state IN ('creating', 'ready', 'failed', 'deleting')),
    memory      boolean NOT NULL,
    vcpus       integer NOT NULL,
    memory_mb   integer NOT NULL,
    disk_mb     integer NOT NULL,
    size_bytes  bigint NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    check_after timestamptz
);
CREATE INDEX snapshots_team ON snapshots (team_id, created_at DESC, id DESC);
CREATE INDEX snapshots_check ON snapshots (check_after) WHERE check_after IS NOT NULL;

-- `name:tag` of a template leads to a snapshot

CREATE TABLE template_tags (
    template_id text NOT NULL REFERENCES templates ON DELETE CASCADE,
    tag         text NOT NULL,
    snapshot_id text NOT NULL REFERENCES snapshots ON DELETE CASCADE,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (template_id, tag)
);
CREATE INDEX template_tags_snapshot ON template_tags (snapshot_id);

-- What sandboxes used, every few seconds

CREATE TABLE samples (
    sandbox_id   text NOT NULL,
    at           timestamptz NOT NULL,
    cpu_count    integer NOT NULL,
    cpu_used_pct real NOT NULL,
    mem_used     bigint NOT NULL,
    mem_total    bigint NOT NULL,
    mem_cache    bigint NOT NULL,
    disk_used    bigint NOT NULL,
    disk_total   bigint NOT NULL,
    PRIMARY KEY (sandbox_id, at)
);
CREATE INDEX samples_at ON samples (at);

-- Answers that are given again when the same request comes again. `generation`: the fencing number of whoever carries
-- the request out; `resource`: the id of what it makes, written together with it; `seen_at`: its last sign of life

CREATE TABLE idempotency_keys (
    team_id    text NOT NULL REFERENCES teams ON DELETE CASCADE,
    key        text NOT NULL,
    digest     bytea NOT NULL,
    generation integer NOT NULL DEFAULT 1,
    resource   text,
    answer     bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (team_id, key)
);
CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at);
