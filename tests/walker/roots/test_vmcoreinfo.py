"""What Linux' VMCOREINFO says of the kernel's root, and where in memory it is found."""

import numpy as np
import pytest

from crosswalk.walker import Segments
from crosswalk.walker.roots import vmcoreinfo
from crosswalk.walker.roots.vmcoreinfo import Vmcoreinfo, parse_vmcoreinfo, texts_in_memory
from tests.tables import KIB4

# As a Debian kernel under KASLR has it: the image was moved by KERNELOFFSET, and lies in memory
# where phys_base says.
MOVED = """\
OSRELEASE=6.1.0-57-amd64
SYMBOL(swapper_pg_dir)=ffffffffa8010000
SYMBOL(init_top_pgt)=ffffffffa8010000
NUMBER(phys_base)=-469762048
NUMBER(pgtable_l5_enabled)=0
KERNELOFFSET=26000000
"""


def test_the_root_is_where_symbol_and_phys_base_say():
    expected = Vmcoreinfo((0xC01_0000,), five_levels=False, pae=None, encryption_mask=0)
    assert expected == parse_vmcoreinfo(MOVED)


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        ("NUMBER(pgtable_l5_enabled)=1", {"five_levels": True}),
        ("NUMBER(sme_mask)=140737488355328", {"encryption_mask": 1 << 47}),
    ],
)
def test_levels_and_encryption_are_told_by_numbers(line, changes):
    found = parse_vmcoreinfo(f"{MOVED}{line}\n")
    expected = {"five_levels": False, "encryption_mask": 0} | changes
    assert (
        expected["five_levels"],
        expected["encryption_mask"],
    ) == (found.five_levels, found.encryption_mask)


def test_a_32_bit_kernel_maps_ram_at_one_of_few_places():
    text = "OSRELEASE=6.1\nSYMBOL(swapper_pg_dir)=c1a00000\nCONFIG_X86_PAE=y\n"
    found = parse_vmcoreinfo(text)
    assert (True, 0x1A0_0000) == (found.pae, found.roots[0])
    assert False is parse_vmcoreinfo(text.replace("PAE=y", "PAE=n")).pae


@pytest.mark.parametrize(
    "text",
    [
        "",
        "OSRELEASE=6.1\n",
        "SYMBOL(swapper_pg_dir)=\n",
        "SYMBOL(swapper_pg_dir)=nothing\n",
        "SYMBOL(swapper_pg_dir)=ffffffffa8010000\nNUMBER(phys_base)=-99999999999999\n",
        f"SYMBOL(swapper_pg_dir)={'f' * 900}\n",
    ],
)
def test_what_names_no_root_is_none(text):
    assert None is parse_vmcoreinfo(text)


def placed(*places, size=64 * KIB4):
    data = np.zeros(size, np.uint8)
    for at, text in places:
        data[at : at + len(text)] = np.frombuffer(text.encode(), np.uint8)
    return data


def test_texts_are_found_at_any_place_each_once_and_end_where_text_does():
    first, second = MOVED, MOVED.replace("6.1.0-57", "6.1.0-58")
    memory = Segments(
        [
            (0, placed((0x1003, first), (0x5000, first), (0x6FF9, second))),
            (0x10_0000, placed((64 * KIB4 - 5, "OSREL"))),
        ]
    )
    assert [first, second] == list(texts_in_memory(memory))


def test_a_text_across_two_blocks_is_found(monkeypatch):
    monkeypatch.setattr(vmcoreinfo, "_BLOCK", 2)
    for at in range(2 * KIB4 - 12, 2 * KIB4 + 2):
        assert [MOVED] == list(texts_in_memory(Segments([(0x3000, placed((at, MOVED)))])))


def test_of_any_number_of_texts_only_some_are_read(monkeypatch):
    monkeypatch.setattr(vmcoreinfo, "_MOST", 3)
    many = placed(*((KIB4 * at, f"OSRELEASE={at}\n") for at in range(60)))
    assert 3 == len(list(texts_in_memory(Segments([(0, many)]))))
