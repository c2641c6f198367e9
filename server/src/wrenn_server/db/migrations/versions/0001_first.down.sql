DROP TABLE sandboxes, templates, host_tokens, hosts, platform_keys, api_keys, members, teams, users;
DROP FUNCTION sandboxes_reserve(), sandboxes_notify(), hosts_notify();
DROP FUNCTION sandbox_takes(text, integer, integer, integer);
