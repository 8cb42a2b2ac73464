"""The table of survivors that are known to be equivalent, compared with those that survive."""

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.mutation.mutants import Mutant

__all__ = ["TABLE", "Explanation", "load_table", "unexplained", "unfounded"]

TABLE = Path(__file__).resolve().parent / "equivalent.toml"
"""The table of the project."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A mutant by module, function and statement, and the reason that nothing can notice it."""

    module: str
    function: str
    was: str
    became: str
    reason: str

    def fits(self, mutant: Mutant) -> bool:
        """Return whether it is about this mutant."""
        here = (mutant.module, mutant.function, mutant.before, mutant.after)
        return here == (self.module, self.function, self.was, self.became)


def load_table(path: Path = TABLE) -> list[Explanation]:
    """Return the explanations in a table, in its order.

    `ValueError` for one that lacks something or has too much, and for an empty reason.
    """
    rows = tomllib.loads(path.read_text("utf-8")).get("mutant", [])
    names = set(Explanation.__dataclass_fields__)
    for row in rows:
        if set(row) != names or not all(isinstance(value, str) and value for value in row.values()):
            raise ValueError(f"{path}: {row} has not all of {', '.join(sorted(names))}, or more")
    return [Explanation(**row) for row in rows]


def unexplained(survivors: Iterable[Mutant], table: Sequence[Explanation]) -> list[Mutant]:
    """Return the survivors that aren't in the table."""
    return [mutant for mutant in survivors if not any(row.fits(mutant) for row in table)]


def unfounded(
    table: Sequence[Explanation], mutants: Sequence[Mutant], survivors: Iterable[Mutant]
) -> list[tuple[Explanation, str]]:
    """Return the explanations that don't hold, and what is wrong with each.

    No mutant is as it says, or one is and was noticed.
    """
    alive = set(survivors)
    found = []
    for row in table:
        fitting = [mutant for mutant in mutants if row.fits(mutant)]
        if not fitting:
            found.append((row, "there is no such mutant"))
        elif not all(mutant in alive for mutant in fitting):
            found.append((row, "it was noticed"))
    return found
