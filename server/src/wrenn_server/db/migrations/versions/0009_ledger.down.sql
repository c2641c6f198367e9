DROP TABLE invoices;
DROP TABLE ledger_entries;
DROP TABLE ledger_transactions;
DROP FUNCTION ledger_complete;
DROP FUNCTION ledger_balances;
DROP TRIGGER append_only ON pool_changes;
DROP TRIGGER append_only ON rate_card;
DROP FUNCTION append_only;
ALTER TABLE pools DROP COLUMN charged_until;
