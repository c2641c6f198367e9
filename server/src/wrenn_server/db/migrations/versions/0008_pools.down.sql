DROP TRIGGER teams_pool ON teams;
DROP FUNCTION teams_pool;
DROP TRIGGER sandboxes_take_update ON sandboxes;
DROP TRIGGER sandboxes_take_insert ON sandboxes;
DROP FUNCTION sandboxes_draw;
DROP FUNCTION pool_take;
DROP FUNCTION pool_notify;
DROP FUNCTION pool_key;
DROP FUNCTION sandbox_draw;
DROP TABLE draws;
ALTER TABLE sandboxes
    DROP COLUMN pool_ticket,
    DROP COLUMN key_id;
DROP TABLE pool_waiters;
DROP TABLE pool_caps;
DROP TABLE pool_changes;
DROP TABLE pools;
DROP TABLE plans;
DROP TABLE rate_card;
