-- Until when a pool's time is in the ledger; whole seconds

ALTER TABLE pools ADD COLUMN charged_until timestamptz NOT NULL DEFAULT date_trunc('second', now());

CREATE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$;

-- A transaction is a pool of one size, at one price, from when to when, within one month. Its entries are in millionths of the
-- currency's unit: what the team owes is positive, what was earned negative, and together they are nothing

CREATE TABLE ledger_transactions (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    team_id     text NOT NULL,
    period_from timestamptz NOT NULL,
    period_to   timestamptz NOT NULL,
    rate_id     bigint NOT NULL REFERENCES rate_card (id),
    vcpus       integer NOT NULL,
    memory_mb   bigint NOT NULL,
    disk_mb     bigint NOT NULL,
    written_at  timestamptz NOT NULL DEFAULT now(),
    written_by  xid8 NOT NULL DEFAULT pg_current_xact_id(),
    UNIQUE (team_id, period_from),
    CHECK (period_from < period_to)
);

CREATE TABLE ledger_entries (
    transaction_id bigint NOT NULL REFERENCES ledger_transactions (id),
    account        text NOT NULL,
    amount         bigint NOT NULL,
    PRIMARY KEY (transaction_id, account)
);

CREATE FUNCTION ledger_balances() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT count(*) < 2 OR sum(amount) <> 0 FROM ledger_entries WHERE transaction_id = NEW.id) THEN
        RAISE EXCEPTION 'transaction % of the ledger does not balance', NEW.id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER ledger_balances AFTER INSERT ON ledger_transactions
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_balances();

-- With what is written is written all of it
CREATE FUNCTION ledger_complete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT written_by <> pg_current_xact_id() FROM ledger_transactions WHERE id = NEW.transaction_id) THEN
        RAISE EXCEPTION 'transaction % of the ledger is closed', NEW.transaction_id;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER ledger_complete BEFORE INSERT ON ledger_entries FOR EACH ROW EXECUTE FUNCTION ledger_complete();

CREATE TABLE invoices (
    id        text PRIMARY KEY,
    team_id   text NOT NULL,
    month     date NOT NULL,
    currency  text NOT NULL,
    total     bigint NOT NULL,
    document  text NOT NULL,
    csv       text NOT NULL,
    issued_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (team_id, month)
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON rate_card
    FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON pool_changes
    FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_transactions
    FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON invoices
    FOR EACH STATEMENT EXECUTE FUNCTION append_only();
