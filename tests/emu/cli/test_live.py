"""Commands on a live guest, behind a scripted stub."""

import pytest

from crosswalk.walker.formats import gdb
from tests.emu.cli import ept_image
from tests.emu.cli.conftest import small
from tests.emu.cli.running import refused, written
from tests.tables import RW, XD, P, PageTables
from tests.walker.formats.stubs import HungUp, Stub, cpu_of

SECOND = 0x3000


@pytest.fixture
def guest():
    with Stub(small().memory).listening() as stub:
        yield stub
    assert (True, False) == stub.found
    assert [] == gdb._paused


def test_every_command_that_reads_says_what_it_says_of_the_file(run, guest, small_core):
    known = ("--efer", "0xd01", "--maxphyaddr", "46", "--no-page1gb", "--vendor", "intel")
    for command in (
        ("walk", "--json"),
        ("frames", "--json"),
        ("translate", "0x400000", "--json"),
        ("protect", "--format", "json", "--partial"),
    ):
        name, *more = command
        arguments = [each for each in more if each.startswith("0x")]
        options = [each for each in more if not each.startswith("0x")]
        live = run(name, guest.name, *arguments, *options)
        file = run(name, small_core, *arguments, *options, *known)
        assert (0, file.out) == (live.status, live.out)


def test_a_hosts_tables_are_read_before_it_runs_again(run, tmp_path):
    case = ept_image.image()
    with Stub(case.memory()).listening() as stub:
        for command in ("walk", "frames"):
            asked = ("--eptp", hex(ept_image.EPTP), "--mbec", "--maxphyaddr", "40", "--json")
            live = run(command, stub.name, *asked)
            file = run(command, written(tmp_path / "it.json", case), *asked)
            assert (0, file.out) == (live.status, live.out)
    assert (True, False) == stub.found
    assert [] == gdb._paused


def test_info_names_the_kind_and_what_is_assumed(run, guest):
    document = run("info", guest.name, "--json").document
    assert "live" == document["kind"]
    assert "live QEMU guest over gdb" == document["format"]
    assert ["pkru = 0x0"] == document["assumed"]
    assert [["0x0", "0x10000"]] == document["memory"]["ranges"]


def test_a_check_by_several_processes_reads_before_they_begin(run, guest):
    ran = run("check", guest.name, "--jobs", 2, "--json")
    assert 0 == ran.status
    assert 0 == ran.document["divergences"]
    assert 0 < ran.document["probes"] == ran.document["agreements"]
    assert 1 == guest.connections


def test_all_roots_are_those_of_the_cpus(run, guest):
    guest.cpus.append(cpu_of(cr3=SECOND))
    ran = run("walk", guest.name, "--roots", "all", "--json", "--allow-empty")
    assert 0 == ran.status
    assert "0x1000" in {each["root"] for each in ran.records}
    assert "frames searched" not in ran.err


@pytest.mark.parametrize("chosen", [(), ("--cr3", "0x1000"), ("--roots", "0x1000")])
def test_a_policy_counts_the_roots_of_the_cpus_before_the_guest_runs_again(run, guest, chosen):
    guest.cpus.append(cpu_of(cr3=SECOND))
    ran = run("frames", guest.name, "--policy", "any", *chosen)
    over = "1 of 2 known roots" if chosen else "1 of the CPUs' 2 roots"
    assert (1, True) == (ran.status, over in ran.err.splitlines())
    assert (
        f"W^X: partial: {over}; there may be more; --roots all looks at all; memory wasn't "
        "searched for others (crosswalk roots --scan-live does)"
    ) in ran.out.splitlines()


def roots_file(folder):
    path = folder / "roots"
    path.write_text('{"cr3": "0x1000", "mode": "4-level"}\n{"cr3": "0xb000"}\n')
    return path


COMMANDS = [
    ("walk", "--json", "--allow-empty"),
    ("frames", "--json"),
    ("frames", "--policy", "any"),
    ("frames", "--policy", "one-privilege", "--partial"),
    ("frames", "--of", "0x9000"),
    ("protect",),
    ("protect", "--policy", "one-privilege", "--json"),
    ("protect", "--format", "json", "--partial"),
    ("translate", "0x400000"),
    ("check", "--jobs", "1"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("roots", "running"),
    [("all", True), ("0x1000,0xb000", True), ("0x1000,0xb000", False), (roots_file, True)],
    ids=["all", "list", "list, paused", "file"],
)
def test_every_command_takes_all_forms_of_roots(run, command, roots, running, tmp_path):
    roots = roots if isinstance(roots, str) else roots(tmp_path)
    # No CPU has the root at 0xb000, and nothing leads there.
    with Stub(small().memory, [cpu_of(), cpu_of(cr3=SECOND)], running=running).listening() as stub:
        arguments = [each for each in command[1:2] if each.startswith("0x")]
        options = command[1 + len(arguments) :]
        given = (*options, "--roots", roots, "--efer", "0xd01", "--leave-paused")
        ran = run(command[0], stub.name, *arguments, *given)
    assert "runs again" not in ran.err
    assert ran.status in ({0, 1} if roots != "all" else {0, 1, 2})
    assert ran.out
    assert 1 == stub.connections


def test_a_guest_that_does_not_page_yet_has_no_roots(run, guest):
    guest.cpus = [cpu_of(cr0=0x11)]
    assert refused(run("roots", guest.name)).endswith("no root is named")


def no_violation():
    return PageTables(ram=((0, 0x10000),)).map(0x40_0000, 0x8000, P | RW | XD).memory


@pytest.mark.parametrize(
    "command",
    [("frames", "--policy", "any"), ("frames", "--policy", "one-privilege"), ("protect",)],
)
def test_where_memory_was_not_searched_nothing_found_is_a_part(run, guest, command):
    guest.memory = no_violation()
    guest.cpus.append(cpu_of(cr3=0x2000))
    not_searched = "memory wasn't searched for others (crosswalk roots --scan-live does)"
    for roots, over in ((("--roots", "all"), "in the CPUs' 2 roots"), ((), "1 of the CPUs' 2")):
        ran = run(command[0], guest.name, *command[1:], *roots)
        (verdict,) = [line for line in ran.out.splitlines() if line.startswith("W^X")]
        assert (2, True) == (ran.status, verdict.startswith(f"W^X: partial: {over}"))
        assert verdict.endswith(not_searched)
        assert 0 == run(command[0], guest.name, *command[1:], *roots, "--partial").status
    for chosen in (("--roots", "0x1000,0x2000"), ("--cr3", "0x1000")):
        ran = run(command[0], guest.name, *command[1:], *chosen)
        assert (0, True) == (ran.status, f"{not_searched}\n" in ran.out)
    ran = run("roots", guest.name)
    assert "memory wasn't searched for others: --scan-live does" in ran.err
    assert "wasn't searched" not in run("roots", guest.name, "--scan-live").err


def frames_read(stub):
    return {int(each[1:].split(b",")[0], 16) >> 12 for each in stub.log if each[:1] == b"m"}


def test_all_memory_is_searched_for_roots_only_if_that_is_asked_for(run, guest):
    assert ["cpu 0"] == [each["source"] for each in run("roots", guest.name, "--json").records]
    assert len(frames_read(guest)) < 16
    assert "cpu 0" == run("roots", guest.name, "--json", "--scan-live").records[0]["source"]
    assert set(range(16)) == frames_read(guest)
    line = refused(run("roots", guest.name, "--scan-live", "--no-scan"))
    assert line.endswith("--no-scan and --scan-live: choose one of them")


def test_a_connection_that_is_lost_is_one_line_and_status_2(run, guest):
    def spoil(command, packets):
        if command[:1] == b"m" and guest.connections == 1:
            raise HungUp
        return packets

    guest.spoil = spoil
    line = refused(run("walk", guest.name))
    assert line.endswith(f"{guest.name}: the connection was lost: the stub has closed it")


def test_a_stub_that_does_not_answer_is_given_up_after_the_time_that_was_given(run):
    with Stub(small().memory).listening() as stub:
        stub.spoil = lambda command, packets: b""
        assert "no answer in time" in refused(run("walk", stub.name, "--gdb-timeout", "0.05"))


@pytest.mark.parametrize(
    ("option", "reason"),
    [(("--kind", "raw"), "are for files"), (("--base", "0x1000"), "are for files")],
)
def test_options_of_files_are_refused(run, guest, option, reason):
    assert reason in refused(run("walk", guest.name, *option))
    assert 0 == guest.connections


def test_an_error_after_the_tables_were_read_leaves_the_guest_running(run, guest, tmp_path):
    case = tmp_path / "case.json"
    assert 0 == run("walk", guest.name, "--save-case", case).status
    saved = run("walk", case, "--json").records
    assert run("walk", guest.name, "--json").records == saved
    guest.memory = small().map(0x40_0000, 0x8000, P).change(0x40_0000, level=4, drop=P).memory
    assert "no mapping: is CR3 right?" in refused(run("walk", guest.name))
