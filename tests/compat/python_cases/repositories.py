"""The git helpers, against a bare repository inside the sandbox."""

from typing import Any

from .kit import Sdk, case, e2b, raises

WHO = {"author_name": "Ada", "author_email": "ada@example.com"}


async def repository(sdk: Sdk, sandbox: Any, path: str) -> None:
    """A fresh repository with one commit of one file."""
    await sdk(sandbox.git.init, path, initial_branch="main")
    await sdk(sandbox.files.write, f"{path}/file", "one\n")
    await sdk(sandbox.git.add, path)
    await sdk(sandbox.git.commit, path, "first", **WHO)


@case("git.init", "with a branch name; bare")
async def init(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    await sdk(sandbox.git.init, "/tmp/g-init", initial_branch="trunk")
    assert (await sdk(sandbox.git.status, "/tmp/g-init")).current_branch == "trunk"
    await sdk(sandbox.git.init, "/tmp/g-bare.git", bare=True)
    assert await sdk(sandbox.files.exists, "/tmp/g-bare.git/HEAD")


@case("git.status", "untracked, staged, modified, clean", also=("git.add", "git.commit"))
async def status(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    path = "/tmp/g-status"
    await repository(sdk, sandbox, path)
    clean = await sdk(sandbox.git.status, path)
    assert (clean.current_branch, clean.is_clean, clean.detached) == ("main", True, False)
    await sdk(sandbox.files.write, f"{path}/new", "x")
    await sdk(sandbox.files.write, f"{path}/file", "two\n")
    changed = await sdk(sandbox.git.status, path)
    assert (changed.total_count, changed.untracked_count, changed.staged_count) == (2, 1, 0)
    await sdk(sandbox.git.add, path, files=["new"])
    staged = await sdk(sandbox.git.status, path)
    assert [(entry.name, entry.status) for entry in staged.file_status if entry.staged] == [("new", "added")]


@case(
    "git.branches",
    "create, check out, delete",
    also=("git.create_branch", "git.checkout_branch", "git.delete_branch"),
)
async def branches(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    path = "/tmp/g-branches"
    await repository(sdk, sandbox, path)
    await sdk(sandbox.git.create_branch, path, "feature")
    found = await sdk(sandbox.git.branches, path)
    assert (sorted(found.branches), found.current_branch) == (["feature", "main"], "feature")
    await sdk(sandbox.git.checkout_branch, path, "main")
    assert (await sdk(sandbox.git.branches, path)).current_branch == "main"
    await sdk(sandbox.git.delete_branch, path, "feature", force=True)
    assert (await sdk(sandbox.git.branches, path)).branches == ["main"]


@case("git.reset", "hard, and of single paths; restore", also=("git.restore",))
async def reset(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    path = "/tmp/g-reset"
    await repository(sdk, sandbox, path)
    await sdk(sandbox.files.write, f"{path}/file", "two\n")
    await sdk(sandbox.git.add, path)
    await sdk(sandbox.git.reset, path, paths=["file"])
    assert (await sdk(sandbox.git.status, path)).staged_count == 0
    await sdk(sandbox.git.restore, path, ["file"])
    assert await sdk(sandbox.files.read, f"{path}/file") == "one\n"
    await sdk(sandbox.files.write, f"{path}/file", "three\n")
    await sdk(sandbox.git.reset, path, mode="hard", target="HEAD")
    assert await sdk(sandbox.files.read, f"{path}/file") == "one\n"


@case(
    "git.push",
    "to a remote; clone it; pull from it",
    also=("git.clone", "git.pull", "git.remote_add", "git.remote_get"),
)
async def remotes(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    bare, path, copy = "/tmp/g-remote.git", "/tmp/g-push", "/tmp/g-clone"
    await sdk(sandbox.git.init, bare, bare=True, initial_branch="main")
    await repository(sdk, sandbox, path)
    await sdk(sandbox.git.remote_add, path, "origin", bare)
    assert await sdk(sandbox.git.remote_get, path, "origin") == bare
    assert await sdk(sandbox.git.remote_get, path, "nowhere") is None
    await sdk(sandbox.git.push, path, remote="origin", branch="main")
    await sdk(sandbox.git.clone, f"file://{bare}", copy)
    assert await sdk(sandbox.files.read, f"{copy}/file") == "one\n"
    await sdk(sandbox.files.write, f"{path}/file", "two\n")
    await sdk(sandbox.git.add, path)
    await sdk(sandbox.git.commit, path, "second", **WHO)
    assert (await sdk(sandbox.git.status, path)).ahead == 1
    await sdk(sandbox.git.push, path)
    await sdk(sandbox.git.pull, copy)
    assert await sdk(sandbox.files.read, f"{copy}/file") == "two\n"
    log = await sdk(sandbox.commands.run, f"git -C {copy} log -1 --format='%an <%ae> %s'")
    assert log.stdout == "Ada <ada@example.com> second\n"


@case("git.push", "without an upstream raises GitUpstreamException", also=("git.pull",))
async def no_upstream(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    path = "/tmp/g-upstream"
    await repository(sdk, sandbox, path)
    with raises(e2b.GitUpstreamException):
        await sdk(sandbox.git.pull, path)


@case("git.set_config", "global and local; configure_user", also=("git.get_config", "git.configure_user"))
async def config(sdk: Sdk) -> None:
    sandbox = await sdk.shared()
    await sdk(sandbox.git.set_config, "core.pager", "cat")
    assert await sdk(sandbox.git.get_config, "core.pager") == "cat"
    assert await sdk(sandbox.git.get_config, "no.such") is None
    await sdk(sandbox.git.init, "/tmp/g-config", initial_branch="main")
    await sdk(sandbox.git.configure_user, "Ada", "ada@example.com", scope="local", path="/tmp/g-config")
    assert (
        await sdk(sandbox.git.get_config, "user.email", scope="local", path="/tmp/g-config")
        == "ada@example.com"
    )


@case("git.dangerously_authenticate", "the credential is kept for the host")
async def authenticate(sdk: Sdk) -> None:
    async with sdk.sandbox() as sandbox:
        await sdk(sandbox.git.dangerously_authenticate, "ada", "secret", host="git.example.com")
        line = "printf 'protocol=https\\nhost=git.example.com\\n\\n' | git credential fill"
        assert "password=secret" in (await sdk(sandbox.commands.run, line)).stdout
