"""The plan of a campaign: all that is needed to repeat it, byte for byte."""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

import numpy as np

from crosswalk.emu.findings.layout import Layout
from crosswalk.emu.fuzz.coverage import draw_targets
from crosswalk.emu.fuzz.generate import Base, base_of, generate, mutate
from crosswalk.emu.fuzz.generate.choice import LayoutChoice
from crosswalk.emu.load.builtin import booted_guest, names_guest
from crosswalk.emu.workers.sandbox import Limits
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Source, open_contents, source_of

__all__ = ["LAG", "ROUND", "Plan"]

ROUND = 16
"""The number of layouts that are steered by the same coverage map."""

LAG = 2
"""How many rounds back that map lies, so that no worker waits for the last layout."""

_TARGETS = 320
_CROSSED = 9
_LIMITS = Limits()
_EVERYTHING = LayoutChoice()


@dataclass(frozen=True, slots=True)
class Plan:
    """The inputs from which all layouts follow.

    `walker` and `claims` name the walker under test, None for the built-in one alone; `limits`
    are that walker's, and don't decide what is found. `source` is a file with an address space,
    or a guest's name, whose tables are changed instead of made; there nothing steers. `choice`
    is what layouts are restricted to.
    """

    seed: int = 0
    accesses: int = 8192
    guided: bool = True
    walker: str | None = None
    claims: str | None = None
    limits: Limits = _LIMITS
    source: str | None = None
    choice: LayoutChoice = _EVERYTHING

    @staticmethod
    def crosses(index: int) -> bool:
        """Return whether a layout's accesses cross pages, too: every ninth's do.

        Control bits repeat every four layouts, so that they all have their turn.
        """
        return index % _CROSSED == 0

    @property
    def tables(self) -> str | None:
        """A digest of the tables that layouts start from, None where they are made."""
        if self.source is None:
            return None
        base = _base(self.source)
        content = repr((base.context, base.ram)).encode()
        content += base.frames.tobytes() + base.words.tobytes()
        return sha256(content).hexdigest()[:16]

    def open_source(self) -> None:
        """Read the tables that layouts start from, if any; `CrosswalkError` where they can't be."""
        if self.source is not None:
            _base(self.source)

    def layout(self, index: int, seen: bytes) -> Layout:
        """Return a layout of the campaign; `seen` is the packed coverage map."""
        if self.source is not None:
            return mutate(_base(self.source), self.seed, index, accesses=self.accesses)
        targets = []
        if self.guided:
            chance = np.random.default_rng([self.seed, index, 1])
            count = min(_TARGETS, max(1, self.accesses // 16))
            targets = draw_targets(seen, chance, count)
        return generate(self.seed, index, targets, accesses=self.accesses)


@lru_cache(1)
def _base(source: str) -> Base:
    found = booted_guest(source) if names_guest(source) else _opened(source)
    return base_of(found.memory, found.context)


def _opened(name: str) -> Source:
    """Return a source that says where its tables are, since there are no options that would."""
    contents = open_contents(name)
    if contents.registers.cr3 is None:
        case = f"crosswalk walk {name} --cr3 CR3 --save-case FILE"
        raise BadInput(f"{name}: doesn't say what CR3 is; `{case}` writes a case that does")
    return source_of(contents)
