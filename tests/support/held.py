"""Objects of a store that cannot be read at the moment, and have not been lost either."""

from collections.abc import Iterable
from pathlib import Path


class Held:
    def __init__(self, objects: Iterable[Path]) -> None:
        """:param objects: files of a folder"""
        self.objects = list(objects)
        for path in self.objects:
            path.rename(path.with_suffix(".away"))
            path.symlink_to(path.name)

    def let_go(self) -> None:
        for path in self.objects:
            path.with_suffix(".away").replace(path)
