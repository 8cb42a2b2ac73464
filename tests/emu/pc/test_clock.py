"""The machine's time."""

from itertools import pairwise

from crosswalk.emu.pc.clock import Clock, moment


def steps(count):
    clock = Clock()
    stamps = [clock.stamp() for _ in range(count)]
    return [after - before for before, after in zip([0, *stamps], stamps, strict=False)]


def test_readings_in_a_row_are_irregular_and_the_same_each_time():
    found = steps(1000)
    assert steps(1000) == found
    assert all(2000 <= step < 3024 for step in found)
    assert len(set(found)) > 500


def test_no_reading_looks_stuck_as_linux_judges_it():
    # Linux' jitterentropy calls a step stuck whose first, second or third difference is 0.
    first = steps(1000)
    second = [after - before for before, after in pairwise(first)]
    third = [after - before for before, after in pairwise(second)]
    assert sum(difference == 0 for difference in second + third) < 10


def test_a_constant_step_would_look_stuck():
    clock = Clock()
    moments = []
    for _ in range(10):
        clock.spend()
        moments.append(clock.now)
    assert [2000 * (number + 1) for number in range(10)] == moments


def test_a_wait_never_goes_back():
    clock = Clock()
    clock.wait(5000)
    clock.wait(3000)
    assert 5000 == clock.now


def test_another_clock_begins_a_period_at_its_moment_and_not_before():
    clock = Clock()
    for unit in (1, 7, 1_193_182, 123_456_789):
        at = moment(unit, 1_193_182)
        clock.now = at
        assert unit == clock.units(1_193_182)
        clock.now = at - 1
        assert unit - 1 == clock.units(1_193_182)
    assert 2_000_000_000 == moment(1_193_182, 1_193_182)
