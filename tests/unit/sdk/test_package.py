"""The package as a whole: what it exports, that the generated half is up to date, what it depends on."""

import importlib.util
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import cast

import wrenn

SDK = Path(__file__).parents[3] / "sdk" / "python"


def test_sync_is_generated_from_async() -> None:
    """On failure: `python sdk/python/scripts/generate_sync.py`."""
    run = subprocess.run(
        [sys.executable, SDK / "scripts" / "generate_sync.py", "--check"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_both_flavours_have_the_same_surface() -> None:
    def surface(cls: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in inspect.getmembers(cls, callable)
            if not name.startswith("_")
        }

    for name in ("Client", "Sandbox", "Commands", "CommandHandle", "Files"):
        sync, other = getattr(wrenn, name), getattr(wrenn, "Async" + name)
        assert surface(sync) == surface(other)
        assert surface(sync)


def test_everything_exported_exists_and_is_documented() -> None:
    for name in wrenn.__all__:
        assert hasattr(wrenn, name), name
    for name, cls in vars(wrenn).items():
        if inspect.isclass(cls) and issubclass(cls, wrenn.WrennError):
            assert name in wrenn.__all__
            assert cls.__module__ == "wrenn", "tracebacks name the place to import from"
            assert name in cast("str", sys.modules["wrenn.errors"].__doc__).split(), "drawn in the tree"


def test_every_public_method_has_a_docstring() -> None:
    for name in wrenn.__all__:
        cls = getattr(wrenn, name)
        if not inspect.isclass(cls):
            continue
        for member_name, member in vars(cls).items():
            if inspect.isfunction(member) and not member_name.startswith("_"):
                quiet = {"is_running", "exists", "ok", "is_dir", "stdout", "stderr"}
                assert member.__doc__ or member_name in quiet, f"{name}.{member_name}"


def test_the_version_is_the_distribution_s() -> None:
    project = tomllib.loads((SDK / "pyproject.toml").read_text())["project"]
    assert wrenn.__version__ == project["version"]


def test_the_server_is_not_needed() -> None:
    """In a process where wrenn_server cannot be imported."""
    code = (
        "import sys; sys.modules['wrenn_server'] = None\n"
        "import wrenn, wrenn.cli.main\n"
        "assert not [m for m in sys.modules if m.startswith('wrenn_server.')]"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_it_is_typed() -> None:
    spec = importlib.util.find_spec("wrenn")
    assert spec is not None
    assert spec.origin is not None
    assert (Path(spec.origin).parent / "py.typed").exists()
