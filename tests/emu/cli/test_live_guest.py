"""A Linux in QEMU, walked while it is paused, held to what QEMU's own monitor says of it."""

import json
import os
import signal
import subprocess
import sys

import pytest

from crosswalk.walker.formats.gdb_remote import Remote, parse_address
from tests.emu.live_guests import COUNTER, a_qemu, leaves_of, live_guest, qemus, ranges_of
from tests.processes import until

RW = 1 << 1
ENTRIES = {4: "-la57", 5: "+la57"}
INTERRUPTIBLE = """
import signal, sys
from crosswalk.emu.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell may have had it ignored.
sys.exit(main())
"""


@pytest.fixture(scope="module", params=[4, pytest.param(5, marks=pytest.mark.slow)])
def guest(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    with live_guest(folder, qemu=a_qemu(), cpu=f"max,{ENTRIES[request.param]}") as running:
        running.levels = request.param
        yield running


@pytest.fixture
def paused(guest):
    """The guest, paused by QEMU's monitor."""
    guest.execute("stop")
    yield guest
    guest.execute("cont")


def walked(run, guest, *options):
    ran = run("walk", guest.name, "--json", "--leave-paused", *options)
    assert 0 == ran.status
    assert f"{guest.levels}-level paging" in ran.err
    return ran.records


def differences(expected, found):
    """The keys of which one says something else than the other, in order."""
    return sorted(
        key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)
    )


def require_rights(guest, cpu, records):
    """The rights of all pages are as the monitor has them.

    With 5 levels `info mem` takes half a minute and prints nothing, from QEMU 7.2 to 11.1, so that
    the flags of leaves are all there is.
    """
    if guest.levels == 4:
        ranges = guest.ranges(cpu)
        assert 100 < len(ranges)
        assert ranges == ranges_of(records)


def test_each_page_of_each_cpu_is_as_the_monitor_lists_it(run, paused):
    for cpu in (0, 1):
        records = walked(run, paused, "--cpu", cpu)
        leaves = paused.leaves(cpu)
        assert 5000 < len(leaves)
        assert [] == differences(leaves, leaves_of(records))
        require_rights(paused, cpu, records)
    assert "paused" == paused.status


def test_a_changed_entry_makes_it_differ_from_what_the_monitor_listed(run, paused):
    before, rights = paused.leaves(0), ranges_of(walked(run, paused))
    require_rights(paused, 0, walked(run, paused))
    ran = run("translate", paused.name, hex(COUNTER), "--json", "--leave-paused")
    entry = ran.document["steps"][-1]
    at, word = int(entry["pa"], 16), int(entry["entry"], 16)
    _write(paused, at, word ^ RW)
    changed = walked(run, paused)
    assert [COUNTER] == differences(before, leaves_of(changed))
    assert rights != ranges_of(changed)
    assert [] == differences(paused.leaves(0), leaves_of(changed))
    _write(paused, at, word)
    assert rights == ranges_of(walked(run, paused))


@pytest.mark.parametrize("paging", [False, True], ids=["RAM", "mapped"])
def test_a_core_that_qemu_dumps_of_it_has_the_same_pages(run, paused, tmp_path, paging):
    core = tmp_path / "core"
    paused.execute("dump-guest-memory", paging=paging, protocol=f"file:{core}")
    for cpu in (0, 1):
        ran = run("walk", str(core), "--json", "--cpu", cpu)
        assert [] == differences(paused.leaves(cpu), leaves_of(ran.records))
        require_rights(paused, cpu, ran.records)


def _write(guest, pa, word):
    """Write a word of the guest's memory, by its stub, and leave it paused."""
    remote = Remote(parse_address(guest.name.removeprefix("gdb:")), seconds=30)
    assert b"OK" == remote.ask(b"Qqemu.PhyMemMode:1")
    assert b"OK" == remote.ask(b"M%x,8:" % pa + word.to_bytes(8, "little").hex().encode())
    assert b"OK" == remote.ask(b"Qqemu.PhyMemMode:0")
    remote.close()


def physical_mode(guest):
    """How the stub reads memory; the guest is paused from then on, and let go."""
    remote = Remote(parse_address(guest.name.removeprefix("gdb:")), seconds=30)
    found = remote.ask(b"qqemu.PhyMemMode")
    remote.detach()
    remote.close()
    return found


def require_counting(guest):
    """The guest's counter goes up, and its stub reads memory as before."""
    assert "running" == guest.status
    before = guest.word(guest.counter)
    until(lambda: guest.word(guest.counter) > before)
    assert b"0" == physical_mode(guest)


@pytest.mark.parametrize(
    "command",
    [
        ("walk",),
        ("frames",),
        ("info",),
        ("walk", "--roots", "all"),
        ("check", "--start", hex(COUNTER), "--end", hex(COUNTER + 0x10000), "--jobs", "1"),
    ],
)
def test_a_guest_goes_on_counting_after_each_command(run, guest, command):
    ran = run(command[0], guest.name, *command[1:])
    assert 0 == ran.status
    require_counting(guest)


@pytest.mark.parametrize(
    "command",
    [("walk",), ("frames", "--policy", "one-privilege"), ("protect",), ("check", "--limit", "100")],
)
def test_a_guest_goes_on_counting_after_a_command_on_chosen_roots(run, guest, tmp_path, command):
    path = tmp_path / "roots"
    path.write_text(run("roots", guest.name, "--json").out)
    cr3s = [json.loads(line)["cr3"] for line in path.read_text().splitlines()]
    for roots in (",".join(cr3s), path):
        ran = run(command[0], guest.name, *command[1:], "--roots", roots)
        assert ran.status in {0, 1}
        assert "crosswalk: error" not in ran.err
        assert ran.out
        require_counting(guest)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_guest_goes_on_counting_after_an_interrupt(guest, number):
    """The command looks at the guest again and again until it is interrupted."""
    command = [sys.executable, "-c", INTERRUPTIBLE, "walk", guest.name, "--watch", "0.01"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as ran:
        assert b"live QEMU guest" in ran.stderr.readline()
        os.kill(ran.pid, number)
        assert 130 == ran.wait()
    require_counting(guest)


@pytest.mark.slow
@pytest.mark.parametrize("qemu", qemus())
def test_every_qemu_lists_what_is_walked(run, tmp_path, qemu):
    for levels, word in ENTRIES.items():
        folder = tmp_path / str(levels)
        folder.mkdir()
        with live_guest(folder, qemu=qemu, cpu=f"max,{word}") as guest:
            guest.levels = levels
            guest.execute("stop")
            records = walked(run, guest)
            assert [] == differences(guest.leaves(0), leaves_of(records))
            require_rights(guest, 0, records)
            guest.execute("cont")
            require_counting(guest)
