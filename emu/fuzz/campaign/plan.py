"""The plan of a campaign: all that is needed to repeat it, byte for byte."""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np

from crosswalk.emu.findings.layout import Layout, case_layout, layout_case
from crosswalk.emu.fuzz.campaign.cases import read_cases
from crosswalk.emu.fuzz.coverage import draw_targets
from crosswalk.emu.fuzz.generate import Base, base_of, generate, mutate
from crosswalk.emu.fuzz.generate.choice import LayoutChoice
from crosswalk.emu.fuzz.generate.mutate import selected
from crosswalk.emu.fuzz.generate.restrict import restricted
from crosswalk.emu.fuzz.generate.shares import share_of
from crosswalk.emu.load.builtin import booted_guest, names_guest
from crosswalk.emu.workers.sandbox import Limits
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Case, Source, dump_case, open_contents, source_of

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
    or a guest's name, whose tables are changed instead of made; there nothing steers. A folder of
    cases is one, too: its address spaces and accesses are the first layouts, as they are. `choice`
    is what layouts are restricted to. `judge` names a machine that is asked instead of the emulated
    CPU, so many layouts together.
    """

    seed: int = 0
    accesses: int = 8192
    guided: bool = True
    walker: str | None = None
    claims: str | None = None
    limits: Limits = _LIMITS
    source: str | None = None
    choice: LayoutChoice = _EVERYTHING
    judge: str | None = None

    @property
    def at_once(self) -> int:
        """The most layouts of a task: a machine has to boot for each, the emulated CPU hasn't."""
        return 1 if self.judge is None else ROUND

    def crosses(self, index: int) -> bool:
        """Return whether a layout's accesses cross pages, too: every ninth's do, of those made.

        Of those in 4- and 5-level paging. Control bits repeat every four layouts, so that they all
        have their turn. A selection of accesses leaves composites out, and so does the assumption
        that all addresses are canonical: some lie across an end of the canonical halves.
        """
        index -= len(self.cases)
        if index < 0 or not self.choice.allows_composites:
            return False
        if self.source is not None and not self.cases:
            return index % _CROSSED == 0
        share, number = share_of(index, self.choice.asked_modes)
        return share.steered and number % _CROSSED == 0

    @property
    def cases(self) -> tuple[Case, ...]:
        """The cases that are the first layouts; `CrosswalkError` where there are to be some."""
        folder = self.source is not None and Path(self.source).is_dir()
        return read_cases(Path(str(self.source)))[0] if folder else ()

    @property
    def tables(self) -> str | None:
        """A digest of the tables that layouts start from, None where they are made."""
        if self.source is None:
            return None
        if self.cases:
            bare = (dump_case(layout_case(case_layout(case))) for case in self.cases)
            return sha256(b"".join(bare)).hexdigest()[:16]
        base = _base(self.source)
        content = repr((base.context, base.ram)).encode()
        content += base.frames.tobytes() + base.words.tobytes()
        return sha256(content).hexdigest()[:16]

    def open_source(self) -> None:
        """Read the tables that layouts start from, if any; `CrosswalkError` where they can't be."""
        if self.source is not None and not self.cases:
            context = _base(self.source).context
            if not self.choice.allows(context.mode):
                raise BadInput(f"{self.source}: is in {context.mode} paging, which isn't chosen")
            selected(context, self.choice.select)

    def layout(self, index: int, seen: bytes) -> Layout:
        """Return a layout of the campaign; `seen` is the packed coverage map."""
        cases = self.cases
        if index < len(cases):
            return restricted(case_layout(cases[index]), self.choice)
        if self.source is not None and not cases:
            base = _base(self.source)
            return mutate(base, self.seed, index, accesses=self.accesses, choice=self.choice)
        targets = []
        share, number = share_of(index - len(cases), self.choice.asked_modes)
        if self.guided and share.steered:
            chance = np.random.default_rng([self.seed, number, 1])
            count = min(_TARGETS, max(1, self.accesses // 16))
            targets = draw_targets(seen, chance, count)
        return generate(
            self.seed, number, targets, accesses=self.accesses, share=share, choice=self.choice
        )


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
