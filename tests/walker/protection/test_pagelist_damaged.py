from itertools import pairwise

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from crosswalk.walker.protection import Permission
from crosswalk.walker.protection.pagelist import MalformedRequest, PageEntry, decode, encode
from tests.walker.protection.page_lists import LIST, PAGE, RAM, Reads, memory_with

MANY = settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
R, W, X = Permission


def entry(page, pages=1, permission=R):
    return PageEntry(page * PAGE, (page + pages) * PAGE, permission)


FEW = encode([entry(1, 2, R | W), entry(7, 1, R | X), *(entry(at) for at in range(20, 190))], LIST)
INTERESTING = st.sampled_from((0, 1, 7, 8, 169, 170, LIST, LIST + PAGE, RAM, 2**63, 2**64 - 1))


@MANY
@given(
    changes=st.lists(
        st.tuples(
            st.sampled_from((0, 1, 2, 3, 4, 5, 6, 512, 513, 514, 515, 516, 517))
            | st.integers(0, len(FEW) // 8 - 1),
            INTERESTING | st.integers(0, 2**64 - 1),
        ),
        min_size=1,
        max_size=6,
    ),
    write_execute=st.booleans(),
)
@example(changes=[(1, LIST)], write_execute=False)
def test_a_damaged_list_is_refused_in_a_line_or_in_order(changes, write_execute):
    words = np.frombuffer(FEW, np.uint64).copy()
    for at, word in changes:
        words[at] = word
    memory = Reads(memory_with({LIST: words.tobytes()}))
    found = answer(memory, write_execute=write_execute)
    assert memory.count <= 3
    if isinstance(found, str):
        assert found.startswith("page ")
        assert "\n" not in found
        return
    for one, other in pairwise(sorted(found)):
        assert one.epa <= other.pa
    for each in found:
        assert each.pa % PAGE == each.epa % PAGE == 0
        assert 0 <= each.pa < each.epa <= RAM
        assert each.permission & R
        assert write_execute or each.permission & (W | X) != W | X


def answer(memory, **options):
    """What `decode` returns, or says when it refuses."""
    try:
        return decode(memory, LIST, **options)
    except MalformedRequest as error:
        return str(error)
