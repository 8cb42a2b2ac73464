"""The right answers of a built-in walker about a small address space, to be changed and judged."""

from dataclasses import replace

import numpy as np

from crosswalk.emu.probe import Prober
from crosswalk.emu.targets.capabilities import parse_claims
from crosswalk.emu.targets.judge import judge
from crosswalk.emu.targets.registry import BUILTIN
from tests.emu.targets.walkers import HOLE, LARGE, PAGE, READ_ONLY, every, space
from tests.tables import context

NOT_CANONICAL = 1 << 60
ADDRESSES = (PAGE, READ_ONLY + 8, LARGE + 0x12345, HOLE, NOT_CANONICAL)
TRANSLATES, LISTS = BUILTIN["bulk"], BUILTIN["walk"]
NOTHING = (set(), set())


class Asked:
    """The right answers of a walker about `space`, to be changed, and a verdict about them."""

    def __init__(self, walker, claims, **switches):
        self.claims = parse_claims(claims, "here")
        self.memory, self.context = space().memory, context(**switches)
        self.accesses = every(*ADDRESSES)
        self.outcomes = Prober(self.memory, self.context).probe(self.accesses)
        self.answers = walker.answer(self.memory, self.context, self.accesses)

    def say(self, **columns):
        """Let columns of the answers be others; each a function of what they are."""
        out = self.answers.outcomes
        changed = {name: change(getattr(out, name).copy()) for name, change in columns.items()}
        self.answers = replace(self.answers, outcomes=replace(out, **changed))

    def list(self, change):
        """Let the list be another, of rows [va, pa, size, flags, range, rights, given]."""
        listing = self.answers.listing
        mappings = listing.mappings
        columns = (
            mappings.va, mappings.pa, mappings.size, mappings.flags, listing.at,
            mappings.rights, mappings.given,
        )  # fmt: skip
        rows = zip(*(column.tolist() for column in columns), strict=True)
        table = np.array(sorted(change([list(row) for row in rows])), np.uint64).reshape(-1, 7)
        wide = (np.ascontiguousarray(table[:, at]) for at in range(4))
        narrow = (table[:, at].astype(np.uint8) for at in (5, 6))
        new = replace(
            listing,
            mappings=type(mappings)(*wide, *narrow),
            at=table[:, 4].astype(np.int64),
        )
        self.answers = replace(self.answers, listing=new)

    @property
    def judgement(self):
        return judge(
            self.claims, self.answers, self.memory, self.context, self.accesses, self.outcomes
        )

    @property
    def verdicts(self):
        return self.judgement.verdicts

    @property
    def wrong(self):
        """The fields that are wrong, and the addresses: of accesses, and beside them."""
        found = []
        for verdict in self.verdicts:
            names = {name for name, column in verdict.fields.items() if column.any()}
            found.append((names, set(verdict.accesses.va[verdict.wrong].tolist())))
        return tuple(found)


def changed(rows, value):
    def change(column):
        column[rows] = value(column[rows]) if callable(value) else value
        return column

    return change
