from hypothesis import Phase, given, settings
from tiny_walker import translate

from crosswalk.emu.testing.strategies import layouts

PHASES = set(Phase) - {Phase.explain}  # It would take most of the time, and point into Hypothesis.


@settings(max_examples=300, deadline=None, phases=PHASES)
@given(layout=layouts())
def test_the_walker_does_what_the_cpu_does(check_walker, layout):
    check_walker(translate, layout)


def test_the_walker_is_right_where_it_was_wrong_once(check_walker, crosswalk_case):
    check_walker(translate, crosswalk_case)
