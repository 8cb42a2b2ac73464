from hypothesis import given, settings
from tiny_walker import translate

from crosswalk.emu.testing.strategies import layouts


@settings(max_examples=300, deadline=None)
@given(layout=layouts())
def test_the_walker_does_what_the_cpu_does(check_walker, layout):
    check_walker(translate, layout)


def test_the_walker_is_right_where_it_was_wrong_once(check_walker, crosswalk_case):
    check_walker(translate, crosswalk_case)
