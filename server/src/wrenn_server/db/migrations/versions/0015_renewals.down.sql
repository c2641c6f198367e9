-- Agents that have not used their new token yet must register anew.
ALTER TABLE hosts DROP COLUMN renewed_epoch;
