DROP FUNCTION audit_append;
DROP FUNCTION audit_content;
DROP TABLE audit_logs;
DROP FUNCTION audit_refuse;
DROP TABLE audit_heads;
