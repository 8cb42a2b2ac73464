"""What a walker under test can answer: its claims, by which it is judged, and its paging modes."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Protocol

from crosswalk.emu.targets.answers import Answers, Ranges
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import PhysicalMemory

__all__ = [
    "LISTS",
    "Capability",
    "Target",
    "choose_claims",
    "names_text",
    "parse_claims",
    "parse_modes",
]


class Capability(StrEnum):
    """One kind of answer. A walker is judged by the kinds that it claims, and no others."""

    LEAVES = "leaves"
    """It lists mappings: linear address, physical address and size of each."""
    FLAGS = "flags"
    """It gives the flags of each mapping that it lists: its last entry without the address."""
    EFFECTIVE = "effective"
    """It gives the effective rights of each mapping that it lists: user, write, execute, as the
    entries of all levels together leave them, whatever the control registers say."""
    RANGES = "ranges"
    """It may list neighbours as one: pages that follow each other in linear and physical
    addresses, with equal flags and effective rights where it claims those."""
    TRANSLATION = "translation"
    """It says whether an address is mapped, and where to."""
    RIGHTS = "rights"
    """It says whether an access is allowed, and where it leads to."""
    FAULTS = "faults"
    """It says which fault is raised, with error code and CR2."""
    MARKS = "marks"
    """It says which A and D bits are set."""


LISTS = frozenset({Capability.LEAVES, Capability.FLAGS, Capability.EFFECTIVE, Capability.RANGES})
"""The claims that are answered by a list of mappings, not by the translation of an access."""

_NEEDS = {
    Capability.FLAGS: frozenset({Capability.LEAVES}),
    Capability.EFFECTIVE: frozenset({Capability.LEAVES}),
    Capability.RANGES: frozenset({Capability.LEAVES}),
    Capability.MARKS: frozenset({Capability.RIGHTS, Capability.FAULTS}),
}


def parse_claims(text: str, where: str) -> frozenset[Capability]:
    """Return the claims in a list of names with commas; `where` is its name in errors.

    `BadInput` for an unknown name, and for a claim without one that it needs: flags and effective
    rights are those of leaves, ranges are made of them, and marks are those of accesses whose
    rights or faults are claimed.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in {claim.value for claim in Capability}:
            known = ", ".join(claim.value for claim in Capability)
            raise BadInput(f"{where}: {name!r} is none of {known}")
    claims = frozenset(Capability(name) for name in names)
    for claim, others in _NEEDS.items():
        if claim in claims and not claims & others:
            needed = " or ".join(sorted(others))
            raise BadInput(f"{where}: {claim.value} means nothing without {needed}")
    return claims


def parse_modes(text: str, where: str) -> frozenset[PagingMode]:
    """Return the paging modes in a list of names with commas; `where` is its name in errors.

    `BadInput` for an unknown name; they are those of `PagingMode.slug`.
    """
    known = {mode.slug: mode for mode in PagingMode}
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise BadInput(f"{where}: {name!r} is none of {', '.join(known)}")
    return frozenset(known[name] for name in names)


def names_text(stated: Any, where: str) -> str:
    """Return what a walker states in Python, a string or a collection of names, with commas.

    `BadInput` for anything else; `where` is what it is called there.
    """
    if isinstance(stated, str):
        return stated
    if not isinstance(stated, Iterable):
        raise BadInput(f"{where}: neither names with commas nor a collection of them")
    return ",".join(map(str, stated))


def choose_claims(
    name: str, able: frozenset[Capability], chosen: frozenset[Capability] | None
) -> frozenset[Capability]:
    """Return the chosen claims of a walker, all that it is able to answer if none are chosen.

    `BadInput` for a chosen claim that it can't answer; `name` is the walker's in the error.
    """
    if chosen is not None and not chosen <= able:
        raise BadInput(f"--claims: {name} answers {', '.join(sorted(able))} only")
    return able if chosen is None else chosen


class Target(Protocol):
    """A walker under test."""

    @property
    def name(self) -> str:
        """Its name in `--walker`."""
        ...

    @property
    def claims(self) -> frozenset[Capability]:
        """The kinds of answer that it gives."""
        ...

    @property
    def modes(self) -> frozenset[PagingMode] | None:
        """The paging modes that it says it knows, None where it doesn't say."""
        ...

    def answer(
        self,
        memory: PhysicalMemory,
        context: PagingContext,
        accesses: Accesses,
        ranges: Ranges | None = None,
    ) -> Answers:
        """Return its answers to the accesses, and where it fails to answer.

        One that lists is asked for `ranges`, by default those of `mapping_lists.ranges_of`.
        """
        ...

    def close(self) -> None:
        """End its processes and close its files."""
        ...
