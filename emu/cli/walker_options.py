"""`--walker` and its options: the walker under test that a command asks."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from crosswalk.emu.cli.output import command_line, remark
from crosswalk.emu.targets import Target
from crosswalk.emu.targets.registry import open_target
from crosswalk.emu.workers.sandbox import Limits
from crosswalk.walker.formats import Case

__all__ = [
    "Chosen",
    "chosen_walker",
    "replay_command",
    "report_others",
    "size_text",
    "walker_options",
]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The chosen walker, None for none, the claims it is checked for, and its limits."""

    name: str | None
    claims: str | None
    limits: Limits

    @contextmanager
    def opened(self) -> Iterator[Target | None]:
        """Yield the walker, and close it; `BadInput` where it can't be had."""
        target = (
            None if self.name is None else open_target(self.name, self.limits, claims=self.claims)
        )
        try:
            yield target
        finally:
            if target is not None:
                target.close()

    def require_opening(self) -> None:
        """Raise `BadInput` where the walker can't be had: before the work, and not in a worker."""
        with ExitStack() as opened:
            opened.enter_context(self.opened())


def chosen_walker(options: argparse.Namespace) -> Chosen:
    """Return the walker that the options choose, and its limits."""
    limits = Limits()
    if options.walker_seconds is not None:
        limits = replace(limits, seconds=options.walker_seconds)
    if options.walker_output is not None:
        limits = replace(limits, output=options.walker_output << 20)
    if options.walker_memory is not None:
        limits = replace(limits, memory=options.walker_memory << 20)
    return Chosen(options.walker, options.claims, limits)


def walker_options(walker: str | None, claims: str | None = None) -> list[str]:
    """Return the options that name a walker and its claims, for a command to be shown."""
    given = (("--walker", walker), ("--claims", claims))
    return [word for name, value in given if value is not None for word in (name, value)]


def replay_command(path: Path | None, walker: str | None, claims: str | None = None) -> str:
    """Return the command that replays a case, as a shell takes it."""
    return command_line(["crosswalk", "replay", str(path), *walker_options(walker, claims)])


def report_others(named: Sequence[tuple[str, str]]) -> None:
    """Report which walkers cases are about that weren't asked: (case file, walker), in one line.

    What a case names may be any command: it is run when it is asked for, and not otherwise.
    """
    if not named:
        return
    cases = named[0][0] if len(named) == 1 else f"{len(named):,} cases"
    walkers = dict.fromkeys(walker for _, walker in named)
    options = " or ".join(command_line(walker_options(walker)) for walker in walkers)
    remark(f"{cases}: found with another walker under test; to ask that, give {options}")


def size_text(case: Case) -> str:
    """Return how big a case is."""
    parts = ((len(case.entries), "entry", "entries"), (len(case.probes), "probe", "probes"))
    return ", ".join(f"{count:,} {one if count == 1 else many}" for count, one, many in parts)
