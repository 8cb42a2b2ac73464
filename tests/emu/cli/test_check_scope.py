"""What `check` says of sources that it can't look at as a whole."""

from dataclasses import replace

from crosswalk.walker.formats import Case, Cpu, dump_case
from tests.emu.cli.conftest import case_of, small
from tests.tables import KIB4, OPEN, PS, ROOT, RW, P, PageTables, context
from tests.walker.formats.conftest import Core, cpu_state, qemu_notes

VA = 0x40_0000
TABLE = 0x20_0000  # Beyond the 64 KiB of the images here.


def lacking():
    """The small pages, and a table that lies outside."""
    builder = small()
    builder.words[ROOT + 8] = TABLE | OPEN
    return builder


def raw(path, builder):
    path.write_bytes(builder.memory.read(0, 0x10000))
    return path


def test_tables_outside_a_raw_image_are_no_agreement(run, tmp_path):
    path = raw(tmp_path / "lacking.bin", lacking())
    ran = run("check", path, "--cr3", "0x1000", "--maxphyaddr", "40")
    assert 2 == ran.status
    assert "agreement" not in ran.out
    assert "verdict: not whole; " in ran.out
    assert "; not asked: 1 (entries that refer to tables outside SOURCE)\n" in ran.out
    assert f"PML4E at {ROOT + 8:#x} = {TABLE | OPEN:#x}" in ran.err
    assert "--partial lets it pass" in ran.err
    document = run("check", path, "--cr3", "0x1000", "--json").document
    assert {"outside": 1, "reserved": 0} == document["unfollowed"]
    assert (3, 0) == (document["mappings"], document["divergences"])
    assert "agreement" not in document["verdict"]


def test_with_partial_they_are_exit_status_0_and_the_verdict_reads_partial(run, tmp_path):
    path = raw(tmp_path / "lacking.bin", lacking())
    ran = run("check", path, "--cr3", "0x1000", "--partial")
    assert 0 == ran.status
    assert "agreement" not in ran.out
    assert "verdict: partial; " in ran.out


def test_a_divergence_over_such_tables_is_exit_status_1(run, tmp_path, monkeypatch):
    path = raw(tmp_path / "lacking.bin", lacking())
    monkeypatch.setattr("crosswalk.emu.cli.check_pieces.walk_leaves", lambda *_: iter(()))
    for extra in ((), ("--partial",)):
        ran = run("check", path, "--cr3", "0x1000", *extra)
        assert 1 == ran.status
        assert "verdict: FAILED" in ran.out


def test_in_a_case_file_ram_is_all_there_is(run, tmp_path):
    builder = lacking()
    case = Case(cpu=Cpu.from_context(context()), ram=builder.ram, entries=builder.words)
    path = tmp_path / "lacking.json"
    path.write_bytes(dump_case(case))
    ran = run("check", path, "--json")
    assert (0, "agreement") == (ran.status, ran.document["verdict"])
    assert {"outside": 1, "reserved": 0} == ran.document["unfollowed"]
    assert {} == ran.document["not_asked"]


def test_an_entry_that_needs_more_bits_than_are_assumed_is_not_asked(run, tmp_path):
    builder = small().map(0x80_1000, 1 << 44, P | RW)
    path = raw(tmp_path / "wide.bin", builder)
    ran = run("check", path, "--cr3", "0x1000")
    assert 2 == ran.status
    assert "agreement" not in ran.out
    reason = "entries that need more bits than the assumed MAXPHYADDR"
    assert f"not asked: 1 ({reason})" in ran.out
    assert "give --maxphyaddr" in ran.err
    document = run("check", path, "--cr3", "0x1000", "--partial", "--json").document
    assert {reason: 1} == document["not_asked"]
    # With a width it is a mapping, which the emulated CPU can't be asked about…
    told = run("check", path, "--cr3", "0x1000", "--maxphyaddr", "46")
    assert 0 == told.status
    assert "; predicted only: 14 (wide)\n" in told.out
    # …and with another a malformed entry, about which it can.
    told = run("check", path, "--cr3", "0x1000", "--maxphyaddr", "40")
    assert (0, True) == (told.status, "verdict: agreement\n" in told.out)


def test_what_rests_on_the_assumed_width_is_not_probed(run, tmp_path):
    path = raw(tmp_path / "wide.bin", small().map(0x80_1000, 1 << 44, P | RW))
    assumed = run("check", path, "--cr3", "0x1000", "--partial", "--json").document
    known = run("check", path, "--cr3", "0x1000", "--maxphyaddr", "40", "--json").document
    # The page that the other reading has there, and the entry itself.
    assert 14 + 6 == known["probes"] - assumed["probes"]


def test_an_address_space_without_a_mapping_is_exit_status_2(run, tmp_path):
    path = tmp_path / "empty.json"
    path.write_bytes(dump_case(case_of(words={})))
    ran = run("check", path)
    assert (2, "") == (ran.status, ran.out)
    assert "no mapping: is CR3 right?" in ran.err
    ran = run("check", path, "--allow-empty")
    assert (0, True) == (ran.status, "verdict: agreement; no mapping\n" in ran.out)


def test_one_of_several_cpus_address_spaces_says_so(run, tmp_path):
    builder = small()
    other = 0xB000
    builder.words[other] = builder.words[ROOT]
    states = [cpu_state(cr0=0x8001_0033, cr3=cr3, cr4=0x20) for cr3 in (ROOT, other, ROOT)]
    notes = b"".join(qemu_notes(state) for state in states)
    path = tmp_path / "cpus.elf"
    path.write_bytes(Core(loads=[(0, builder.memory.read(0, 0x10000))], notes=notes).build())
    ran = run("check", path)
    assert 0 == ran.status
    assert "verdict: agreement; 1 of 2 address spaces\n" in ran.out


def lam_case(cr3_bits):
    case = case_of()
    return replace(case, cpu=replace(case.cpu, cr3=case.cpu.cr3 | cr3_bits))


def test_what_the_emulated_cpu_lacks_is_predicted_only(run, tmp_path):
    path = tmp_path / "lam.json"
    path.write_bytes(dump_case(lam_case(1 << 62)))
    ran = run("check", path)
    assert 0 == ran.status
    assert "predicted only, LAM: the emulated CPU has no linear-address masking" in ran.out
    document = run("check", path, "--json").document
    count = document["predicted_only"]["LAM"]
    assert (
        0 < count == run("check", tmp_path / "lam.json", "--json").document["predicted_only"]["LAM"]
    )
    expected = f"agreement on {document['probes']} of {document['probes'] + count} probes"
    assert f"{expected}; predicted only: {count} (LAM)" == document["verdict"]
    assert document["probes"] == document["agreements"]


def test_an_address_space_of_all_that_the_emulated_cpu_can_address_is_probed(run, tmp_path):
    builder = PageTables(ram=((0, 0x10000),))
    upper = [0x4000, 0x5000]
    builder.entries |= {ROOT + 8 * at: pdpt | OPEN for at, pdpt in enumerate(upper)}
    for number in range(1024):
        pdpt = upper[number // 512]
        builder.words[pdpt + 8 * (number % 512)] = number << 30 | OPEN | PS
    case = Case(cpu=Cpu.from_context(context()), ram=builder.ram, entries=builder.words)
    path = tmp_path / "identity.json"
    path.write_bytes(dump_case(case))
    document = run("check", path, "--json").document
    assert (1024, 0, "agreement") == (
        document["mappings"],
        document["divergences"],
        document["verdict"],
    )
    # Of each page 12 reads and writes and 8 fetches; holes; what isn't canonical.
    assert 1024 * 20 + 6 * 6 + 3 * 6 == document["probes"]


def test_an_encryption_mask_is_taken_off_and_said_so(run, tmp_path):
    mask = 1 << 47
    builder = PageTables(ram=((0, 0x10000),)).map(VA, 0x8000).map(VA + KIB4, 0x9000)
    words = {pa: word | mask for pa, word in builder.words.items()}
    cpu = replace(Cpu.from_context(context(maxphyaddr=48)), encryption_mask=mask)
    path = tmp_path / "sev.json"
    path.write_bytes(dump_case(Case(cpu=cpu, ram=builder.ram, entries=words)))
    ran = run("check", path)
    assert 0 == ran.status
    assert "verdict: agreement; with the mask taken off\n" in ran.out


def test_a_planted_walk_shows_in_the_command(run, small_case, monkeypatch):
    monkeypatch.setattr("crosswalk.emu.cli.check_pieces.walk_leaves", lambda *_: iter(()))
    ran = run("check", small_case)
    assert 1 == ran.status
    assert "divergence of the list: read of 0x400000 at CPL 0\n  listed:    no page here\n" in (
        ran.out
    )


def test_cases_of_the_list_are_kept(run, small_case, monkeypatch, tmp_path):
    monkeypatch.setattr("crosswalk.emu.cli.check_pieces.walk_leaves", lambda *_: iter(()))
    kept = tmp_path / "kept"
    ran = run("check", small_case, "--cases", kept)
    files = sorted(kept.iterdir())
    assert "listing-0000.json" == files[0].name
    assert f"check: crosswalk check {kept}/listing-0000.json" in ran.err
    assert 1 == run("check", files[0]).status
    monkeypatch.undo()
    assert 0 == run("check", files[0]).status


def test_the_smallest_limit_is_1(run, small_case):
    ran = run("check", small_case, "--limit", "1")
    assert 0 == ran.status
    assert "verdict: agreement on 1 of 3 mappings; " in ran.out
    ran = run("check", small_case, "--limit", "0")
    assert (2, "", 1) == (ran.status, ran.out, len(ran.err.splitlines()))
    assert "crosswalk check: error: argument --limit: 0 is less than 1" in ran.err
