from dataclasses import replace
from pathlib import Path

import pytest

from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats import Case, Cpu, Registers, dump_case, open_source, parse_case
from crosswalk.walker.formats.readers import READERS
from crosswalk.walker.formats.sources import SourceKind

CASE = dump_case(
    Case(cpu=Cpu(cr3=0x1000, cr4=0xA0), ram=((0, 0x4000),), entries={0x1000: 0x2067}),
)


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Write a file and return its name, relative to where the test now runs."""
    monkeypatch.chdir(tmp_path)

    def put(data, name="image"):
        Path(name).write_bytes(data)
        return name

    return put


def reason(*args, **options):
    with pytest.raises(BadInput) as caught:
        open_source(*args, **options)
    return str(caught.value)


def test_a_case_is_a_source(put):
    source = open_source(put(CASE, "case.json"))
    assert ("case.json", SourceKind.CASE) == (source.name, source.kind)
    assert 0x2067 == source.memory.word(0x1000)
    assert source.context == PagingContext(cr3=0x1000, cr4=0xA0)
    assert parse_case(CASE, "") == source.case
    assert () == source.assumed


def test_an_elf_core_is_a_source(put, elf):
    state = elf.cpu_state(cr3=0x1000, cr4=0xA0, rflags=1 << 18)
    source = open_source(put(elf.Core(notes=elf.qemu_notes(state)).build()))
    assert (SourceKind.ELF, None) == (source.kind, source.case)
    expected = PagingContext(cr3=0x1000, cr0=0x80050033, cr4=0xA0, efer=0xD00, rflags_ac=True)
    assert expected == source.context
    assert (
        "efer = 0xd00",
        "pkru = 0x0",
        "maxphyaddr = 40",
        "page1gb = true",
        "vendor = intel",
    ) == source.assumed


def test_anything_else_is_a_raw_image(put):
    source = open_source(put(bytes(0x4000)), Registers(cr3=0x1000))
    assert (SourceKind.RAW, [(0, 0x4000)]) == (source.kind, list(source.memory.ranges))
    assert PagingContext(cr3=0x1000) == source.context


def test_a_raw_image_may_begin_at_any_frame(put):
    source = open_source(put(bytes(0x4000)), Registers(cr3=0x101000), base=0x100000)
    assert [(0x100000, 0x4000)] == list(source.memory.ranges)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("case.json", CASE),
        ("case", CASE),
        ("case", b"\n\t " + CASE),
        (
            "case.json",
            CASE.replace(b'  "format": "crosswalk-case/1",\n', b"").replace(
                b"\n}\n", b',\n  "format": "crosswalk-case/1"\n}\n' + b" " * 5000
            ),
        ),
    ],
    ids=["name and content", "content", "white space", "name, format last"],
)
def test_a_case_is_known_by_name_or_content(put, name, data):
    assert SourceKind.CASE is open_source(put(data, name)).kind


def test_a_file_named_json_is_taken_at_its_word(put):
    assert "x.json: $: Expected `object`, got `array`" == reason(put(b"[]", "x.json"))


def test_an_image_that_begins_with_a_brace_is_no_case(put):
    data = b"{" + bytes(0x3FFF)
    assert SourceKind.RAW is open_source(put(data), Registers(cr3=0)).kind


def test_the_kind_can_be_said(put, elf):
    core = put(elf.Core().build().ljust(0x4000, b"\0"))
    assert SourceKind.ELF is open_source(core).kind
    assert SourceKind.RAW is open_source(core, Registers(cr3=0), kind="raw").kind
    assert reason(core, kind="case").startswith("image: not JSON: ")
    assert "image: not an ELF file" == reason(put(bytes(0x1000)), kind=SourceKind.ELF)
    kinds = ", ".join(READERS)
    assert f"image: 'vmdk' is no kind of source ({kinds})" == reason(core, kind="vmdk")


def test_given_registers_go_before_those_of_the_file(put, elf):
    given = Registers(cr3=0x2000, pkru=4, rflags_ac=True, maxphyaddr=36)
    expected = PagingContext(cr3=0x2000, cr4=0xA0, pkru=4, rflags_ac=True, maxphyaddr=36)
    source = open_source(put(CASE), given)
    assert expected == source.context
    assert parse_case(CASE, "") == source.case
    core = open_source(put(elf.Core().build(), "core"), Registers(efer=0x500))
    assert (0x500, 0x1000) == (core.context.efer, core.context.cr3)
    assert "efer" not in " ".join(core.assumed)


def test_cpu_chooses_among_those_of_a_core(put, elf):
    notes = elf.qemu_notes(elf.cpu_state(cr3=0x1000), elf.cpu_state(cr3=0x2000))
    core = put(elf.Core(notes=notes).build())
    assert [0x1000, 0x2000] == [open_source(core, cpu=cpu).context.cr3 for cpu in (0, 1)]
    expected = "image: ELF core: no CPU 2; the file has the registers of 2"
    assert expected == reason(core, cpu=2)


def test_options_of_another_kind_are_errors(put):
    case = put(CASE, "case.json")
    assert "case.json: no CPU 1: only an ELF core has CPUs to choose from" == reason(case, cpu=1)
    assert "case.json: base 0x1000: only a raw image can be placed" == reason(case, base=0x1000)


def test_without_registers_and_without_tables_cr3_is_asked_for(put, elf):
    give = "give --cr3 (and --cr4, --cr0, --efer where they matter)"
    more = f"no root was found in its memory: {give}"
    assert f"image: raw image: {more}" == reason(put(bytes(0x1000)))
    core = put(elf.Core(notes=b"").build(), "core")
    assert f"core: ELF core without a QEMU note (its notes: none): {more}" == reason(core)
    notes = elf.note(b"VBCPU\0", 0xB01, b"x" * 5) + elf.note(b"VBCORE\0", 0xB00, b"")
    other = put(elf.Core(notes=notes).build(), "other")
    names = "(its notes: VBCORE, VBCPU)"
    assert f"other: ELF core without a QEMU note {names}: {more}" == reason(other)
    assert open_source(core, Registers(cr3=0x2000)).context == PagingContext(cr3=0x2000)


@pytest.mark.parametrize("cr3", [0x4000, 0x3FFF + 0x1000, 0xFF_FFFF_F000])
def test_a_cr3_outside_the_memory_is_an_error(put, cr3):
    expected = f"image: CR3 {cr3:#x} points outside the image (ranges 0x0–0x4000)"
    assert expected == reason(put(bytes(0x4000)), Registers(cr3=cr3))


def test_flags_in_cr3_are_no_part_of_the_address(put):
    assert 0x3000 == open_source(put(bytes(0x4000)), Registers(cr3=0x3FFF)).context.root


def test_few_of_many_ranges_are_listed(put, elf):
    loads = [(at << 16, bytes(0x1000)) for at in range(6)]
    expected = (
        "image: CR3 0x1000 points outside the image (ranges 0x0–0x1000, 0x10000–0x11000, "
        "0x20000–0x21000, 0x30000–0x31000, …)"
    )
    assert expected == reason(put(elf.Core(loads=loads).build()))


def test_a_case_without_ram_has_no_place_for_cr3(put):
    data = dump_case(Case(cpu=Cpu(cr3=0x1000), ram=()))
    expected = "case.json: CR3 0x1000 points outside the image (ranges none)"
    assert expected == reason(put(data, "case.json"))


def test_memory_above_the_assumed_maxphyaddr_is_an_error(put, elf):
    loads = [(0, bytes(0x3000)), (1 << 40, bytes(0x1000))]
    core = put(elf.Core(loads=loads).build())
    expected = (
        "image: memory ends at 0x10000001000, beyond the MAXPHYADDR of 40 bits that is assumed: "
        "give --maxphyaddr"
    )
    assert expected == reason(core)
    for width in (40, 46):
        assert open_source(core, Registers(maxphyaddr=width)).context.maxphyaddr == width


def test_a_width_to_take_where_none_is_known_can_be_given(put, elf):
    loads = [(0, bytes(0x3000)), (1 << 51, bytes(0x1000))]
    core = put(elf.Core(loads=loads).build())
    source = open_source(core, width=52)
    assert (52, False) == (source.context.maxphyaddr, source.width_known)
    assert "maxphyaddr = 52" in source.assumed
    source = open_source(core, Registers(maxphyaddr=52), width=40)
    assert (52, True) == (source.context.maxphyaddr, source.width_known)
    assert not any("maxphyaddr" in text for text in source.assumed)
    case = open_source(put(CASE, "case.json"), width=52)
    assert (40, True) == (case.context.maxphyaddr, case.width_known)


def test_a_cr3_with_an_encryption_bit_is_told_what_the_bit_may_be(put):
    mask = 1 << 47
    entry = (mask | 0x2067).to_bytes(8, "little")
    name = put(bytes(0x1000) + entry + bytes(0x2FF8))
    given = Registers(cr3=mask | 0x1000, maxphyaddr=48)
    assert reason(name, given).endswith(f"; --encryption-mask {mask:#x} would make sense")
    source = open_source(name, replace(given, encryption_mask=mask))
    assert 0x1000 == source.context.root


def test_of_a_case_the_hint_of_an_encryption_mask_is_the_key_that_states_it(put):
    mask = 1 << 47
    case = Case(
        cpu=Cpu(cr3=mask | 0x1000, maxphyaddr=48),
        ram=((0, 0x4000),),
        entries={0x1000: mask | 0x2067},
    )
    key = '"encryption_mask": "0x800000000000" in the "cpu" of the case file'
    assert reason(put(dump_case(case), "case.json")).endswith(f"; {key} would make sense")
    said = replace(case, cpu=replace(case.cpu, encryption_mask=mask))
    assert 0x1000 == open_source(put(dump_case(said), "case.json")).context.root


def test_of_a_cpu_that_does_not_page_those_that_do_are_named(put, elf):
    states = [elf.cpu_state(cr0=cr0, cr3=0x1000) for cr0 in (0x33, 0x80050033, 0x33, 0x80050033)]
    core = put(elf.Core(notes=elf.qemu_notes(*states)).build())
    assert "image: paging is off on CPU 0: CR0 = 0x33; CPU 1, 3 pages" == reason(core)
    assert 0x1000 == open_source(core, cpu=3).context.cr3


def test_a_cr0_without_paging_that_is_given_is_not_answered_with_the_very_cpu(put, elf):
    core = put(elf.Core(notes=elf.qemu_notes(elf.cpu_state(cr0=0x80050033, cr3=0x1000))).build())
    expected = "image: paging is off: CR0 = 0x11 lacks PG or PE"
    assert expected == reason(core, Registers(cr0=0x11))


def test_memory_may_end_at_the_assumed_maxphyaddr(put, elf):
    loads = [(0, bytes(0x3000)), ((1 << 40) - 0x1000, bytes(0x1000))]
    assert 40 == open_source(put(elf.Core(loads=loads).build())).context.maxphyaddr


def test_registers_that_do_not_page_are_an_error_that_names_the_file(put, elf):
    notes = elf.qemu_notes(elf.cpu_state(cr0=0x33))
    core = put(elf.Core(notes=notes).build())
    assert "image: paging is off: CR0 = 0x33 lacks PG or PE" == reason(core)


def test_a_wrong_case_is_named_once_with_its_place(put):
    data = CASE.replace(b'"0xa0"', b"160")
    expected = 'case.json: $.cpu.cr4: expected a hex string such as "0x1000", got `int`'
    assert expected == reason(put(data, "case.json"))


def test_limits_of_a_file_are_errors_that_name_it(put, elf):
    with pytest.raises(
        LimitExceeded, match=r"^image: ELF core: 1,048,577 program headers; at most 1,048,576"
    ):
        open_source(put(elf.Core(many=(1 << 20) + 1).build()))


def test_a_missing_file_is_named_once(tmp_path):
    assert f"{tmp_path}/no: no such file or directory" == reason(tmp_path / "no")
