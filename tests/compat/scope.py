"""Public methods without a row, and why."""

import fnmatch

NOT_COVERED = {
    "`Template` builder (`from_*`, `copy`, `run_cmd`, `set_*`, `to_json`, …)": "describes a build on the client; "
    "builds are not served yet, `Template.build` has the row for that",
    "`Volume` content (`read_file`, `write_file`, `make_dir`, …)": "there are no volumes; every call of the volume "
    "API is refused, `Volume.create` has the row for that",
    "`SecretPaginator`": "there are no secrets; `Secret.create` has the row for their refusal",
    "Code Interpreter `run_code` and its contexts": "need the server of the template `code-interpreter-v1`, which "
    "does not exist yet",
    "`Sandbox.connection_config`, `envd_api_url`, `envd_direct_url`": "local values, no request",
}
PATTERNS = (
    "Template.from_*",
    "Template.set_*",
    "Template.to_*",
    "Template.beta_*",
    "Template.*_install",
    *(f"Template.{name}" for name in ("copy", "copy_items", "remove", "rename", "make_dir", "make_symlink")),
    *(f"Template.{name}" for name in ("run_cmd", "add_mcp_server", "git_clone", "skip_cache")),
    *(
        f"Volume.{name}"
        for name in ("exists", "make_dir", "read_file", "remove", "update_metadata", "write_file")
    ),
    *(f"Volume.{name}" for name in ("name", "token", "volume_id")),
    "SecretPaginator.*",
    *(f"Sandbox.{name}" for name in ("connection_config", "envd_api_url", "envd_direct_url")),
    # The groups of methods; each method has rows of its own.
    *(f"Sandbox.{name}" for name in ("files", "commands", "pty", "git")),
)


def is_covered_elsewhere(method: str) -> bool:
    return any(fnmatch.fnmatchcase(method, pattern) for pattern in PATTERNS)
