"""The interrupt controllers, programmed as a system programs them."""

import pytest

from crosswalk.emu.pc.pic import PicPair

EOI = 0x20


def initialise(pic, base, *, mode=1, mask=0):
    for register, word in ((0, 0x11), (1, base), (1, 4), (1, mode), (1, mask)):
        pic.write(register, word)


@pytest.fixture
def pics():
    pair = PicPair()
    initialise(pair.first, 0x30)
    initialise(pair.second, 0x38)
    return pair


def test_a_line_leads_to_its_vector_once(pics):
    pics.set_line(4, up=True)
    assert pics.pending
    assert 0x34 == pics.acknowledge()
    assert not pics.pending


def test_before_initialisation_nothing_is_pending():
    pair = PicPair()
    pair.first.write(1, 0)
    pair.set_line(0, up=True)
    assert (False, False) == (pair.pending, pair.enabled(0))


def test_a_masked_line_waits_and_is_served_when_the_mask_is_lifted(pics):
    pics.first.write(1, 0x10)
    pics.set_line(4, up=True)
    assert (False, False, 0x10) == (pics.pending, pics.enabled(4), pics.first.read(1))
    pics.first.write(1, 0)
    assert 0x34 == pics.acknowledge()


def test_a_request_that_is_withdrawn_is_gone(pics):
    pics.set_line(4, up=True)
    pics.set_line(4, up=False)
    assert not pics.pending


def test_what_is_in_service_keeps_lower_lines_waiting_until_its_end(pics):
    pics.set_line(1, up=True)
    assert 0x31 == pics.acknowledge()
    pics.set_line(4, up=True)
    assert not pics.pending
    pics.set_line(0, up=True)
    assert 0x30 == pics.acknowledge()  # The timer is above.
    pics.first.write(0, EOI)
    assert not pics.pending  # Line 1 is still in service.
    pics.first.write(0, EOI)
    assert 0x34 == pics.acknowledge()


def test_an_end_can_name_its_line(pics):
    for line in (1, 0):
        pics.set_line(line, up=True)
        pics.acknowledge()
    pics.first.write(0, 0x60 | 1)
    pics.first.write(0, 0x0B)
    assert 0b1 == pics.first.read(0)


def test_the_automatic_end_leaves_nothing_in_service():
    pair = PicPair()
    initialise(pair.first, 0x30, mode=3)
    for _ in range(3):
        pair.set_line(1, up=True)
        assert 0x31 == pair.acknowledge()


def test_a_line_of_the_second_comes_through_line_2_and_wants_two_ends(pics):
    pics.set_line(12, up=True)
    assert 0x3C == pics.acknowledge()
    pics.set_line(4, up=True)
    assert not pics.pending
    pics.second.write(0, EOI)
    assert not pics.pending
    pics.first.write(0, EOI)
    assert 0x34 == pics.acknowledge()


def test_a_mask_of_line_2_is_one_of_all_lines_of_the_second(pics):
    pics.first.write(1, 4)
    pics.set_line(8, up=True)
    assert (False, False) == (pics.pending, pics.enabled(8))


def test_requests_and_lines_in_service_can_be_read(pics):
    pics.set_line(3, up=True)
    pics.acknowledge()
    pics.set_line(5, up=True)
    pics.first.write(0, 0x0A)
    assert 1 << 5 == pics.first.read(0)
    pics.first.write(0, 0x0B)
    assert 1 << 3 == pics.first.read(0)


def test_rotation_makes_the_line_served_the_lowest(pics):
    pics.set_line(0, up=True)
    pics.acknowledge()
    pics.first.write(0, 0xA0)
    pics.set_line(0, up=True)
    pics.set_line(7, up=True)
    assert 0x37 == pics.acknowledge()
