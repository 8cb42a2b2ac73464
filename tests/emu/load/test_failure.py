"""What a failed guest leaves behind, with the names of its code."""

from dataclasses import replace

import pytest

from crosswalk.emu.cpu.events import Event, Kind
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.boot import Boot
from crosswalk.emu.load.code_names import CodeNames
from crosswalk.emu.load.failure import GuestFailure, state_lines
from crosswalk.emu.load.formats import open_image
from crosswalk.emu.load.image import GuestImage
from crosswalk.emu.load.points import parse_point
from crosswalk.emu.pc.results import Delivered, Stop
from crosswalk.emu.workers.contained import contained
from crosswalk.walker.architecture import Vector
from crosswalk.walker.symbols.spans import Span, SpanKind, Spans
from tests.emu.load.elf_files import BASE, Part, code, elf_file
from tests.emu.load.failing_guest import (
    AFTER_CALL,
    ASKING,
    PROTECTED,
    SELECTOR,
    STOP,
    SYMBOLS,
    UNDEFINED,
    failing_guest,
)
from tests.emu.load.small_guests import multiboot_header, with_header


def failed(data, until="idle", **options):
    boot = Boot(Ram(0, 16 << 20), open_image(data), **options)
    with pytest.raises(GuestFailure) as caught:
        list(boot.run([], parse_point(until), 20))
    return caught.value


def test_code_is_named_where_the_guest_has_symbols():
    lines = failed(failing_guest()).lines
    assert f"  exception 6 (#UD) at {UNDEFINED:#x} (work), CPL 0" in lines
    assert (
        f"  exception 13 (#GP) at {PROTECTED:#x} (work+0x20), CPL 0, error code {SELECTOR:#x}"
    ) in lines
    assert "code, of 64 bits, at stop+0x2:" in lines
    assert "return addresses on the stack: start+0x7f" in lines
    assert (
        f"  port 0x1234, 1 byte, read once, first by the code at {ASKING:#x} (work+0x10)"
    ) in lines


def test_events_that_are_alike_in_a_row_are_one_line():
    state = failed(failing_guest()).state
    invalid, protected = state.events
    events = (invalid, invalid, invalid, protected, invalid)
    lines = list(state_lines(replace(state, events=events, delivered=9)))
    at = lines.index("exceptions and interrupts, the last of 9:")
    first = f"  exception 6 (#UD) at {UNDEFINED:#x} (work), CPL 0"
    assert [f"{first}, 3 times", first] == [lines[at + 1], lines[at + 3]]
    assert lines[at + 4].startswith("registers")


def test_code_is_addresses_alone_where_there_are_no_symbols():
    lines = failed(failing_guest(symbols=None)).lines
    assert f"  exception 6 (#UD) at {UNDEFINED:#x}, CPL 0" in lines
    assert "code, of 64 bits:" in lines
    assert f"return addresses on the stack: {AFTER_CALL:#x}" in lines
    assert f"  port 0x1234, 1 byte, read once, first by the code at {ASKING:#x}" in lines


def test_symbols_that_are_given_are_taken_instead_of_the_guests_own():
    given = Spans.of(SpanKind.SYMBOL, [Span("mine", BASE, BASE + 0x1000, SpanKind.SYMBOL)])
    lines = failed(failing_guest(), symbols=given).lines
    assert f"code, of 64 bits, at mine+{STOP + 2 - BASE:#x}:" in lines


def test_the_state_is_data_that_another_process_can_have():
    boot = Boot(Ram(0, 16 << 20), open_image(failing_guest()))
    with pytest.raises(GuestFailure) as caught:
        contained(lambda: list(boot.run([], parse_point("idle"), 20)))
    failure, state = caught.value, caught.value.state
    assert (Stop.HALTED, 64, STOP + 2) == (state.ended.stop, state.bits, state.rip)
    assert ((AFTER_CALL, "start+0x7f"),) == state.callers
    assert ["work", "work+0x20"] == [state.names[each.rip] for each in state.events]
    assert (2, STOP + 2) == (state.delivered, state.registers["rip"])
    assert "the guest didn't reach idle: halted for good: no interrupt can wake the CPU" == str(
        failure
    )


def test_the_text_display_is_shown_where_the_guest_has_written_to_it():
    lines = failed(failing_guest()).lines
    at = lines.index("text display, 80 by 25 characters:")
    assert ["console: nothing", "", "  Hi"] == [lines[0], *lines[at + 1 : at + 3]]
    without = failed(with_header(multiboot_header(), "cli\nhlt")).lines
    assert not any("display" in line for line in without)


@pytest.mark.parametrize("vector", Vector)
def test_error_codes_are_those_of_exceptions_that_push_one(vector):
    # Intel SDM vol. 3A, "Exception and Interrupt Vectors"; outside real mode.
    pushes = vector in {8, 10, 11, 12, 13, 14, 17, 21}
    event = Event(vector, Kind.EXCEPTION, 0x18)
    assert (0x18 if pushes else None) == Delivered(event, 0, 0, None, True).error_code
    assert None is Delivered(event, 0, 0, None, False).error_code


@pytest.mark.parametrize("kind", [Kind.INTERRUPT, Kind.SOFTWARE])
def test_what_is_no_exception_has_no_error_code(kind):
    assert None is Delivered(Event(13, kind, 0x18), 0, 0, None, True).error_code


def names(**parts):
    """Names of a guest that is linked to the upper half and loaded at `BASE`."""
    high = 0xFFFF_FFFF_8000_0000
    content = code("call there\nthere: nop", bits=64)
    file = elf_file(
        [Part(BASE, content, va=high)], bits=64, symbols={"entry": high, "there": high + 5}
    )
    return CodeNames(open_image(file).image, **parts), high


def test_code_that_runs_where_it_is_loaded_is_named_as_what_lies_at_that_physical_address():
    code_names, high = names()
    assert ["entry", "entry+0x4", "there"] == [code_names.name(high + at) for at in (0, 4, 5)]
    assert ["pa:entry", "pa:there"] == [code_names.name(BASE + at) for at in (0, 5)]
    assert None is code_names.name(BASE - 1)


def test_an_address_behind_an_instruction_is_named_by_the_function_that_ends_there():
    code_names, high = names()
    assert ["entry+0x5", "there+0x1"] == [code_names.name_behind(high + at) for at in (5, 6)]
    early = ["pa:entry+0x5", "pa:there+0x1"]
    assert early == [code_names.name_behind(BASE + at) for at in (5, 6)]
    assert (None, None) == (code_names.name_behind(high), code_names.name_behind(0))


def test_return_addresses_are_those_behind_a_call_in_either_place():
    code_names, high = names()
    stack = [0, high + 5, high + 4, BASE + 5, BASE + 6]
    assert [high + 5, BASE + 5] == list(code_names.return_addresses(stack))


def test_a_guest_whose_file_is_no_elf_file_has_return_addresses_without_names():
    content = code("call there\nthere: nop")
    bare = CodeNames(GuestImage(((BASE, content, len(content)),), BASE))
    assert [BASE + 5] == list(bare.return_addresses([BASE + 5, BASE + 4]))
    assert None is bare.name(BASE)


def test_the_guests_symbols_are_those_of_its_file():
    assert SYMBOLS == dict(open_image(failing_guest()).image.symbols)
