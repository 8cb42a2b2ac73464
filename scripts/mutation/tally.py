"""The results for all mutants: counted, compared with the explanations, as a table and as JSON."""

import json
from dataclasses import dataclass

from scripts.mutation.explained import Explanation
from scripts.mutation.mutants import Mutant, path_of

__all__ = ["Tally", "run_by", "show", "write_json"]

_NAMES = ("mutants", "both_run", "by_product", "by_cpu", "by_tests", "survive")


@dataclass(frozen=True, slots=True)
class Tally:
    """The results for all mutants.

    `both` are those of lines that the prediction and the observation both run, which the product's
    commands judge; `left` those others that the CPU's answers don't notice, which tests judge.
    `survivors` are noticed by nothing, `unexplained` those of them without explanation; `wrong` are
    explanations that don't hold, and why.
    """

    mutants: list[Mutant]
    both: list[Mutant]
    left: list[Mutant]
    survivors: list[Mutant]
    unexplained: list[Mutant]
    wrong: list[tuple[Explanation, str]]
    seconds: float

    @property
    def good(self) -> bool:
        """Whether each survivor is explained, and each explanation holds."""
        return not self.unexplained and not self.wrong


def run_by(mutant: Mutant, lines: set[tuple[str, int]]) -> bool:
    """Return whether what a mutant changes is on one of these lines, (module, line)."""
    return any((mutant.module, line) in lines for line in range(mutant.line, mutant.end + 1))


def _rows(tally: Tally) -> list[tuple[str, int, int, int, int, int, int]]:
    """Return for each module the numbers that `_NAMES` names."""
    both, left, alive = set(tally.both), set(tally.left), set(tally.survivors)
    rows = []
    for module in dict.fromkeys(mutant.module for mutant in tally.mutants):
        every = {mutant for mutant in tally.mutants if mutant.module == module}
        rows.append(
            (
                module,
                len(every),
                len(every & both),
                len(every & both - alive),
                len(every - both - left),
                len(every & left - alive),
                len(every & alive),
            )
        )
    return rows


def write_json(tally: Tally) -> None:
    """Print the tally as one document."""
    record = {
        "modules": [dict(zip(("module", *_NAMES), row, strict=True)) for row in _rows(tally)],
        "unexplained": [_as_row(mutant) for mutant in tally.unexplained],
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


def _explained(row: Explanation) -> str:
    return f"{path_of(row.module)} {row.function}: {row.was} -> {row.became}"


def _place(mutant: Mutant) -> str:
    where = f"{path_of(mutant.module)}:{mutant.line} {mutant.function}"
    return f"{where}: {mutant.before} -> {mutant.after}"


def show(tally: Tally) -> None:
    """Print the tally as a table, and what is wrong below it."""
    print(f"{'module':<18}{''.join(f'{name:>16}' for name in _NAMES)}")
    for module, *counts in _rows(tally):
        print(f"{module:<18}{''.join(f'{count:>16}' for count in counts)}")
    both = set(tally.both)
    for each in tally.unexplained:
        how = "both sides run it, and the product agrees" if each in both else "survives"
        print(f"{how}, unexplained: {_place(each)}")
    for row, why in tally.wrong:
        print(f"an explanation that doesn't hold, {why}: {_explained(row)}")
    count = len(tally.survivors) - len(tally.unexplained)
    print(f"{len(tally.mutants)} mutants in {tally.seconds:.0f} s; {count} survivors explained")
