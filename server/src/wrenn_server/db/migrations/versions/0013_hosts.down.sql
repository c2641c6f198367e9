CREATE OR REPLACE FUNCTION hosts_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM event_write(NULL, CASE NEW.status WHEN 'online' THEN 'host.up' ELSE 'host.down' END, NULL, 'host', NEW.id,
                        NULL, jsonb_build_object('from', OLD.status, 'address', NEW.address), NULL, NULL);
    RETURN NULL;
END $$;
ALTER TABLE sandboxes
    DROP COLUMN availability_zone,
    DROP COLUMN host_tags;
-- As regular ones they would serve everybody.
DELETE FROM hosts WHERE type = 'byoc';
ALTER TABLE hosts
    DROP CONSTRAINT hosts_type_check,
    DROP COLUMN availability_zone,
    DROP COLUMN tags,
    DROP COLUMN team_id,
    ADD CONSTRAINT hosts_type_check CHECK (type = 'regular');
