"""The search of all memory for roots, in systems whose roots are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crosswalk.walker import BadInput, Segments
from crosswalk.walker.formats import Registers
from crosswalk.walker.formats.files import map_file
from crosswalk.walker.memory import WORDS
from crosswalk.walker.roots import find_roots, levels, scan, units
from tests.tables import KIB4, OPEN, XD, P
from tests.walker.roots.systems import KERNEL, SIZE, System, noise, raw

MODES = {4: "4-level", 5: "5-level", "PAE": "PAE", "32-bit": "32-bit"}


def found(contents, **registers):
    return find_roots(contents, Registers(**registers), width=52)


def resident(data):
    """How many bytes of a mapping are resident: proc(5), /proc/pid/smaps."""
    place = f"{np.frombuffer(data, np.uint8).ctypes.data:08x}-"
    _, _, rest = Path("/proc/self/smaps").read_text().partition(f"\n{place}")
    (line,) = [each for each in rest.splitlines()[:6] if each.startswith("Rss:")]
    return int(line.split()[1]) << 10


def places(roots):
    return sorted(root.context.root for root in roots)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mode", MODES)
def test_the_roots_of_a_system_are_found_and_nothing_else(mode, seed):
    system = System(mode).processes(6)
    roots = found(system.contents(seed))
    assert system.roots == places(roots)
    assert {(MODES[mode], 0, 49, 9)} == {
        (root.context.mode.value, root.group, root.mappings, root.user_mappings) for root in roots
    }
    assert () == roots.remarks


@pytest.mark.parametrize("mode", [4, 5])
def test_a_lone_root_is_told_from_the_tables_below_it(mode):
    system = System(mode)
    system.space([(0x40_0000 + at * KIB4, 0x20_0000 + at * KIB4, OPEN) for at in range(9)])
    assert system.roots == places(found(system.contents()))


def test_a_table_taken_for_likely_whatever_it_refers_to_would_show(monkeypatch):
    system = System().processes(3)
    contents = system.contents()
    monkeypatch.setattr(levels, "_leads_on", lambda *given: np.ones(len(given[-1]), np.bool_))
    monkeypatch.setattr(units._Picked, "has_below", lambda *_: False)
    assert system.roots != places(found(contents))


@pytest.mark.parametrize("seed", range(4))
def test_in_memory_without_tables_there_is_no_root(seed):
    assert () == tuple(found(raw(Segments([(0, noise(seed, SIZE))]))))


def test_registers_decide_on_the_mode():
    contents = System(5).processes(3).contents()
    assert {"4-level"} == {root.context.mode.value for root in found(contents, cr4=0x20)}
    assert {"5-level"} == {root.context.mode.value for root in found(contents, cr4=0x1020)}
    with pytest.raises(BadInput, match="no paging mode"):
        found(contents, cr4=0, efer=0x500)


def test_a_self_map_leaves_roots_in_their_group():
    system = System().processes(3)
    for root in system.roots:
        system.entries[root + 8 * 0x1ED] = root | OPEN | XD
    roots = found(system.contents())
    assert system.roots == places(roots)
    assert {0} == {root.group for root in roots}


def test_a_root_that_another_of_its_group_maps_as_a_table_stays_a_root():
    system = System().processes(3)
    system.entries[system.roots[0] + 8 * 100] = system.roots[1] | OPEN
    assert system.roots == places(found(system.contents()))


def test_with_the_encryption_mask_roots_are_found():
    system, bit = System().processes(3), 1 << 47
    system.entries = {pa: entry | bit for pa, entry in system.entries.items()}
    contents = system.contents()
    assert () == tuple(found(contents))
    assert system.roots == places(found(contents, encryption_mask=bit))


def test_pairs_of_page_table_isolation_name_each_other():
    system = System()
    kernel = system.space([])
    system.entries[kernel + 8 * 511] = system.entries[kernel + 8 * 273] & ~2
    pairs = []
    for number in range(3):
        # The pair of a root begins at a multiple of 8 KiB.
        system._free = (system._free + 2 * KIB4 - 1) & -2 * KIB4
        system._free += KIB4
        first = system._free - KIB4
        mapped = System()
        mapped._free, mapped.roots, mapped._kernel = first + KIB4, [0], {8 * 511: 0}
        user = mapped.space([(0x40_0000, 0x20_0000 + number * KIB4, OPEN)])
        ours = {
            pa - user + first: entry for pa, entry in mapped.entries.items() if pa < user + KIB4
        }
        slots = {pa: entry | XD for pa, entry in ours.items() if entry}
        shared = system.entries[kernel + 8 * 511]
        system.entries |= mapped.entries | slots
        system.entries |= {first + 8 * 511: shared, user + 8 * 511: shared}
        system.entries[first + 8 * 273] = system.entries[kernel + 8 * 273]
        system.roots += [first, user]
        system._free = mapped._free
        pairs += [(first, user), (user, first)]
    roots = found(system.contents())
    assert sorted(system.roots) == places(roots)
    assert sorted(pairs) == sorted((r.context.root, r.pair) for r in roots if r.pair is not None)
    users = {user for first, user in pairs if first < user}
    assert users == {root.context.root for root in roots if root.role == "pti-user"}
    assert 2 == len({root.group for root in roots})


def test_roles_tell_live_lazy_and_dead_roots():
    system = System().processes(2)
    lazy, dead = system.space([]), system.space([])
    cpu = Registers(cr0=0x8001_0033, cr3=lazy, cr4=0x20)
    roots = found(system.contents(registers=cpu, cpus=(cpu,)))
    assert {
        system.roots[0]: "process",
        system.roots[1]: "process",
        lazy: "lazy",
        dead: "dead",
    } == {root.context.root: root.role for root in roots}
    assert (lazy, "cpu 0") == (roots[0].context.root, roots[0].source)


def test_pae_roots_with_reserved_bits_are_said_to_be_there():
    system = System("PAE").processes(4)
    for root in system.roots:
        system.entries[root] |= 0x20
    roots = found(system.contents())
    assert () == tuple(roots)
    assert "4 places could be roots of PAE paging, but set a reserved bit" in roots.remarks[0]


def test_until_one_leaves_out_what_costs_more(monkeypatch):
    system = System().processes(3)
    text = f"SYMBOL(swapper_pg_dir)={0xFFFF_FFFF_8000_0000 + system.roots[2]:x}\n"
    contents = system.contents(vmcoreinfo=text)
    monkeypatch.setattr(
        "crosswalk.walker.roots.scan.scan", lambda *_: pytest.fail("memory was searched")
    )
    roots = find_roots(contents, until_one=True)
    assert [(system.roots[2], "vmcoreinfo")] == [(r.context.root, r.source) for r in roots]


def test_without_a_scan_no_frame_is_read_that_nothing_names():
    def refused(frames):
        pytest.fail(f"{len(frames)} frames were read")

    contents = System().processes(1).contents()
    contents.memory.tables = refused
    assert 0 == len(find_roots(contents, scan=False))


def table_bomb(frames):
    following = (np.arange(frames, dtype=np.uint64) + np.uint64(1)) % np.uint64(frames)
    return np.repeat(following << np.uint64(12) | np.uint64(7), WORDS)


def entries(frames):
    chance = np.random.default_rng(1)
    target = chance.integers(1, frames, frames * WORDS).astype(np.uint64)
    return target << np.uint64(12) | np.uint64(0x67)


@pytest.mark.parametrize(
    "words",
    [
        np.full(256 * WORDS, ~np.uint64(0)),
        np.full(256 * WORDS, np.uint64(0x1007)),
        table_bomb(64),
        entries(8),
        np.random.default_rng(1).integers(0, 256, 256 * WORDS).astype(np.uint64),
    ],
    ids=["all ones", "one target", "bomb", "entries", "small numbers"],
)
def test_hostile_memory_has_an_answer(words):
    contents = raw(Segments([(0, words.view(np.uint8))]))
    roots = found(contents)
    assert places(roots) == places(found(contents))
    assert all(root.mappings for root in roots)


def test_more_candidates_than_can_be_told_apart_are_counted(monkeypatch):
    monkeypatch.setattr(units, "_UNITS", 2)
    system = System()
    for number in range(5):
        system._kernel, system.roots = {}, []
        system.space([(KIB4 * (number + 1), 0x20_0000, P)])
    assert "more frames could be roots" in found(system.contents()).remarks[0]


def test_too_many_tables_end_the_search_with_a_remark(monkeypatch):
    monkeypatch.setattr("crosswalk.walker.roots.sieve.MOST", 3)
    roots = found(System().processes(3).contents())
    assert () == tuple(roots)
    assert (
        "more than 3 frames could be tables: too many to find the roots among",
    ) == roots.remarks


def identity_map(system, *others, upper=None):
    """Add an identity map, all of it writable and executable, and return its root.

    `others` are linear addresses of one more page, `upper` entries of the root by their offset.
    """
    system._kernel, made = upper or {}, system.roots
    system.roots = [0]
    mapped = [(va, va & 0xFF_FFFF, P | 2) for va in (*others, *range(KIB4, 40 * KIB4, KIB4))]
    root = system.space(mapped, upper=P | 2)
    system.roots = [*made, root]
    return root


def test_a_root_that_nothing_connects_with_others_is_a_stray_and_comes_last():
    system = System().processes(3)
    alone = identity_map(system)
    roots = found(system.contents())
    assert (alone, "stray", 1) == (roots[-1].context.root, roots[-1].role, roots[-1].group)
    assert [roots[-1]] == list(roots.strays)
    assert system.roots[:-1] == sorted(root.context.root for root in roots.known)


def test_what_somebody_names_and_the_best_root_are_no_strays():
    system = System().processes(3)
    alone = identity_map(system)
    cpu = Registers(cr0=0x8001_0033, cr3=alone, cr4=0x20)
    roots = found(system.contents(registers=cpu, cpus=(cpu,)))
    assert (alone, ()) == (roots[0].context.root, roots.strays)
    lone = System()
    alone = identity_map(lone)
    (root,) = found(lone.contents())
    assert (alone, "") == (root.context.root, root.role)


def test_two_that_are_alike_are_no_strays():
    system = System().processes(3)
    first = identity_map(system, KIB4 | 0xFFFF_9900_0000_0000)
    upper = {8 * 306: system.entries[first + 8 * 306]}
    assert first in {each.context.root for each in found(system.contents()).strays}
    second = identity_map(system, upper=upper)
    roots = found(system.contents())
    assert {first, second} == {root.context.root for root in roots.known if root.group == 1}


def test_kernels_are_told_by_where_their_table_is_mapped():
    system = System().processes(2)
    swapper = system.space([])
    page = system.entries  # The kernel's tables are the first process'.
    table = next(pa for pa, entry in page.items() if entry & ~XD == 0x1000 | P | 0x22)
    page[table] = page[table + 8] = swapper | P | 0x22 | XD
    roles = {root.context.root: root.role for root in found(system.contents())}
    assert {"swapper"} == {roles[swapper]}
    assert KERNEL[4] > 0


def test_of_several_texts_of_vmcoreinfo_those_count_whose_root_makes_sense():
    system = System().processes(2)
    contents = system.contents()
    base = 0xFFFF_FFFF_8000_0000
    # A copy in a file's cache, of a kernel that isn't there, and a kernel's that was kexec'd.
    for place, root in ((0x1_0000, 0x3F_0000), (0x2_0000, system.roots[1])):
        text = f"OSRELEASE=6.1\nSYMBOL(swapper_pg_dir)={base + root:x}\n\0".encode()
        memory = np.frombuffer(contents.memory.read(0, SIZE), np.uint8).copy()
        memory[place : place + len(text)] = np.frombuffer(text, np.uint8)
        contents = raw(Segments([(0, memory)]))
    first, *others = found(contents)
    assert (system.roots[1], "vmcoreinfo", "swapper") == (
        first.context.root,
        first.source,
        first.role,
    )
    assert {"scan"} == {root.source for root in others}


@pytest.mark.parametrize("mode", [4, "PAE", "32-bit"])
def test_each_pass_of_a_search_is_told_by_its_name_and_goes_forward(mode):
    told = {}
    passes = []

    def progress(what, done, total):
        if passes[-1:] != [what]:
            passes.append(what)
        told.setdefault(what, []).append((done, total))

    contents = System(mode).processes(6).contents()
    find_roots(contents, width=52, progress=progress)
    assert ["frames searched for VMCOREINFO", "frames searched for tables"] == passes[:2]
    assert any("candidates for roots, " in what for what in passes)
    for steps in told.values():
        done, totals = zip(*steps, strict=True)
        assert list(done) == sorted(done)
        assert 0 <= done[-1] <= totals[0]
    assert {(SIZE // KIB4, SIZE // KIB4)} == {told[what][-1] for what in passes[:2]}
    assert len(told) <= 16


def test_why_a_root_is_chosen_counts_one_mapping_as_one():
    system = System()
    system.space([(0x40_0000, 0x20_0000, OPEN)])
    (root,) = found(system.contents())
    assert root.why(1).endswith(f"(process, {root.mappings} mappings)")
    assert replace(root, mappings=1).why(1).endswith("(process, 1 mapping)")


def test_what_was_searched_is_given_back(tmp_path):
    path = tmp_path / "memory"
    ((_, tables),) = System().processes(6).contents().memory.parts
    path.write_bytes(tables.tobytes() + noise(1, SIZE << 2).tobytes())
    data = map_file(path).data
    memory = Segments([(0, data)])
    find_roots(raw(memory), width=52)
    # The tables, which are read again, lie in the first part.
    assert resident(data) <= SIZE
    memory.tables(np.arange(0, 5 * SIZE, KIB4, dtype=np.uint64)).sum()
    assert 5 * SIZE == resident(data)


def twice_mapped(*, named, tables_alike=True):
    """A memory of 32-bit paging whose page tables look like directories, and its two roots.

    Each root has a page table of its own, as xv6's have, at 0xC0000000: of all memory, with 1,024
    entries. Both tables are alike, so that they look like the roots of one kernel's processes.
    """
    memory = np.zeros(SIZE, np.uint8)
    words = memory.view(np.uint32).reshape(-1, 1024)
    for root in (0x80, 0x90):
        words[root, 768] = (root + 1) << 12 | P | 2
        words[root, 1] = (root + 2) << 12 | OPEN
        words[root + 1] = np.arange(1024) << 12 | P | 2
        words[root + 2, root] = 0x20_0000 | OPEN
    if not tables_alike:
        words[0x91, 5] &= ~np.uint32(2)
    cpu = Registers(cr0=0x8001_0033, cr3=0x8_0000, cr4=0x10, efer=0)
    return raw(Segments([(0, memory)]), **({"registers": cpu, "cpus": (cpu,)} if named else {}))


def test_page_tables_that_look_like_directories_are_no_roots_of_32bit_paging():
    # By hand: 0x81 and 0x91 map all memory, 0x82 and 0x92 a page of the user each.
    roots = found(twice_mapped(named=True))
    assert [0x8_0000, 0x9_0000] == places(roots.known)
    assert {("32-bit", 0, 1025, 1)} == {
        (each.context.mode.value, each.group, each.mappings, each.user_mappings) for each in roots
    }
    (remark,) = roots.remarks
    assert remark.startswith("2 frames could be page directories or page tables")


def test_a_directory_of_another_kernel_is_not_taken_for_a_root_of_32bit_paging():
    roots = found(twice_mapped(named=True, tables_alike=False))
    assert [0x8_0000] == places(roots)


def test_page_tables_taken_for_directories_would_show(monkeypatch):
    monkeypatch.setattr(scan, "of_one_kernel", lambda *given: given[-1])
    assert {0x8_1000, 0x9_1000} <= set(places(found(twice_mapped(named=True)).known))
