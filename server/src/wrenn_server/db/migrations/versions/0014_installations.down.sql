ALTER TABLE hosts DROP COLUMN installation;
