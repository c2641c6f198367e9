DROP TABLE attempts;
DROP INDEX api_keys_sandbox;
DELETE FROM api_keys WHERE sandbox_id IS NOT NULL;
ALTER TABLE api_keys
    DROP CONSTRAINT api_keys_scopes,
    DROP COLUMN sandbox_id,
    DROP COLUMN expires_at,
    DROP COLUMN scopes;
DROP TABLE invitations;
DROP INDEX members_team;
DROP INDEX members_owner;
ALTER TABLE teams
    DROP COLUMN deleted_at,
    DROP COLUMN slug;
DROP TABLE sessions;
DROP TABLE user_tokens;
DROP TABLE identities;
UPDATE users SET status = 'disabled' WHERE status NOT IN ('active', 'disabled');
ALTER TABLE users
    DROP COLUMN updated_at,
    DROP CONSTRAINT users_status_check;
ALTER TABLE users ADD CONSTRAINT users_status_check CHECK (status IN ('active', 'disabled'));
