"""The list of what nothing answered."""

from crosswalk.emu.pc.unanswered import (
    Target,
    Unanswered,
    unanswered_lines,
    unanswered_text,
)

RIP = 0x1234
NAMES = {RIP: "look+0x4"}


def noted(*asked):
    unanswered = Unanswered()
    for target, address, write, size in asked:
        unanswered.note(target, address, write=write, size=size, rip=lambda: RIP)
    return unanswered


def test_the_most_frequent_come_first_and_each_line_has_all():
    unanswered = noted(
        (Target.PORT, 0x80, True, 1),
        *[(Target.MSR, 0x1B, False, 8)] * 1000,
        *[(Target.MEMORY, 0xFED0_0000, False, 4)] * 2,
    )
    code = "first by the code at 0x1234 (look+0x4)"
    assert [
        "asked of hardware that isn't there:",
        f"  MSR 0x1b, 8 bytes, read 1,000 times, {code}",
        f"  physical address 0xfed00000, 4 bytes, read 2 times, {code}",
        f"  port 0x80, 1 byte, written once, {code}",
    ] == list(unanswered_lines(unanswered, NAMES.get))


def test_nothing_is_said_where_all_was_answered():
    assert [] == list(unanswered_lines(Unanswered(), NAMES.get))


def test_a_guest_that_asks_everything_is_cut_and_that_is_said():
    unanswered = noted(*((Target.MEMORY, frame << 12, False, 4) for frame in range(5000)))
    assert (4096, 904) == (len(unanswered), unanswered.dropped)
    lines = list(unanswered_lines(unanswered, NAMES.get, 3))
    assert "asked of hardware that isn't there, the 3 most frequent of 4096:" == lines[0]
    assert "  and 904 more accesses elsewhere" == lines[-1]
    assert 5 == len(lines)


def test_the_code_is_asked_for_once_a_question():
    rips = iter([1, 2, 3])
    unanswered = Unanswered()
    for port in (0x60, 0x60, 0x61, 0x60):
        unanswered.note(Target.PORT, port, write=False, size=1, rip=lambda: next(rips))
    assert [(1, 3), (2, 1)] == [(asked.rip, asked.count) for asked in unanswered]


def test_records_are_as_json_has_them():
    assert [
        {
            "target": "port",
            "address": "0x61",
            "access": "read",
            "size": 1,
            "count": 2,
            "rip": "0x1234",
            "symbol": "look+0x4",
        }
    ] == noted(*[(Target.PORT, 0x61, False, 1)] * 2).records(NAMES.get)


def test_code_without_a_name_is_an_address_alone():
    unanswered = noted((Target.PORT, 0x61, True, 1))
    (*_, line) = unanswered_lines(unanswered, {}.get)
    assert line.endswith("written once, first by the code at 0x1234")
    assert [None] == [each["symbol"] for each in unanswered.records({}.get)]


def test_all_in_a_line_counts_places_and_times():
    unanswered = noted(
        *((Target.PORT, port, write, 1) for port in (0x60, 0x61) for write in (False, True)),
        *[(Target.MSR, 0x1B, False, 8)] * 1000,
        (Target.MEMORY, 0xFED0_0000, False, 4),
        (Target.MEMORY, 0xFED0_0008, True, 4),
    )
    assert (
        "asked of hardware that isn't there: 2 ports, 1 MSR, 1 frame of memory; 1,006 times in all"
    ) == unanswered_text(unanswered)
    once = "asked of hardware that isn't there: 1 MSR; once"
    assert once == unanswered_text(noted((Target.MSR, 0x1B, False, 8)))
    assert "" == unanswered_text(Unanswered())
