"""A module's source replaced while it is imported."""

from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

__all__ = ["Planted"]


class Planted(MetaPathFinder, Loader):
    """Imports another source where a module is asked for by its full name."""

    def __init__(self, name: str, source: str) -> None:
        self._name, self._source = name, source
        self.used = False
        """Whether the source was run: what is imported may come from another finder."""

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for this module alone."""
        return spec_from_loader(fullname, self) if fullname == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        """Run the source."""
        self.used = True
        exec(compile(self._source, f"{self._name}.py", "exec"), module.__dict__)  # noqa: S102  # That is what a mutant is for.
