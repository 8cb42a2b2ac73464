"""Points that are named by symbols of the guest's own file."""

import pytest

from crosswalk.emu.cli.boot_points import point_named
from crosswalk.emu.load.linux.image import parse_kernel
from crosswalk.emu.load.points import Point, PointKind
from crosswalk.walker.errors import BadInput
from tests.emu.load.linux.kernels import vmlinux
from tests.walker.symbols.kallsyms_tables import LINKED, symbols, tables, vmlinux_of


@pytest.fixture(scope="module")
def kernel():
    """A kernel as a distribution ships it: stripped, with kallsyms."""
    return parse_kernel(vmlinux_of(tables(symbols(), "7.0")))


def test_a_symbol_is_one_of_the_kernels_own(kernel):
    expected = Point(PointKind.SYMBOL, "symbol_5_long_number", LINKED + 0x80 + 80)
    assert expected == point_named("symbol:symbol_5_long_number", kernel)


def test_a_symbol_that_the_kernel_does_not_have_is_refused(kernel):
    with pytest.raises(BadInput, match="'symbol:nobody': no such symbol"):
        point_named("symbol:nobody", kernel)


def test_a_kernel_without_symbols_wants_a_file_of_them(tmp_path):
    path = tmp_path / "System.map"
    path.write_text("ffffffff81000000 T _text\n")
    stripped = parse_kernel(vmlinux("hlt"))
    with pytest.raises(BadInput, match="no symbols: --system-map FILE"):
        point_named("symbol:_text", stripped)
    assert LINKED == point_named("symbol:_text", stripped, path).number


def test_other_points_need_no_symbols():
    assert "user" == str(point_named("user", parse_kernel(vmlinux("hlt"))))
