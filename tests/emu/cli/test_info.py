"""What is said of a source: in a line by every command, and all of it by `info`."""

import pytest

from tests.emu.cli.incomplete_images import RAM, ROOT, clean, commands, lacking
from tests.tables import RW, XD, P
from tests.walker.formats.conftest import Core, cpu_state, note, qemu_notes


@pytest.fixture
def four_cpus(tmp_path):
    """A core of four CPUs, two of which share their tables, and one of which doesn't page."""
    roots = [{"cr3": 0x1000}, {"cr3": 0x5000}, {"cr3": 0x1008}, {"cr3": 0x7000, "cr0": 0x33}]
    notes = qemu_notes(*(cpu_state(**root) for root in roots))
    memory = bytearray(clean().memory.read(*RAM[0]))
    memory[0x5000:0x6000] = memory[0x1000:0x2000]
    path = tmp_path / "core"
    path.write_bytes(Core(loads=[(0, bytes(memory))], notes=notes).build())
    return path


def test_one_of_several_address_spaces_says_so(run, four_cpus):
    said, known = "1 of 2 address spaces (--cpu N chooses another)", "1 of 2 known roots"
    for command in commands(four_cpus):
        ran = run(*command)
        counted = command[0] == "protect" or "--policy" in command
        assert (known if counted else said) in ran.err + ran.out
    expected = f"W^X: no frame is both writable and executable, in root 0x1000; {said}"
    assert expected == run("frames", four_cpus).out.splitlines()[-1]


@pytest.mark.parametrize("command", [("frames", "--policy", "any"), ("protect",)])
def test_a_policy_of_one_of_several_address_spaces_is_of_a_part(run, four_cpus, command):
    name, *options = command
    ran = run(name, four_cpus, *options)
    part = "W^X: partial: 1 of 2 known roots: none is both writable and executable there"
    assert (2, True) == (ran.status, part in ran.out)
    assert "nothing found, but other roots are known: --roots all" in ran.err
    for more in (("--partial",), ("--cr3", "0x1000")):
        ran = run(name, four_cpus, *options, *more)
        assert (0, True) == (ran.status, part in ran.out)
    ran = run(name, four_cpus, *options, "--roots", "all")
    whole = "W^X: no frame is both writable and executable, over all 2 known roots"
    assert (0, True) == (ran.status, whole in ran.out)


def test_the_line_about_a_source_says_what_it_has(run, four_cpus, raw, case):
    first = run("walk", four_cpus, "--cpu", "1").err.splitlines()
    assert (
        f"{four_cpus}: ELF core of x86-64, CPU 1 of 4 (CR3 0x1000, 0x5000, 0x1008, 0x7000), "
        "64 KiB in 1 range; 4-level paging, CR3 0x5000, WP NXE, MAXPHYADDR 52" == first[0]
    )
    assert (
        "assumed: efer = 0xd00, pkru = 0x0, maxphyaddr = 52, page1gb = true, vendor = intel"
        == first[1]
    )
    assert "EFER isn't known; IA-32e mode, since CS is a 64-bit segment" == first[2]
    image, document = raw(clean()), case(clean())
    assert f"{image}: raw image, 64 KiB in 1 range; 4-level paging" in run("walk", image, *ROOT).err
    assert f"{document}: case file, 64 KiB in 1 range; 4-level paging" in run("walk", document).err
    assert "guest:5level: booted guest, " in run("walk", "guest:5level").err


def test_bytes_that_are_not_in_the_file_are_counted(run, tmp_path):
    path = tmp_path / "core"
    notes = qemu_notes(cpu_state())
    missing = (1, 0, 0, 0, 0x10_0000, 0, 0x5000, 0)
    loads = [(0, clean().memory.read(*RAM[0]))]
    path.write_bytes(Core(loads=loads, notes=notes, parts=[missing]).build())
    assert "20,480 bytes of segments aren't in the file" in run("walk", path).err
    assert 0x5000 == run("info", path, "--json").document["memory"]["missing"]


def test_info_says_all_of_it_to_people(run, four_cpus):
    ran = run("info", four_cpus, "--cpu", "1")
    assert 0 == ran.status
    assert [
        f"{four_cpus}: ELF core of x86-64",
        "CPU 0: cr0 = 0x80050033, cr3 = 0x1000, cr4 = 0x20, rflags_ac = false",
        "CPU 1, chosen: cr0 = 0x80050033, cr3 = 0x5000, cr4 = 0x20, rflags_ac = false",
        "CPU 2: cr0 = 0x80050033, cr3 = 0x1008, cr4 = 0x20, rflags_ac = false",
        "CPU 3: cr0 = 0x33, cr3 = 0x7000, cr4 = 0x20, efer = 0x0, rflags_ac = false",
        "this is 1 of 2 address spaces (--cpu N chooses another)",
        "notes: "
        + ", ".join(["CORE (type 0x1, 336 bytes)"] * 4 + ["QEMU (type 0x0, 440 bytes)"] * 4),
        "memory: 64 KiB in 0x0–0x10000",
        "context: 4-level paging, CR3 0x5000, WP NXE, MAXPHYADDR 52",
        "assumed: efer = 0xd00, pkru = 0x0, maxphyaddr = 52, page1gb = true, vendor = intel",
        "EFER isn't known; IA-32e mode, since CS is a 64-bit segment",
        "mappings: 2 (2 by a PTE)",
        "present entries: 5, of which 0 can't be followed and 0 map what is not in memory",
    ] == ran.out.splitlines()


def test_info_says_the_same_to_machines(run, raw):
    tables = lacking().map(0x40_3000, 1 << 46, P | RW | XD)
    document = run("info", raw(tables), *ROOT, "--json").document
    assert ("raw", "raw image") == (document["kind"], document["format"])
    assert {
        "mode": "4-level",
        "cr3": "0x1000",
        "cr0": "0x80010033",
        "cr4": "0x20",
        "efer": "0xd00",
        "pkru": "0x0",
        "pkrs": "0x0",
        "rflags_ac": False,
        "maxphyaddr": 52,
        "page1gb": True,
        "vendor": "intel",
        "encryption_mask": "0x0",
    } == document["context"]
    memory = {
        "size": 0x10000,
        "ranges": [["0x0", "0x10000"]],
        "holes": [],
        "missing": 0,
        "excluded": 0,
    }
    assert memory | {"complete": False} == document["memory"]
    assert (4, {"1": 4, "2": 0, "3": 0}) == (document["mappings"], document["mappings_by_level"])
    assert {"outside": 3, "reserved": 0} == document["unfollowed"]
    assert {
        "level": 2,
        "pa": "0x3008",
        "entry": "0x12342007",
        "va": "0x200000",
        "reason": "outside",
    } == document["first_unfollowed"][0]
    numbers = ("present_entries", "mapped_outside", "beyond_40_bits", "beyond_46_bits")
    assert [10, 1, 1, 1] == [document[name] for name in numbers]
    assert not document["mostly_senseless"]
    assert ([], None, 1, []) == tuple(
        document[name] for name in ("cpus", "cpu", "address_spaces", "notes")
    )


def test_info_names_the_holes_and_only_so_many_ranges(run, tmp_path):
    path = tmp_path / "core"
    loads = [(0, clean().memory.read(*RAM[0]))]
    loads += [(at << 20, bytes(0x1000)) for at in range(1, 12)]
    path.write_bytes(Core(loads=loads, notes=qemu_notes(cpu_state())).build())
    lines = run("info", path).out.splitlines()
    (memory,) = [line for line in lines if line.startswith("memory: ")]
    (holes,) = [line for line in lines if line.startswith("holes: ")]
    assert memory.startswith("memory: 108 KiB in 0x0–0x10000, 0x100000–0x101000, 0x200000–")
    assert memory.endswith("0x700000–0x701000 … and 4 more")
    assert holes.startswith("holes: 0x10000–0x100000, 0x101000–0x200000, ")
    record = run("info", path, "--json").document["memory"]
    assert (12, 11) == (len(record["ranges"]), len(record["holes"]))
    assert ["0x10000", "0xf0000"] == record["holes"][0]


def test_info_of_a_case_and_of_a_guest_assumes_nothing(run, case):
    for source in (case(clean()), "guest:4level"):
        document = run("info", source, "--json").document
        assert ([], True) == (document["assumed"], document["memory"]["complete"])
    assert "assumed: nothing" in run("info", case(clean())).out


def test_without_cr3_info_says_what_the_file_has_and_asks_for_it(run, tmp_path):
    path = tmp_path / "core"
    notes = note(b"VBCPU\0", 0xB01, bytes(8))
    path.write_bytes(Core(loads=[(0x1000, bytes(0x2000))], notes=notes).build())
    ran = run("info", path)
    assert 2 == ran.status
    assert [
        f"{path}: ELF core of x86-64",
        "notes: VBCPU (type 0xb01, 8 bytes)",
        "memory: 8 KiB in 0x1000–0x3000",
        "holes: 0x0–0x1000",
    ] == ran.out.splitlines()
    (error,) = ran.err.splitlines()
    assert error.startswith(f"crosswalk: error: {path}: ELF core without a QEMU note")
    assert "give --cr3" in error
    ran = run("info", path, "--json")
    assert (2, [{"name": "VBCPU", "type": 0xB01, "size": 8}]) == (ran.status, ran.document["notes"])
    assert "context" not in ran.document
