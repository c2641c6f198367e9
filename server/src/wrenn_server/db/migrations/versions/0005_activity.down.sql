ALTER TABLE sandboxes
    DROP COLUMN activity;
