"""Expectations as data: what each sentence states, and what it is stated of."""

from dataclasses import dataclass
from enum import StrEnum

from crosswalk.walker.rights import Rights

__all__ = [
    "Ability",
    "AtMost",
    "Claim",
    "Flaw",
    "FramesNever",
    "Is",
    "Mapped",
    "Never",
    "NoEntries",
    "Only",
    "Privilege",
    "Sentence",
    "Surrounded",
    "TablesNever",
    "Target",
    "Targets",
    "Unchanged",
    "Unmapped",
]


class Privilege(StrEnum):
    """Whose accesses a sentence is about."""

    SUPERVISOR = "supervisor"
    USER = "user"


class Ability(StrEnum):
    """What a mapping may let happen. WX is writing and executing, within one privilege."""

    READABLE = "readable"
    WRITABLE = "writable"
    EXECUTABLE = "executable"
    WX = "wx"
    ACCESSIBLE = "accessible"

    def met_by(self, rights: Rights, privilege: Privilege | None) -> bool:
        """Return whether rights allow this to the privilege; to any, where it is None."""
        of_each = {Privilege.SUPERVISOR: rights & 7, Privilege.USER: rights >> 3}
        chosen = of_each.values() if privilege is None else [of_each[privilege]]
        if self is Ability.WX:
            return any(each & 6 == 6 for each in chosen)
        return any(each & _BITS[self] for each in chosen)


_BITS = {
    Ability.READABLE: 1,
    Ability.WRITABLE: 2,
    Ability.EXECUTABLE: 4,
    Ability.ACCESSIBLE: 7,
}


@dataclass(frozen=True, slots=True)
class Target:
    """What a sentence is about: linear addresses [start, end), or a name where `end` is None.

    A name is that of a region, section or symbol, or a shell pattern of such names. `text` is as
    it was written, without quotes.
    """

    text: str
    start: int = 0
    end: int | None = None


Targets = tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Is:
    """Every mapping there has exactly these rights, three bits: 1 read, 2 write, 4 execute."""

    targets: Targets
    rights: int
    privilege: Privilege


@dataclass(frozen=True, slots=True)
class Never:
    """No mapping there has this ability; everywhere, without targets.

    Where `mapped`, something has to be mapped there.
    """

    targets: Targets | None
    ability: Ability
    privilege: Privilege | None
    mapped: bool


@dataclass(frozen=True, slots=True)
class Unmapped:
    """Nothing is mapped there."""

    targets: Targets


@dataclass(frozen=True, slots=True)
class Mapped:
    """Every page there is mapped, in one address space."""

    targets: Targets


@dataclass(frozen=True, slots=True)
class Surrounded:
    """The page before and the page behind each of them are not mapped."""

    targets: Targets


@dataclass(frozen=True, slots=True)
class Only:
    """Nothing but the pages there has this ability."""

    targets: Targets
    ability: Ability
    privilege: Privilege | None


@dataclass(frozen=True, slots=True)
class FramesNever:
    """No mapping of the frames that are mapped there has this ability; of any frame, without them.

    Of WX: not all mappings of a frame together have it.
    """

    targets: Targets | None
    ability: Ability
    privilege: Privilege | None


@dataclass(frozen=True, slots=True)
class TablesNever:
    """No mapping of a frame that holds a table has this ability."""

    ability: Ability
    privilege: Privilege | None


class Flaw(StrEnum):
    """What may be wrong with a present entry, whatever rights it leaves."""

    RESERVED = "reserved"
    """It sets a reserved bit, or PS where no page can be."""
    TABLE_OUTSIDE = "table-outside"
    """It refers to a table that isn't in RAM as a whole."""
    PAGE_OUTSIDE = "page-outside"
    """It maps a page that isn't in RAM as a whole."""


@dataclass(frozen=True, slots=True)
class NoEntries:
    """No present entry there has this flaw; in all of the address spaces, without targets."""

    targets: Targets | None
    flaw: Flaw


@dataclass(frozen=True, slots=True)
class AtMost:
    """No more mappings are there; in all of the address spaces, without targets."""

    count: int
    targets: Targets | None


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The same is mapped there, with the same rights, as at an earlier point of a boot."""

    targets: Targets | None
    point: str


Claim = (
    Is
    | Never
    | Unmapped
    | Mapped
    | Surrounded
    | Only
    | FramesNever
    | TablesNever
    | NoEntries
    | AtMost
    | Unchanged
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence as it was written, where it stands, and what it states.

    `place` names the file or option it is from, `line` counts from 1; 0 outside a file.
    """

    text: str
    claim: Claim
    place: str = ""
    line: int = 0

    @property
    def of_all(self) -> bool:
        """Whether it is about all mappings of frames, in whichever address space."""
        return isinstance(self.claim, FramesNever | TablesNever)

    @property
    def targets(self) -> Targets:
        """What it names; nothing where it is about everything."""
        return getattr(self.claim, "targets", None) or ()
