from dataclasses import replace

import pytest

from crosswalk.walker import BadInput
from crosswalk.walker.formats.mtrr_texts import mtrrs_from
from crosswalk.walker.mtrrs import MemoryType, Mtrrs, VariableRange

UC, WC, WT, WP, WB = (MemoryType[name] for name in ("UC", "WC", "WT", "WP", "WB"))
GIB, MIB = 1 << 30, 1 << 20

PROC = """\
reg00: base=0x080000000 ( 2048MB), size= 2048MB, count=1: uncachable
reg01: base=0x000000000 (    0MB), size=    1KB, count=1: write-combining
"""
PROC_OLD = "reg02: base=0xf0000000 (3840MB), size= 128MB: write-combining, count=1\n"
LOG = """\
[    0.000000] MTRR default type: uncachable
[    0.000000] MTRR fixed ranges enabled:
[    0.000000]   00000-9FFFF write-back
[    0.000000]   A0000-BFFFF uncachable
[    0.000000]   C0000-FFFFF write-protect
<6>[    0.000000] MTRR variable ranges enabled:
[    0.000000]   0 base 000000000 mask F80000000 write-back
[    0.000000]   1 base 0FFC00000 mask FFFC00000 write-protect

[    0.000000]   2 disabled
"""
MSRS = "# of CPU 0\n0x2ff 0x806\n200: c0000000\n0x201=0x7fc0000800\n"


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "mtrr"
        path.write_text(text, encoding="utf-8")
        return f"@{path}"

    return write


def test_ranges_and_a_default_are_given_one_by_one():
    expected = Mtrrs(default=WB, variable=(VariableRange(3 * GIB, GIB, UC),))
    assert expected == mtrrs_from(["default:wb", "0xC0000000:1G:uc"])
    assert expected == mtrrs_from(["3G:0x4000_0000".replace("_", "") + ":uncachable", "default:WB"])


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 1 << 12), ("8k", 1 << 13), ("2M", 1 << 21), ("1G", 1 << 30), ("1T", 1 << 40)],
)
def test_sizes_have_units_of_powers_of_1024(text, size):
    found = mtrrs_from(["default:uc", f"0:{text}:write-through"])
    assert (VariableRange(0, size, WT),) == found.variable


def test_proc_mtrr_has_the_ranges_and_the_default_is_given_beside_it(file):
    found = mtrrs_from([file(PROC_OLD + PROC.splitlines()[0]), "default:uc"])
    ranges = (VariableRange(0xF000_0000, 128 * MIB, WC), VariableRange(2 * GIB, 2 * GIB, UC))
    assert Mtrrs(default=UC, variable=ranges) == found


def test_a_boot_log_says_all_there_is(file):
    found = mtrrs_from([file(LOG)])
    assert (UC, True) == (found.default, found.enabled)
    assert ((0, 0xA0000, WB), (0xA0000, 0x20000, UC), (0xC0000, 0x40000, WP)) == found.fixed
    assert (
        VariableRange(0, 2 * GIB, WB),
        VariableRange(0xFFC0_0000, 4 * MIB, WP),
    ) == found.variable


def test_a_boot_log_lists_ranges_that_are_disabled_too(file):
    assert "MTRR fixed ranges enabled" in LOG
    assert "MTRR variable ranges enabled" in LOG
    without = mtrrs_from([file(LOG.replace("fixed ranges enabled", "fixed ranges disabled"))])
    assert replace(mtrrs_from([file(LOG)]), fixed=()) == without
    off = mtrrs_from([file(LOG.replace("variable ranges enabled", "variable ranges disabled"))])
    assert not off.enabled
    assert UC == off.type_at(0)


def test_of_a_whole_boot_log_the_lines_about_mtrrs_count(file):
    log = "[    0.000000] Linux version 6.1\n0x2ff 0x806\n" + LOG
    log += "[    0.000000] TOM2: 0000000330000000 aka 13056M\n"
    log += "[    0.000000] x86/PAT: WB WC UC- UC\n[    0.000000]   3 base 0 mask 0 wb\n"
    found = mtrrs_from([file(log)])
    assert 0x3_3000_0000 == found.tom2
    assert replace(mtrrs_from([file(LOG)]), tom2=found.tom2) == found


def test_msrs_are_read_by_number(file):
    found = mtrrs_from([file(MSRS)])
    assert Mtrrs(default=WB, variable=(VariableRange(0xC000_0000, GIB, UC),)) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PROC_OLD, "the default type, which /proc/mtrr leaves out, is not given"),
        (PROC, "mtrr: MTRR 0x0:0x400:wc: a range is a power of two of at least 4K"),
        ("hello\x1b[1m\n", r"mtrr: line 1 says nothing of an MTRR: hello\\x1b\[1m$"),
        ("default:wb\n\nreg00: base=7\n", "mtrr: line 3 says nothing of an MTRR: reg00"),
        ("default:uc-\n", "mtrr: 'uc-' is no memory type of an MTRR .uc, wc, wt, wp, wb.$"),
        ("default:wb\n00005-00001 write-back\n", "MTRRs: 00005-00001 is no range"),
        ("0 base 0 mask F0F000000 write-back\n", "mask 0xf0f000000 is of no contiguous range"),
        ("0 base 0 mask 0 write-back\n", "mask 0x0 is of no contiguous range"),
        (f"default:wb\n{MSRS}", "as MSRs or as ranges, not as both"),
        ("0x277 0x7\n0x2ff 0x806\n", "MSR 0x277 is none of theirs"),
        ("", "the default type"),
    ],
)
def test_a_file_of_something_else_is_refused_in_one_line(file, text, message):
    with pytest.raises(BadInput, match=message) as error:
        mtrrs_from([file(text)])
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("0x0:1G", "is neither BASE:SIZE:TYPE nor default:TYPE, and no file"),
        ("0x0:1G:wb:uc", "'wb:uc' is no memory type"),
        ("0x2ff 0x806", "is neither"),
        ("@/nonexistent/mtrr", "^/nonexistent/mtrr: no such file or directory$"),
        ("@/", "^/: is a directory$"),
        ("99999999999999999999T:1G:wb", "aligned to its size|ends beyond"),
        ("x" * 5000, "is neither"),
    ],
)
def test_an_option_that_says_nothing_is_refused_in_one_line(given, message):
    with pytest.raises(BadInput, match=message) as error:
        mtrrs_from([given])
    assert len(str(error.value)) < 400
