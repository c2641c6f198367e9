-- Hosts of a team's own (byoc), what a host is like, and what a sandbox asks of its host. Lists of tags are sets

ALTER TABLE hosts
    DROP CONSTRAINT hosts_type_check,
    ADD COLUMN team_id           text REFERENCES teams ON DELETE CASCADE,
    ADD COLUMN tags              text[] NOT NULL DEFAULT '{}',
    ADD COLUMN availability_zone text,
    ADD CONSTRAINT hosts_type_check
        CHECK (type IN ('regular', 'byoc') AND (type = 'byoc') = (team_id IS NOT NULL));
CREATE INDEX hosts_team ON hosts (team_id) WHERE team_id IS NOT NULL;

ALTER TABLE sandboxes
    ADD COLUMN host_tags         text[] NOT NULL DEFAULT '{}',
    ADD COLUMN availability_zone text;

-- What happens to a team's own host is told to the team

CREATE OR REPLACE FUNCTION hosts_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM event_write(
        NEW.team_id, CASE NEW.status WHEN 'online' THEN 'host.up' ELSE 'host.down' END, NULL, 'host', NEW.id,
        NULL, jsonb_build_object('from', OLD.status, 'address', NEW.address), NULL, NULL);
    RETURN NULL;
END $$;
