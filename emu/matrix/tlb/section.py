"""A section of sequences: a product of named dimensions, each combination a sequence."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from crosswalk.emu.matrix.section import Choice
from crosswalk.walker.tlb import Sequence

__all__ = ["Named", "SequenceSection"]

Named = Mapping[str, str]
"""A combination: the value of each dimension, by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceSection:
    """Sequences by name: `make` returns that of a combination of `dimensions`.

    `keep` says which combinations are worth their place, for the reasons that `pruned` gives.
    """

    name: str
    covers: str
    dimensions: Mapping[str, tuple[str, ...]]
    make: Callable[[Named], Sequence]
    keep: Callable[[Named], bool] | None = None
    pruned: tuple[str, ...] = ()

    def combinations(self, choice: Choice) -> Iterator[dict[str, str]]:
        """Yield what the choice leaves, in order; nothing where it names what isn't here."""
        if choice.keys() - self.dimensions.keys() - {"section"}:
            return
        if self.name not in choice.get("section", {self.name}):
            return
        left = [
            [value for value in values if value in choice.get(name, {value})]
            for name, values in self.dimensions.items()
        ]
        for values in product(*left):
            named = dict(zip(self.dimensions, values, strict=True))
            if self.keep is None or self.keep(named):
                yield named

    def text(self, named: Named) -> str:
        """Return a combination as `--select` takes it."""
        return ",".join([f"section={self.name}", *(f"{key}={v}" for key, v in named.items())])
