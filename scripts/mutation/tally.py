"""What became of the mutants: counted, held against the explanations, in words and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from scripts.mutation.explained import Explanation, unexplained, unfounded
from scripts.mutation.mutants import Mutant

__all__ = ["Tally", "tally_of", "tell", "write_json"]


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the mutants.

    `left` are those that neither the CPU's answers nor the product's commands notice, `survivors`
    those that tests don't notice then. `both` are those of lines that the prediction and the
    observation both run. `strangers` are survivors without explanation; `agreed` mutants of `both`
    that the product agrees with, though a test would notice; `wrong` explanations that don't hold,
    and why.
    """

    mutants: list[Mutant]
    left: list[Mutant]
    survivors: list[Mutant]
    both: list[Mutant]
    strangers: list[Mutant]
    agreed: list[Mutant]
    wrong: list[tuple[Explanation, str]]
    seconds: float

    @property
    def good(self) -> bool:
        """Whether each survivor is explained, each explanation holds, and the product noticed."""
        return not self.strangers and not self.wrong and not self.agreed


def tally_of(  # What was found, and what it is held against.
    mutants: list[Mutant],
    left: list[Mutant],
    survivors: list[Mutant],
    lines: set[tuple[str, int]],
    table: Sequence[Explanation],
    seconds: float,
    *,
    complete: bool,
) -> Tally:
    """Return the tally; `lines`, (module, line), are those that both sides run.

    Explanations are held against survivors only where the mutants are complete.
    """
    both = [
        mutant
        for mutant in mutants
        if any((mutant.module, line) in lines for line in range(mutant.line, mutant.end + 1))
    ]
    shared, lost = set(both), set(survivors)
    return Tally(
        mutants,
        left,
        survivors,
        both,
        unexplained(survivors, table),
        [mutant for mutant in left if mutant in shared and mutant not in lost],
        unfounded(table, mutants, survivors) if complete else [],
        seconds,
    )


def _rows(tally: Tally) -> list[tuple[str, int, int, int, int, int]]:
    """Return for each module: mutants, of lines of both, killed first, by tests, survivors."""
    rows = []
    for module in dict.fromkeys(mutant.module for mutant in tally.mutants):
        every, both, rest, alive = (
            sum(each.module == module for each in group)
            for group in (tally.mutants, tally.both, tally.left, tally.survivors)
        )
        rows.append((module, every, both, every - rest, rest - alive, alive))
    return rows


def write_json(tally: Tally) -> None:
    """Print the tally as one document."""
    names = ("module", "mutants", "both_run", "by_cpu_or_product", "by_tests", "survive")
    record = {
        "modules": [dict(zip(names, row, strict=True)) for row in _rows(tally)],
        "unexplained": [_as_row(mutant) for mutant in tally.strangers],
        "agreed_with": [_as_row(mutant) for mutant in tally.agreed],
        "unfounded": [f"{_explained(row)}: {why}" for row, why in tally.wrong],
        "seconds": round(tally.seconds, 1),
    }
    print(json.dumps(record))


def _as_row(mutant: Mutant) -> dict[str, object]:
    return {
        "module": mutant.module,
        "line": mutant.line,
        "function": mutant.function,
        "was": mutant.before,
        "became": mutant.after,
    }


def _path(module: str) -> str:
    return f"walker/{module.replace('.', '/')}.py"


def _explained(row: Explanation) -> str:
    return f"{_path(row.module)} {row.function}: {row.was} -> {row.became}"


def _place(mutant: Mutant) -> str:
    where = f"{_path(mutant.module)}:{mutant.line} {mutant.function}"
    return f"{where}: {mutant.before} -> {mutant.after}"


def tell(tally: Tally) -> None:
    """Print the tally as a table, and what is wrong beneath."""
    names = ("mutants", "both run", "by the CPU", "by tests", "survive")
    print(f"{'module':<18}{''.join(f'{name:>12}' for name in names)}")
    for module, *counts in _rows(tally):
        print(f"{module:<18}{''.join(f'{count:>12}' for count in counts)}")
    for each in tally.strangers:
        print(f"survives, unexplained: {_place(each)}")
    for each in tally.agreed:
        print(f"both sides run it, and the product agrees: {_place(each)}")
    for row, why in tally.wrong:
        print(f"an explanation that doesn't hold, {why}: {_explained(row)}")
    count = len(tally.survivors) - len(tally.strangers)
    print(f"{len(tally.mutants)} mutants in {tally.seconds:.0f} s; {count} survivors explained")
