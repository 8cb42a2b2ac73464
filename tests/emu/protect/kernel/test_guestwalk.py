"""The host's own walk, held against the walker's."""

import random

import numpy as np
import pytest

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.protect.kernel.guestwalk import find_kernel_root, find_leaf, lower_leaves
from crosswalk.walker.context import PagingContext
from crosswalk.walker.mappings import mappings
from crosswalk.walker.memory import Segments
from crosswalk.walker.rights import Rights
from tests.emu.protect.kernel.tiny_kernel import (
    COUNT,
    DIRECT,
    IMAGE,
    PAGE,
    RAM,
    ROOT0,
    ROOT1,
    TABLES,
    TEXT,
    USER,
    WINDOW,
    tiny_kernel,
)


@pytest.fixture(scope="module")
def ram():
    found = Ram(0, RAM)
    for start, content, _ in tiny_kernel().segments:
        found.write(start, content)
    return found


def at(root):
    return PagingContext(cr0=0x8001_0011, cr3=root, cr4=0x20, efer=0xD00)


def tiny(root):
    return at(TABLES + root * PAGE)


@pytest.mark.parametrize("root", [ROOT0, ROOT1, WINDOW])
def test_leaves_are_the_walkers_mappings(ram, root):
    memory = Segments([(0, ram.bytes)])
    found = list(mappings(memory, tiny(root)))
    dice = random.Random(5)
    for each in found:
        va = each.va + dice.randrange(each.size)
        leaf = find_leaf(memory, tiny(root), va)
        assert (each.pa, each.size) == (leaf.pa, leaf.size)
        user = bool(each.rights & Rights.USER_READ)
        assert user is leaf.user
        write = Rights.USER_WRITE if user else Rights.SUPERVISOR_WRITE
        execute = Rights.USER_EXECUTE if user else Rights.SUPERVISOR_EXECUTE
        assert bool(each.rights & write) is leaf.writable
        assert bool(each.rights & execute) is leaf.executable
        assert int(ram.words[leaf.entry // 8]) & -PAGE & ~(1 << 63) == each.pa
    low = [
        va
        for each in found
        if each.va < 1 << 47
        for va in range(each.va, each.va + each.size, PAGE)
    ]
    assert low == list(lower_leaves(memory, tiny(root)))


def test_what_is_not_mapped_has_no_leaf(ram):
    memory = Segments([(0, ram.bytes)])
    assert None is find_leaf(memory, tiny(ROOT1), USER + PAGE)
    assert None is find_leaf(memory, tiny(ROOT1), 1 << 45)
    assert None is find_leaf(memory, at(1 << 39), TEXT)
    assert TEXT == find_leaf(memory, tiny(WINDOW), IMAGE + TEXT).pa
    assert TEXT == find_leaf(memory, tiny(WINDOW), DIRECT + TEXT).pa


def test_the_kernels_own_root_has_the_same_upper_half_and_no_lower_one(ram):
    memory = Segments([(0, ram.bytes)])
    frames = np.arange(TABLES, TABLES + COUNT * PAGE, PAGE, dtype=np.uint64)
    own = TABLES + ROOT0 * PAGE
    # All three have something in the lower half.
    assert None is find_kernel_root(memory, tiny(ROOT1), frames)
    low, ram.words[own // 8] = int(ram.words[own // 8]), 0
    try:
        assert own == find_kernel_root(memory, tiny(ROOT1), frames)
        assert own == find_kernel_root(memory, at(own), frames)
        # It isn't the image's, or has another upper half.
        assert None is find_kernel_root(memory, tiny(ROOT1), frames[1:])
        ram.words[own // 8 + 511] += 0x1000
        assert None is find_kernel_root(memory, tiny(ROOT1), frames)
        ram.words[own // 8 + 511] -= 0x1000
    finally:
        ram.words[own // 8] = low
    # A root that maps nothing there is nobody's.
    assert None is find_kernel_root(memory, at(0), frames)
