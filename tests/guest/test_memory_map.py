from collections import defaultdict
from itertools import pairwise

import pytest

from crosswalk.guest import places
from crosswalk.guest.builder import build_image
from crosswalk.guest.errors import LayoutError
from crosswalk.guest.memory_map import memory_map
from crosswalk.guest.status import log_capacity

PAGE = 4096


@pytest.fixture(scope="module", params=[4, 5], ids=["4-level", "5-level"])
def image(request):
    return build_image(request.param)


def collective_rights(image):
    """Return the union of all rights over all mappings, by frame number, for RAM."""
    rights = defaultdict(set)
    for region in image.intended:
        allowed = set(region.supervisor + region.user) - {"-"}
        end = min(region.pa + region.size * region.count, image.ram_size)
        for frame in range(region.pa // PAGE, end // PAGE):
            rights[frame] |= allowed
    return rights


def test_other_numbers_of_levels_are_refused():
    with pytest.raises(LayoutError, match="no guest has 3 paging levels"):
        memory_map(3)


def test_names_are_unique(image):
    names = [named.name for named in (*image.intended, *image.faulting)]
    assert len(names) == len(set(names))


def test_nothing_is_in_the_way_of_anything(image):
    places = [(i.va, i.size * i.count, i.name) for i in image.intended]
    places += [(f.va, f.size, f.name) for f in image.faulting]
    overlaps = [
        (name, other)
        for (va, size, name), (following, _, other) in pairwise(sorted(places))
        if va + size > following
    ]
    assert [] == overlaps


def test_guards_are_next_to_what_they_guard(image):
    ends = {i.va + i.size * i.count for i in image.intended}
    begins = {i.va for i in image.intended}
    guards = [f for f in image.faulting if f.name.startswith("guard")]
    assert 4 == len(guards)
    assert all(f.va in ends or f.va + f.size in begins for f in guards)


def test_one_frame_is_writable_and_executable_and_it_is_meant_to_be(image):
    both = {frame for frame, rights in collective_rights(image).items() if {"w", "x"} <= rights}
    (jit,) = (i.pa // PAGE for i in image.intended if i.name == "user jit")
    assert {jit} == both


def test_code_lies_in_frames_that_are_executable_and_not_writable(image):
    rights = collective_rights(image)
    for code in image.code:
        assert {"r", "x"} == rights[code.pa // PAGE], code.source


def test_every_page_size_is_mapped_in_and_out_of_ram(image):
    inside = {i.size for i in image.intended if i.pa < image.ram_size}
    outside = {i.size for i in image.intended if i.pa >= image.ram_size}
    assert {1 << 12, 1 << 21, 1 << 30} == inside == outside


def test_every_upper_level_narrows_every_right(image):
    rights = {i.name: (i.supervisor, i.user) for i in image.intended}
    for level in range(2, image.levels + 1):
        assert ("---", "r-x") == rights[f"read-only at level {level}"]
        assert ("r-x", "---") == rights[f"supervisor at level {level}"]
        assert ("---", "rw-") == rights[f"no-execute at level {level}"]
        assert ("r--", "---") == rights[f"kernel read-only at level {level}"]


def test_junk_is_at_every_level_and_never_present(image):
    junk = [raw for raw in image.memory_map.raws if raw.name.startswith("junk")]
    assert set(range(1, image.levels + 1)) == {raw.level for raw in junk}
    assert not any(raw.entry & 1 for raw in junk)
    assert all(raw.entry for raw in junk)


def test_the_pool_is_left_to_the_guest(image):
    start, end = places.POOL, places.POOL + places.POOL_FRAMES * PAGE
    assert end <= image.ram_size
    assert not [pa for pa, data in image.segments if pa < end and pa + len(data) > start]


def test_every_table_of_the_pool_can_be_logged(image):
    assert log_capacity(image.status_size) >= places.POOL_FRAMES
