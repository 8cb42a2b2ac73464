"""`--walker` and its options, and what is said of a walker under test."""

import argparse
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crosswalk.emu.cli.output import remark
from crosswalk.emu.targets import Target
from crosswalk.emu.targets.capabilities import Capability
from crosswalk.emu.targets.registry import KINDS, open_target
from crosswalk.emu.workers.sandbox import Limits
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Case, parse_int

__all__ = [
    "Chosen",
    "add_walker",
    "chosen_walker",
    "names_another",
    "replay_command",
    "size_text",
    "walker_options",
]

_SECONDS = 50.0  # Less than half of what a campaign gives a layout: to load and to answer.
_DEFAULT = Limits()
_CLAIMS = ", ".join(claim.value for claim in Capability)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The walker that was chosen, None for none, what it is held to, and its limits."""

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


def add_walker(parser: argparse.ArgumentParser, otherwise: str) -> None:
    """Add --walker, --claims and the limits."""
    group = parser.add_argument_group("the walker under test")
    group.add_argument("--walker", metavar="W", help=f"one of {KINDS} ({otherwise})")
    group.add_argument(
        "--claims", metavar="LIST", help=f"hold it to these of {_CLAIMS} (what it says itself)"
    )
    group.add_argument(
        "--walker-seconds",
        metavar="S",
        help=f"the time it has for one address space ({_DEFAULT.seconds:g})",
    )
    group.add_argument(
        "--walker-output",
        metavar="MIB",
        help=f"what it may print for one address space ({_DEFAULT.output >> 20})",
    )
    group.add_argument(
        "--walker-memory",
        metavar="MIB",
        help=f"the address space it may take ({_DEFAULT.memory >> 20})",
    )


def chosen_walker(options: argparse.Namespace) -> Chosen:
    """Return what the options of `add_walker` say; `BadInput` for what they can't."""
    given = [name for name in ("claims", "seconds", "output", "memory") if _given(options, name)]
    if options.walker is None and given:
        raise BadInput(f"{_option(given[0])} is about a walker under test: --walker W")
    limits = Limits(
        seconds=_seconds(options.walker_seconds),
        output=_mebibytes(options, "output", _DEFAULT.output),
        memory=_mebibytes(options, "memory", _DEFAULT.memory),
    )
    return Chosen(options.walker, options.claims, limits)


def _option(name: str) -> str:
    return "--claims" if name == "claims" else f"--walker-{name}"


def _given(options: argparse.Namespace, name: str) -> bool:
    found = options.claims if name == "claims" else getattr(options, f"walker_{name}")
    return found is not None


def _seconds(text: str | None) -> float:
    if text is None:
        return _DEFAULT.seconds
    try:
        seconds = float(text)
    except ValueError as error:
        raise BadInput(f"--walker-seconds: {text!r} is not a number") from error
    if not 0 < seconds <= _SECONDS:
        raise BadInput(f"--walker-seconds: {text} is not above 0 and at most {_SECONDS:g}")
    return seconds


def _mebibytes(options: argparse.Namespace, name: str, default: int) -> int:
    text = getattr(options, f"walker_{name}")
    if text is None:
        return default
    found = parse_int(text, f"--walker-{name}", bits=24)
    if not found:
        raise BadInput(f"--walker-{name} is at least 1")
    return found << 20


def walker_options(walker: str | None, claims: str | None = None) -> list[str]:
    """Return the options that name a walker and its claims, for a command to be shown."""
    given = (("--walker", walker), ("--claims", claims))
    return [word for name, value in given if value is not None for word in (name, value)]


def replay_command(path: Path | None, walker: str | None, claims: str | None = None) -> str:
    """Return the command that replays a case, as a shell takes it."""
    return shlex.join(["crosswalk", "replay", str(path), *walker_options(walker, claims)])


def names_another(name: str, case: Case, chosen: Chosen) -> None:
    """Say which walker a case is about where that isn't the one that is asked.

    What a case names may be any command: it is run when it is asked for, and not otherwise.
    """
    if case.walker is not None and case.walker != chosen.name:
        option = shlex.join(walker_options(case.walker))
        remark(f"{name}: found with another walker under test; to ask that, say {option}")


def size_text(case: Case) -> str:
    """Return how big a case is."""
    parts = ((len(case.entries), "entry", "entries"), (len(case.probes), "probe", "probes"))
    return ", ".join(f"{count:,} {one if count == 1 else many}" for count, one, many in parts)
