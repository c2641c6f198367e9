DROP TABLE idempotency_keys;
DROP TABLE samples;
DROP TABLE template_tags;
DROP TABLE snapshots;
DELETE FROM templates WHERE id = 'tpl_base0000000000000000';
ALTER TABLE templates DROP COLUMN image;
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
