"""Walkers with one rule broken: `translate_many`, but for what a bug makes of it.

A bug is broken where the rule is: in the context that the walker sees, in the memory that it
reads, in a function of `crosswalk.walker.bulk`, or in a column that it hands back.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from crosswalk.walker import bulk
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Kind
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import WORDS

P, RW, US, A, D, PS, G = (1 << bit for bit in (0, 1, 2, 5, 6, 7, 8))
PAT_LARGE = 1 << 12
MIB2, GIB1 = 1 << 21, 1 << 30


@dataclass(frozen=True)
class Bug:
    """What is wrong in words, and the predictor that is wrong in that way."""

    name: str
    predict: Callable


def in_context(name, change):
    """The walker reads the context as `change` makes it."""
    return Bug(
        name, lambda memory, context, accesses: translate_many(memory, change(context), accesses)
    )


def with_fields(name, change):
    """The same, for a context with other fields: `change` returns them."""
    return in_context(name, lambda context: replace(context, **change(context)))


def in_accesses(name, change):
    """The walker understands the accesses as `change` makes them."""
    return Bug(
        name, lambda memory, context, accesses: translate_many(memory, context, change(accesses))
    )


def in_outcomes(name, change):
    """The walker says what `change(outcomes, accesses)` makes of it."""

    def predict(memory, context, accesses):
        outcomes = translate_many(memory, context, accesses)
        return replace(outcomes, **change(outcomes, accesses))

    return Bug(name, predict)


class Misread:
    """Memory whose tables read as `change(frames, words)` makes them."""

    def __init__(self, memory, change):
        self._memory, self._change = memory, change

    def __getattr__(self, name):
        return getattr(self._memory, name)

    def tables(self, frames):
        return self._change(self._memory, frames, self._memory.tables(frames).copy())


def in_memory(name, change):
    """The walker reads the tables as `change` makes them."""
    return Bug(
        name,
        lambda memory, context, accesses: translate_many(
            Misread(memory, change), context, accesses
        ),
    )


def in_bulk(name, plant):
    """The walker has `plant(patch)` done to it while it predicts, and only then."""

    def predict(memory, context, accesses):
        with pytest.MonkeyPatch.context() as patch:
            plant(patch)
            return translate_many(memory, context, accesses)

    return Bug(name, predict)


def right_ignored(name, bit, levels):
    """Entries of these levels grant `bit` whatever they say."""

    def plant(patch):
        at = 0
        leaves_among, grants_of = bulk.leaves_among, bulk.grants_of

        def note(context, level, entries):
            nonlocal at
            at = level
            return leaves_among(context, level, entries)

        patch.setattr(bulk, "leaves_among", note)
        patch.setattr(
            bulk,
            "grants_of",
            lambda entries: grants_of(entries) | np.uint8(bit if at in levels else 0),
        )

    return in_bulk(name, plant)


def not_inherited(name, bit):
    """What leads to a table grants `bit` whatever it says: only the leaf's own counts."""

    def plant(patch):
        leads_on = None
        leaves_among, grants_of = bulk.leaves_among, bulk.grants_of

        def note(context, level, entries):
            nonlocal leads_on
            leads_on = lambda found: ~leaves_among(context, level, found)  # noqa: E731
            return leaves_among(context, level, entries)

        def grants(entries):
            forced = np.where(leads_on(entries), np.uint8(bit), np.uint8(0))
            return grants_of(entries) | forced

        patch.setattr(bulk, "leaves_among", note)
        patch.setattr(bulk, "grants_of", grants)

    return in_bulk(name, plant)


def never_leaf(name, level):
    """PS of this level is overlooked: the entry leads to a table."""

    def plant(patch):
        leaves_among = bulk.leaves_among
        patch.setattr(
            bulk,
            "leaves_among",
            lambda context, at, entries: leaves_among(context, at, entries) & (at != level),
        )
        unreserved(patch, lambda at, *, leaf: PS if at == level else 0)

    return in_bulk(name, plant)


def unreserved(patch, bits):
    """Take `bits(level, leaf=…)` out of the reserved ones."""
    reserved_bits = bulk.reserved_bits
    patch.setattr(
        bulk,
        "reserved_bits",
        lambda context, level, *, leaf: (
            reserved_bits(context, level, leaf=leaf) & ~bits(level, leaf=leaf)
        ),
    )


def not_reserved(name, bits):
    """`bits(level, leaf=…)` are not reserved."""
    return in_bulk(name, lambda patch: unreserved(patch, bits))


def reserved(name, bits):
    """`bits(level, leaf=…)` are reserved as well."""

    def plant(patch):
        reserved_bits = bulk.reserved_bits
        patch.setattr(
            bulk,
            "reserved_bits",
            lambda context, level, *, leaf: (
                reserved_bits(context, level, leaf=leaf) | bits(level, leaf=leaf)
            ),
        )

    return in_bulk(name, plant)


def low_bits_of_leaf(mask):
    """The walker adds these bits of a large leaf to the address."""

    def plant(patch):
        reach = bulk._reach

        def broken(context, level, out, accesses, found):
            reach(context, level, out, accesses, found)
            rows, leaves = found
            out.pa[rows] |= leaves & np.uint64(mask if level > 1 else 0)

        patch.setattr(bulk, "_reach", broken)

    return plant


def marks(change):
    """Words after the walk are `change(before, after)` instead of `after`."""

    def plant(patch):
        merge = bulk.merge_changes
        patch.setattr(
            bulk,
            "merge_changes",
            lambda pa, before, after: merge(pa, before, change(before, after)),
        )

    return plant


def property_is(name, value):
    """The context's property `name` has this value, and no other is affected."""
    return lambda patch: patch.setattr(PagingContext, name, property(lambda self: value))


def judged(change):
    """What the rights say is `change(result, context, accesses, grant, leaves)`."""

    def plant(patch):
        judge = bulk._judge

        def broken(context, accesses, grant, leaves):
            result = judge(context, accesses, grant, leaves)
            return change(result, context, accesses, grant, leaves)

        patch.setattr(bulk, "_judge", broken)

    return plant


def key_denies(context, leaves):
    """Where PKRU denies all data accesses by the leaf's key, bool[n]."""
    key = (leaves >> np.uint64(59)).astype(np.uint32) & np.uint32(15)
    return (np.uint32(context.pkru) >> (key * np.uint32(2)) & np.uint32(1)) != 0


def without_code(bit):
    """The error code lacks this bit."""
    return lambda outcomes, accesses: {"error_code": outcomes.error_code & np.uint16(~bit & 0xFFFF)}


def offset_lost(size):
    """The address within a page of `size` bytes is that within a 4-KiB page."""

    def change(outcomes, accesses):
        cut = np.uint64(size - 4096)
        return {"pa": np.where(outcomes.page_size == size, outcomes.pa & ~cut, outcomes.pa)}

    return change


def all_present(memory, frames, words):
    """Junk without P counts as present."""
    return np.where(words != 0, words | np.uint64(P), words)


def ones_outside(memory, frames, words):
    """What no RAM answers reads as ones."""
    words[~memory.backed(frames)] = np.full(WORDS, np.iinfo(np.uint64).max)
    return words


def faults(outcomes):
    """The rows that fault, bool[n]."""
    return outcomes.kind == Kind.PAGE_FAULT
