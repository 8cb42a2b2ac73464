"""The text display: its registers, and what a screen of it shows."""

import pytest

from crosswalk.emu.pc.vga import TEXT_BYTES, Crtc, screen_lines
from tests.emu.cpu.machine import Bare

WHITE = 0x0F


def test_registers_are_selected_and_keep_what_is_written():
    crtc = Crtc()
    for index, value in ((0x0E, 0x07), (0x0F, 0xD0), (0x40, 0x55)):
        crtc.write(0, index)
        crtc.write(1, value)
    assert (0x40, 0) == (crtc.read(0), crtc.read(1))
    crtc.write(0, 0x0F)
    assert 0xD0 == crtc.read(1)


def memory(*texts, at=0):
    """The display's memory with these texts one after another, from a character on."""
    content = bytearray(TEXT_BYTES)
    for character, byte in enumerate(b"".join(texts), at):
        content[2 * character % TEXT_BYTES : 2 * character % TEXT_BYTES + 2] = (byte, WHITE)
    return bytes(content)


def row(text):
    return text.ljust(80)


def test_a_screen_has_25_lines_of_80_characters_and_ends_with_the_last_that_has_any():
    shown = memory(row(b"first"), row(b""), b"x" * 81)
    assert ["first", "", "x" * 80, "x"] == screen_lines(shown)


def test_what_lies_below_the_screen_is_not_shown():
    assert ["up"] == screen_lines(memory(row(b"up"), *[row(b"")] * 24, b"below"))


@pytest.mark.parametrize("content", [b"", b" " * 2000, b"\0\xff" * 1000])
def test_a_screen_without_a_visible_character_has_no_lines(content):
    assert [] == screen_lines(memory(content))


def test_characters_are_those_of_code_page_437():
    assert ["☺ ▼a⌂Çß■"] == screen_lines(memory(b"\x01\x00\x1fa\x7f\x80\xe1\xfe"))


def test_colours_are_no_characters():
    assert ["A"] == screen_lines(bytes([ord("A"), 0x1E]) + bytes([0, 0x1E]) * 100)


def test_a_screen_begins_where_the_controller_says_and_goes_on_at_the_memorys_beginning():
    last = TEXT_BYTES // 2 - 80
    assert ["end", "begin"] == screen_lines(memory(row(b"end"), b"begin", at=last), last)
    assert ["begin"] == screen_lines(memory(row(b"end"), b"begin", at=last), 0)


def test_a_start_beyond_the_memory_is_one_in_it():
    assert ["a"] == screen_lines(memory(b"a", at=80), TEXT_BYTES // 2 + 80)


SCROLLED = """
    mov rdi, 0xb8000
    mov word ptr [rdi], 0x0741
    mov word ptr [rdi + 160], 0x0742
    mov dx, 0x3d4
    mov ax, 0x500d
    out dx, ax
    cli
    hlt
"""


@pytest.mark.parametrize(("code", "shown"), [(SCROLLED, ["B"]), ("cli\nhlt", [])])
def test_a_machines_screen_is_what_was_written_from_its_start_on(code, shown):
    bare = Bare()
    bare.start(code)
    assert shown == bare.machine.screen
