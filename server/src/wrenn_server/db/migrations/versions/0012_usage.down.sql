DROP INDEX draws_old;
DROP TABLE sample_epochs;
DROP TABLE usage_days;
