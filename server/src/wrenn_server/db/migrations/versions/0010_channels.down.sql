CREATE OR REPLACE FUNCTION events_publish(at_most integer) RETURNS integer LANGUAGE plpgsql AS $$
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
DROP TABLE delivery_attempts;
DROP TABLE deliveries;
DROP TABLE channels;
