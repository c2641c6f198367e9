"""Files that go into guests. They are data: reach them through `guest_file`, also inside a zipped executable."""

from importlib.resources import files


def guest_file(name: str) -> bytes:
    """The content of a file of this folder, for example `initrd/init`."""
    return files(__name__).joinpath(name).read_bytes()
