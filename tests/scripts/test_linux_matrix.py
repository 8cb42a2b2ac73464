"""Which kernels the matrix of Linux has, what makes a row fail, and what is written of it."""

import json

import msgspec
import pytest

from crosswalk.emu.cli import main
from crosswalk.emu.load.linux.guest import ARGUMENTS
from scripts.upkeep import linux_boots, linux_matrix
from scripts.upkeep.linux_matrix import Found, Point, Protection
from scripts.upkeep.linux_rows import ROWS, chosen
from tests.emu.load.linux.kernels import talking, vmlinux
from tests.scripts.programs import program

DONE = "crosswalk init: done"
LINES = f"{linux_boots.FIRST}6.1\n{linux_boots.LAST}\n"


def test_every_suite_has_its_kernels():
    names = [row.name for row in ROWS]
    for suite in ("bullseye", "bookworm", "trixie", "sid", "experimental"):
        assert {f"{suite}/{each}" for each in ("cloud", "generic", "rt")} <= set(names)
    for suite in ("bullseye", "bookworm"):
        assert {f"{suite}/686", f"{suite}/686-pae"} <= set(names)
    assert len(names) == len(set(names))
    assert {"i386"} == {row.arch for row in ROWS if "686" in row.flavour}


def test_rows_are_chosen_by_pattern_and_suite():
    assert ["trixie/cloud"] == [row.name for row in chosen(["trixie/cloud"], [])]
    assert ["bookworm/686", "bookworm/686-pae"] == [
        row.name for row in chosen(["*/686*"], ["bookworm"])
    ]
    assert list(ROWS) == chosen([], [])


@pytest.mark.parametrize("words", [["nothing/cloud"], ["--suite", "buzz"], ["trixie/686"]])
def test_a_row_that_is_not_there_is_bad_usage_in_one_line(capsys, words):
    assert 2 == linux_matrix.main(words)
    ran = capsys.readouterr()
    assert ("", 1) == (ran.out, ran.err.count("\n"))
    assert "no such row" in ran.err


def test_the_rows_are_listed(capsys):
    assert 0 == linux_matrix.main(["--list"])
    assert [row.name for row in ROWS] == capsys.readouterr().out.splitlines()


def record(point, **changes):
    return {
        "point": point,
        "levels": 4,
        "mappings": 5000,
        "writable_executable": 0,
        "probes": 100,
        "divergences": 0,
        "known_divergences": 0,
        "seconds": 1.5,
        "boot_seconds": 12.5,
        "peak_mib": 200,
    } | changes


def answering(folder, points, *, status=0, console=DONE):
    """A command that answers as `crosswalk run` does."""
    answer = json.dumps({"points": points, "verdict": "what it says"})
    script = f"cat <<'END'\n{answer}\nEND\ncat >&2 <<'END'\n{console}\nEND\nexit {status}"
    return (str(program(folder / "crosswalk", script)),)


EARLY, USER, IDLE = linux_matrix.POINTS
PASSED = f"x86/mm: Checked W+X mappings: passed, no W+X pages found.\n{DONE}"


def checked(folder, points, **options):
    command = answering(folder, points, **options)
    return linux_matrix.checked(Found("a/b"), folder / "vmlinuz", folder / "core", command)


def test_a_row_has_what_the_command_said(tmp_path):
    points = [record(EARLY, writable_executable=385), record(USER), record(IDLE, peak_mib=210)]
    found = checked(tmp_path, points, console=PASSED)
    assert () == found.failures
    assert (385, 0, 0) == tuple(each.exposed for each in found.points)
    assert (12.5, 210, "passed, no W+X pages found") == (
        found.boot_seconds,
        found.peak_mib,
        found.own_check,
    )


POINTS = [record(EARLY), record(USER), record(IDLE)]


@pytest.mark.parametrize(
    ("points", "options", "message"),
    [
        (POINTS[:2], {}, "not all points were reached"),
        (POINTS, {"status": 2}, "exit status 2: what it says"),
        (POINTS, {"console": "panic"}, "isn't on the console"),
        ([record(EARLY), record(USER, divergences=3), record(IDLE)], {}, "3 divergences at user"),
        (
            [record(EARLY), record(USER, writable_executable=1), record(IDLE)],
            {"console": PASSED},
            "the kernel says of its W+X mappings: passed",
        ),
        (
            POINTS,
            {"console": PASSED.replace("passed, no", "FAILED, 7")},
            "the kernel says of its W+X mappings: FAILED",
        ),
    ],
)
def test_what_is_not_as_it_should_be_is_a_failure(tmp_path, points, options, message):
    (failure,) = checked(tmp_path, points, **options).failures
    assert message in failure


def test_a_command_without_an_answer_is_a_failure_with_its_last_line(tmp_path):
    command = (str(program(tmp_path / "crosswalk", "echo one >&2; echo two >&2; exit 2")),)
    found = linux_matrix.checked(Found("a/b"), tmp_path / "k", tmp_path / "core", command)
    assert ("two",) == found.failures


def test_a_kernel_that_fails_is_a_failure_with_its_reason(tmp_path):
    answer = json.dumps({"points": [], "failure": {"kind": "reset"}, "verdict": "it panicked"})
    script = f"echo console >&2\ncat <<'END'\n{answer}\nEND\nexit 2"
    command = (str(program(tmp_path / "crosswalk", script)),)
    found = linux_matrix.checked(Found("a/b"), tmp_path / "k", tmp_path / "core", command)
    assert (("it panicked",), ()) == (found.failures, found.points)


def attack(*, unprotected=True, protected=False, not_built=""):
    return {"unprotected": unprotected, "protected": protected, "not_built": not_built}


@pytest.mark.parametrize("holds", [True, False])
def test_protection_counts_the_attacks_that_were_made(tmp_path, holds):
    attacks = [attack(), attack(protected=True), attack(not_built="no code", unprotected=False)]
    answer = json.dumps({"attacks": attacks, "checks": [{"text": "a rule", "holds": holds}]})
    script = f"cat <<'END'\n{answer}\nEND\nexit {int(not holds)}"
    command = (str(program(tmp_path / "crosswalk", script)),)
    found = linux_matrix.protected(Found("a/b"), tmp_path / "k", command)
    assert Protection(int(not holds), attacks=2, stopped=1) == found.protection
    assert (() if holds else ("protect: a rule",)) == found.failures


def test_protection_without_an_attack_shows_nothing_and_fails(tmp_path):
    attacks = [attack(not_built="KASLR?", unprotected=None)]
    answer = json.dumps({"attacks": attacks, "checks": [{"text": "a rule", "holds": True}]})
    command = (str(program(tmp_path / "crosswalk", f"echo '{answer}'")),)
    found = linux_matrix.protected(Found("a/b"), tmp_path / "k", command)
    assert ("protect: no attack was made",) == found.failures


def test_a_kernel_that_cannot_be_fetched_fails_the_matrix_and_is_named(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "scripts").mkdir()
    program(tmp_path / "scripts/fetch-kernel", "echo 'fetch-kernel: no route' >&2; exit 1")
    monkeypatch.setattr(linux_matrix, "ROOT", tmp_path)
    assert 1 == linux_matrix.main(["trixie/cloud"])
    ran = capsys.readouterr()
    assert "trixie/cloud: fetch-kernel: no route" in ran.err
    assert "| trixie/cloud |  | fetch-kernel: no route |" in ran.out


FOUND = Found(
    "trixie/cloud",
    release="6.12-cloud",
    points=(
        Point(EARLY, "4-level", 4000, 385, 70_000, 0, 0, 1.0),
        Point(USER, "4-level", 5000, 0, 90_000, 0, 0, 1.0),
        Point(IDLE, "4-level", 5010, 0, 90_100, 0, 0, 1.0),
    ),
    boot_seconds=20.0,
    peak_mib=1276,
    own_check="passed, no W+X pages found",
    cpu_seconds=12.0,
    same=True,
    qemu_seconds=5.0,
    protection=Protection(0, 15, 10),
)


def test_a_row_of_the_table_has_the_figures():
    expected = (
        "| trixie/cloud | 6.12-cloud | 4-level | 5,010 | 385, 0, 0 | passed | 250,100 | yes "
        "| 12.0 | 5.0 | 2.4 | 1,276 | yes, 10 of 15 attacks |"
    )
    assert expected == linux_matrix.table([FOUND]).splitlines()[2]


def test_only_the_table_of_a_page_is_written_anew():
    page = "before\n\n<!-- scripts/linux-matrix -->\n| old |\n|---|\n\nafter | all\n"
    written = linux_matrix.with_table(page, [FOUND])
    assert (
        f"before\n\n<!-- scripts/linux-matrix -->\n{linux_matrix.table([FOUND])}\nafter" in written
    )
    assert written.endswith("\nafter | all\n")
    assert "old" not in written


def test_what_was_not_asked_this_time_stays_for_the_same_release():
    now = msgspec.structs.replace(FOUND, protection=None, same=None, cpu_seconds=0)
    assert FOUND == linux_matrix.merged(FOUND, now)
    other = msgspec.structs.replace(now, release="6.13-cloud")
    assert other == linux_matrix.merged(FOUND, other)
    assert now == linux_matrix.merged(None, now)


def test_the_documented_table_is_what_was_kept_and_all_of_it_is_as_it_should_be():
    found = linux_matrix.kept()
    page = linux_matrix.PAGE.read_text("utf-8")
    assert page == linux_matrix.with_table(page, found)
    assert linux_matrix.table(found) in page
    assert {each.row: () for each in found} == {each.row: each.failures for each in found}


@pytest.fixture
def kernel(tmp_path):
    path = tmp_path / "kernel"
    path.write_bytes(vmlinux(talking("mov rax, cr3\nmov cr3, rax", text=LINES.strip())))
    return path


def test_two_boots_in_processes_of_their_own_end_with_the_same_bytes(kernel):
    first, second = (linux_boots.here(kernel, ["cr3:1", "cr3:2"]) for _ in range(2))
    assert first.ram == second.ram
    assert first.cpu_seconds >= 0
    assert linux_boots.here(kernel, ["instructions:100", "cr3:2"]).ram == first.ram


def test_other_bytes_at_the_end_of_a_second_boot_are_a_failure(kernel, tmp_path, monkeypatch):
    monkeypatch.setattr(linux_matrix, "POINTS", ("cr3:2",))
    cores = []
    for name, until in (("same", "cr3:2"), ("other", "cr3:1")):
        core = tmp_path / f"{name}.core"
        command = ["run", "--kernel", str(kernel), "--until", until, "--save", str(core)]
        assert 0 == main(command)
        cores.append(linux_matrix.booted_again(Found("a/b"), kernel, core, None))
    assert [(True, ()), (False, ("a second boot ended with other bytes in RAM",))] == [
        (each.same, each.failures) for each in cores
    ]


def test_a_boot_that_fails_is_named(tmp_path):
    path = tmp_path / "kernel"
    path.write_bytes(vmlinux(talking("mov rax, cr3\nmov cr3, rax", text="nothing of the kind")))
    with pytest.raises(RuntimeError, match="'Linux version ' didn't appear on the console"):
        linux_boots.here(path, ["cr3:2"])


def test_a_machines_time_is_taken_between_two_lines_and_it_is_ended(tmp_path):
    asked = tmp_path / "asked"
    script = f'echo "$@" >{asked}\nprintf "{LINES}"\nexec sleep 1000'
    qemu = program(tmp_path / "qemu", script)
    assert 0 <= linux_boots.in_qemu(str(qemu), tmp_path / "vmlinuz", 64) < 5
    assert asked.read_text().endswith(f"-append {ARGUMENTS}\n")


def test_a_machine_that_ends_before_the_line_is_named(tmp_path):
    qemu = program(tmp_path / "qemu", f'echo "{linux_boots.FIRST}6.1"')
    with pytest.raises(RuntimeError, match="didn't appear on the console"):
        linux_boots.in_qemu(str(qemu), tmp_path / "vmlinuz", 32)
