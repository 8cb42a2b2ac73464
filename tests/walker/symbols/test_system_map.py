import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosswalk.walker.errors import BadInput
from crosswalk.walker.symbols.system_map import parse_system_map

SYSTEM_MAP = b"""\
0000000000000000 D __per_cpu_start
0000000000001000 A fixed
ffffffff81000000 T _text
ffffffff81000100 t local
ffffffff81000100 W weak
ffffffff81000100 T strong
ffffffff81001000 T last
"""


def listed(text):
    return [(each.name, each.start, each.end) for each in parse_system_map(text)]


def test_symbols_reach_to_the_next_address_and_offsets_of_per_cpu_variables_are_left_out():
    top = 0xFFFF_FFFF_8100_0000
    assert [
        ("_text", top, top + 0x100),
        ("strong", top + 0x100, top + 0x1000),
        ("weak", top + 0x100, top + 0x1000),
        ("local", top + 0x100, top + 0x1000),
        ("last", top + 0x1000, top + 0x2000),
    ] == listed(SYSTEM_MAP)


def test_lines_may_come_in_any_order_and_twice():
    lines = SYSTEM_MAP.splitlines(keepends=True)
    twice = listed(b"".join([*reversed(lines), lines[2]]))
    assert listed(SYSTEM_MAP)[0] == twice[0] == twice[1]
    assert sorted(each[1:] for each in listed(SYSTEM_MAP)) == sorted(each[1:] for each in twice[1:])


def test_a_mark_of_utf_8_before_the_text_is_no_part_of_it():
    marked, plain = (parse_system_map(each) for each in (b"\xef\xbb\xbf" + SYSTEM_MAP, SYSTEM_MAP))
    assert list(plain) == list(marked)


def test_nm_has_sizes_undefined_symbols_and_names_with_spaces():
    text = (
        b"\n                 U printf\n                 w __gmon_start__\n"
        b"0000000000401000 0000000000000020 T run(int, char)\n"
        b"401100 T short\r\n0000000000000005 a CONSTANT\n"
    )
    assert [("run(int, char)", 0x401000, 0x401020), ("short", 0x401100, 0x402000)] == listed(text)


def test_a_long_line_of_spaces_is_read_once():
    spaces = b" " * (1 << 20)
    inner = b"ffffffff81000000 00000010 T a" + spaces + b"b" + spaces + b"\n"
    outer = b"ffffffff81000010 T c" + spaces + b"\n"
    assert ["a" + spaces.decode() + "b", "c"] == [each[0] for each in listed(inner + outer)]


def test_symbols_of_modules_keep_their_module():
    text = b"ffffffffc0000000 t ext4_read\t[ext4]\nffffffffc0000010 t ext4_write\t[ext4]\n"
    held = parse_system_map(text)
    assert ["ext4_read\t[ext4]", "ext4_write\t[ext4]"] == [each.name for each in held]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "no symbols in it"),
        (b"\n\n", "no symbols in it"),
        (SYSTEM_MAP + b"ffffffff8100", "truncated: the last line has no end"),
        (SYSTEM_MAP + b"nothing of the kind\n", "line 8 is no address, type and name"),
        (b"\x7f\0\0", "neither an ELF file nor lines"),
        (b"0000000000000000 T _text\n0000000000000000 t x\n", "kptr_restrict"),
        (b"0000000000000000 A a\n0000000000000005 a b\n", "no symbols in it that have an address"),
        (
            b"ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n",
            "the distribution's stub",
        ),
    ],
)
def test_what_holds_no_symbols_is_refused_in_one_line(text, message):
    with pytest.raises(BadInput, match=message) as error:
        parse_system_map(text)
    assert str(error.value).isprintable()


def test_a_line_of_any_form_among_many_is_read_in_its_place():
    many = b"".join(b"%016x T s%d\n" % (0xFFFF_FFFF_8100_0000 + 16 * n, n) for n in range(200_000))
    odd = b"ffffffff81000008 T  odd \n"
    held = parse_system_map(many + odd)
    assert 200_001 == len(held)
    assert ["s0", "odd", "s1"] == [held[row].name for row in range(3)]


def naive(text):
    """What a loop over the lines makes of them: addresses and names, or the number of a bad one."""
    found = []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        match = re.fullmatch(r"([0-9a-f]{1,16}) +([A-Za-z]) (\S+)( \S+)?[ \t]*", line)
        if match is None:
            if line.strip():
                return number
            continue
        address, letter = int(match[1], 16), match[2]
        if letter not in "UN" and (address or letter not in "wv"):
            found.append((address, letter, match[3] + (match[4] or "")))
    if any(address >= 1 << 63 for address, _, _ in found):
        return sorted({(address, name) for address, _, name in found if address >= 1 << 63})
    return sorted({(address, name) for address, letter, name in found if letter not in "aA"})


ADDRESS = st.one_of(
    st.integers(0xFFFF_FFFF_8000_0000, 0xFFFF_FFFF_8000_0040),
    st.integers(0, 0x40),
    st.just((1 << 64) - 1),
)
LINE = st.one_of(
    st.builds(
        lambda address, width, letter, name, end: f"{address:0{width}x} {letter} {name}{end}",
        ADDRESS,
        st.sampled_from([1, 8, 16]),
        st.sampled_from("TtDdAaWwUNVv"),
        st.sampled_from(["x", "ext4_read", "a.b$1", "ü", "two words"]),
        st.sampled_from(["", " ", "\t"]),
    ),
    st.sampled_from(["", "  ", "nothing", "ffffffff80000000", "ffffffff8000000g T x"]),
)


@given(st.lists(LINE, max_size=12))
def test_lines_are_read_as_a_loop_over_them_reads_them(lines):
    text = "".join(f"{line}\n" for line in lines)
    expected = naive(text)
    try:
        found = sorted({(each.start, each.name) for each in parse_system_map(text.encode())})
    except BadInput as error:
        number = re.match(r"line (\d+) is no", str(error))
        found = int(number[1]) if number else []
        if "are zero" in str(error):
            expected = [] if {address for address, _ in expected} <= {0} else expected
    assert expected == found
