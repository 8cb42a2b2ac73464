"""`scripts/guests`: rows of the table of docs/guests.md, and QEMU's time beside them."""

import json
import stat
from dataclasses import replace

import pytest

from scripts.upkeep import guests
from scripts.upkeep.guest_rows import GUESTS, RowGuest
from scripts.upkeep.guests import PAGE, Missing, Row, main, row_of, row_text, with_rows
from scripts.upkeep.qemu_boots import QemuBoot, boot_seconds, find_qemu
from tests.scripts.programs import program

ROW = Row(
    name="xen",
    version="4.20",
    format="multiboot2",
    point="console:Detected",
    paging="4-level",
    mappings=2765,
    writable_executable=676,
    probes=43140,
    divergences=0,
    unanswered=9,
    boot_seconds=2.09,
    qemu_seconds=None,
    check_seconds=1.04,
    peak_mib=128,
    verdict="agreement",
)
LINE = (
    "| xen | 4.20 | multiboot2 | `console:Detected` | 4-level | 2,765 | 676 | 43,140 | 0 | 9 "
    "| 2.1 s |  | 1.0 s | 128 MiB |"
)
# Cells that a run of the same version has to give again.
STABLE = slice(1, 11)


def cells(line):
    return [each.strip() for each in line.split("|")]


def documented():
    """The rows of the page, by the names of their guests."""
    _, _, table = PAGE.read_text("utf-8").partition("<!-- scripts/guests -->\n")
    rows = table.split("\n\n")[0].splitlines()[2:]
    return {cells(line)[1]: cells(line) for line in rows}


def test_a_row_says_what_was_found_and_how_long_it_took():
    assert LINE == row_text(ROW)
    assert "| 2.1 s | 0.3 s | 1.0 s |" in row_text(replace(ROW, qemu_seconds=0.28))


def test_rows_take_the_place_of_their_guests_in_the_order_of_the_list():
    page = "before\n\n<!-- scripts/guests -->\n| guest |\n|---|\n| xen | old |\n\nbehind\n"
    page = with_rows(page, [replace(ROW, name="sample")])
    assert ["sample", "xen"] == [cells(line)[1] for line in page.splitlines()[5:7]]
    page = with_rows(page, [ROW])
    assert LINE == page.splitlines()[6]
    assert page.startswith("before\n\n<!-- scripts/guests -->\n| guest | version |")
    assert page.endswith("|\n\nbehind\n")
    assert "old" not in page


def test_a_page_without_a_table_is_an_error():
    with pytest.raises(ValueError, match="no table behind"):
        with_rows("nothing", [ROW])


def test_the_page_has_a_row_for_each_guest():
    assert list(GUESTS) == list(documented())


@pytest.fixture
def without_qemu(monkeypatch):
    monkeypatch.setattr(guests, "find_qemu", lambda: None)


def test_the_sample_kernel_is_booted_and_checked(without_qemu, capsys):
    assert 0 == main(["sample", "--json"])
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert ("multiboot", "exit", "4-level", 18, 0) == tuple(
        record[name] for name in ("format", "point", "paging", "mappings", "divergences")
    )
    assert record["probes"] > 0
    assert None is record["qemu_seconds"]
    assert "no QEMU" in err
    (line,) = (row_text(Row(**record)),)
    assert documented()["sample"][STABLE] == cells(line)[STABLE]


def test_a_guests_options_are_those_that_its_boot_has():
    made = RowGuest("it", (), "exit", "", exit_port=0xF4, tick_every=1000)
    assert ("--exit-port", "0xf4", "--tick-every", "1000") == made.options
    assert () == RowGuest("it", (), "idle", "").options
    listed = {name: guest.options for name, guest in GUESTS.items() if guest.options}
    assert {
        "sample": ("--exit-port", "0xf4"),
        "gnumach-486": ("--tick-every", "100000"),
        "gnumach-486-pae": ("--tick-every", "100000"),
    } == listed


@pytest.mark.parametrize(
    ("guest", "said"),
    [
        (RowGuest("gone", ("false",), "idle", ""), "can't be fetched"),
        (RowGuest("late", (), "console:never shown", "", ram=16), "didn't reach console:never"),
    ],
    ids=["a fetch that fails", "a point that isn't reached"],
)
def test_a_guest_that_is_missing_fails_the_table(without_qemu, monkeypatch, capsys, guest, said):
    monkeypatch.setitem(GUESTS, guest.name, guest)
    assert 1 == main([guest.name])
    out, err = capsys.readouterr()
    assert "" == out
    assert f"{guest.name}: " in err
    assert said in err


@pytest.mark.parametrize(
    ("point", "status"),
    [({"probes": 0, "divergences": 0}, 2), ({"probes": 9, "divergences": 0}, 1)],
    ids=["nothing that was checked", "a guest that exits with another code than 0"],
)
def test_a_guest_that_shows_nothing_fails_the_table(
    without_qemu, monkeypatch, tmp_path, capsys, point, status
):
    answer = json.dumps({"points": [point], "verdict": "what it says"})
    answers = program(tmp_path / "python", f"echo '{answer}'\nexit {status}")
    monkeypatch.setattr(guests.sys, "executable", str(answers))
    assert 1 == main(["sample"])
    assert "sample: what it says" in capsys.readouterr().err


def test_a_guest_that_is_another_one_each_time_fails_the_table(without_qemu, monkeypatch):
    digests = iter("ab")
    monkeypatch.setattr(guests, "booted", lambda *_: (0.0, next(digests)))
    with pytest.raises(Missing, match="two boots don't leave the same memory"):
        row_of(GUESTS["sample"], None)


def test_a_guest_that_is_not_listed_is_bad_usage(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["plan9"])
    assert 2 == ended.value.code
    assert "plan9: no such guest; there are sample, " in capsys.readouterr().err


FAKE = """#!/bin/sh
# In QEMU's place: its kernel is a text, which is shown after as much work as is said before it.
while [ "$1" != -kernel ]; do shift; done
if grep -q 'sample kernel:' "$2"; then echo sample kernel: booted; exec sleep 60; fi
read -r work text <"$2"
i=0; while [ $i -lt "$work" ]; do i=$((i + 1)); done
echo "$text"
exec sleep 60
"""


@pytest.fixture
def fake_qemu(tmp_path):
    path = tmp_path / "qemu"
    path.write_text(FAKE)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_time_is_taken_up_to_a_text_of_the_console(fake_qemu):
    worked = boot_seconds(fake_qemu, QemuBoot(b"400000 it is there\n"), "is there", 50.0)
    idle = boot_seconds(fake_qemu, QemuBoot(b"0 it is there\n"), "is there", 50.0)
    assert 0.05 < worked
    assert worked > idle >= 0


def test_a_text_that_is_not_shown_has_no_time(fake_qemu):
    assert None is boot_seconds(fake_qemu, QemuBoot(b"0 something else\n"), "is there", 1.0)
    assert None is boot_seconds("false", QemuBoot(b""), "is there", 10.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in GUESTS if name != "sample"])
def test_a_guest_of_a_package_agrees_as_the_page_says(name):
    row = row_of(GUESTS[name], find_qemu())
    assert 0 == row.divergences
    assert row.probes > 0
    found, said = cells(row_text(row)), documented()[name]
    if found[2] == said[2]:  # Of that version of the package.
        assert said[STABLE] == found[STABLE]
