DROP TABLE idempotency_keys;
DROP TABLE samples;
DROP TABLE template_tags;
DROP TABLE snapshots;
DELETE FROM templates WHERE id = 'tpl_base0000000000000000';
ALTER TABLE templates DROP COLUMN image;
CREATE OR REPLACE TRIGGER sandboxes_notify AFTER UPDATE ON sandboxes
    FOR EACH ROW WHEN (OLD.state = 'running'
        AND (NEW.state <> OLD.state OR NEW.generation <> OLD.generation OR NEW.host_id IS DISTINCT FROM OLD.host_id))
    EXECUTE FUNCTION sandboxes_notify();
CREATE OR REPLACE FUNCTION sandboxes_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('wrenn', 'sandbox ' || NEW.id);
    RETURN NULL;
END $$;
DROP INDEX sandboxes_metadata;
DROP INDEX sandboxes_template;
DROP INDEX sandboxes_snapshot;
ALTER TABLE sandboxes
    DROP COLUMN snapshot_id,
    DROP COLUMN image,
    DROP COLUMN mask_host,
    DROP COLUMN traffic_token,
    DROP COLUMN network,
    DROP COLUMN saved_memory,
    DROP COLUMN auto_resume,
    DROP COLUMN pause_memory;
