"""`scripts/kvm-unit-tests` on tests of a few instructions: how they come out, and the stride."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosswalk.guest.assembler import assemble
from crosswalk.guest.sample.elf import Flags, Section, Symbol, SymbolKind, elf_file
from crosswalk.walker.errors import BadInput
from scripts.upkeep import kvm_unit_tests
from scripts.upkeep.kvm_access import advanced, read_access_test
from scripts.upkeep.kvm_unit_tests import Known, main, outcome_of, read_known, run_flat

BASE = 0x10_0000
HEADER = ".long 0x1badb002, 3, 0 - 0x1badb002 - 3\n"
PRINT = """
print:
    lodsb
    test al, al
    jz printed
    mov dx, 0x3f8
    out dx, al
    jmp print
printed:
    ret
"""
LEAVE = """
    out 0xf4, eax
    cli
    hlt
"""
BITS = 31


def flat(code, symbols=()):
    """A test's file: its code behind the header, and the addresses of labels as its symbols."""
    names = "".join(f".quad {name}\n" for name in symbols)
    made = assemble("flat", HEADER + code + PRINT + names, bits=32, address=BASE, symbols={})
    size = len(made) - 8 * len(symbols)
    values = [int.from_bytes(made[at : at + 8], "little") for at in range(size, len(made), 8)]
    rows = [
        Symbol(name, value, BASE + size - value, SymbolKind.FUNCTION, ".text")
        for name, value in zip(symbols, values, strict=True)
    ]
    text = Section(".text", BASE, BASE, size, Flags.WRITE | Flags.EXECUTE, made[:size])
    return elf_file(BASE + 12, [text], rows)


def saying(text, value):
    """Code that prints a text and leaves with a value."""
    begin = f"mov esp, 0x90000\n mov esi, said\n call print\n mov eax, {value}\n"
    return f"{begin}{LEAVE}said: .asciz {text}\n"


PASSES = saying('"PASS: one\\nPASS: two\\n"', 0)
FAILS = saying('"PASS: one\\nFAIL: two\\n"', 1)
SKIPS = saying('"SKIP: no such feature\\n"', 38)
ASKS = f"mov dx, 0x5678\n in al, dx\n{PASSES}"
STOPS = "cli\n hlt\n"
LOOPS = "loop: jmp loop\n"
QUICK = Known(ram=16, seconds=20.0)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with tests that are flats of this code, and what is known of them."""

    def checkout(known="", **codes):
        folder = tmp_path / "x86"
        folder.mkdir()
        for name, code in codes.items():
            (folder / f"{name}.flat").write_bytes(code if isinstance(code, bytes) else flat(code))
        data = tmp_path / "known.toml"
        data.write_text(known)
        monkeypatch.setattr(kvm_unit_tests, "DATA", data)
        return str(tmp_path)

    return checkout


@pytest.fixture
def ran(tmp_path):
    def ran(code, stride=0):
        path = tmp_path / "one.flat"
        path.write_bytes(code if isinstance(code, bytes) else flat(code))
        return run_flat(path, QUICK, stride)

    return ran


@pytest.mark.parametrize(
    ("code", "status", "counts", "passed"),
    [
        (PASSES, 0, {"PASS": 2}, True),
        (FAILS, 1, {"PASS": 1, "FAIL": 1}, False),
        (SKIPS, 38, {"SKIP": 1}, False),
        (saying('"PASS: one\\nFAIL: two\\n"', 0), 0, {"PASS": 1, "FAIL": 1}, False),
    ],
    ids=["passes", "fails", "skips", "says a failure and leaves with 0"],
)
def test_a_test_comes_out_as_it_says(ran, code, status, counts, passed):
    found = ran(code)
    assert (status, counts, "") == (found.status, found.counts, found.ended)
    assert passed is found.passed


def test_what_nothing_answered_is_counted(ran):
    assert 0 == ran(PASSES).unanswered
    assert 1 == ran(ASKS).unanswered


def test_a_test_that_does_not_end_by_itself_says_how_it_ended(ran):
    found = ran(STOPS)
    assert None is found.status
    assert (
        "the guest didn't reach exit: halted for good: no interrupt can wake the CPU" == found.ended
    )
    assert not found.passed


def test_a_file_that_is_no_guest_is_a_test_that_did_not_run(ran):
    found = ran(b"nothing")
    assert None is found.status
    assert "no guest of a known format" in found.ended


FAILURE = Known(fails="no such device")


@pytest.mark.parametrize(
    ("code", "known", "word", "wrong"),
    [
        (PASSES, QUICK, "passes", False),
        (PASSES, FAILURE, "passes, though known to fail", True),
        (FAILS, QUICK, "fails", True),
        (FAILS, FAILURE, "known: no such device", False),
        (SKIPS, QUICK, "skips itself", False),
        (STOPS, FAILURE, "known: no such device", False),
    ],
    ids=["as hoped", "no longer known", "new", "known", "skipped", "known stop"],
)
def test_an_outcome_is_held_to_what_is_known(ran, code, known, word, wrong):
    outcome = outcome_of(ran(code), known)
    assert (word, wrong) == (outcome.word, outcome.wrong)


def test_the_command_tabulates_all_tests_and_fails_for_what_is_not_known(checkout, capsys):
    folder = checkout("[bad]\nfails = 'no such device'\n", good=PASSES, bad=FAILS)
    assert 0 == main([folder])
    out, err = capsys.readouterr()
    assert ["bad", "good"] == [line.split()[0] for line in out.splitlines()]
    assert "2 tests: 1 pass, 1 don't, 0 not as known\n" == err
    assert 0 == main([folder, "--json", "bad", "good"])
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [("bad", False), ("good", True)] == [
        (each["name"], each["outcome"] == "passes") for each in records
    ]


def test_the_command_fails_for_a_failure_that_is_not_known(checkout, capsys):
    folder = checkout(good=PASSES, bad=FAILS)
    assert 1 == main([folder])
    assert "1 not as known" in capsys.readouterr().err


def test_the_table_takes_the_place_of_the_pages(checkout, monkeypatch, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- scripts/kvm-unit-tests -->\n| test |\n|---|\n| old |\n\nbehind\n")
    monkeypatch.setattr(kvm_unit_tests, "PAGE", page)
    folder = checkout("[bad]\nfails = 'no such device'\n", good=PASSES, bad=FAILS)
    assert 0 == main([folder, "--write"])
    before, mark, head, _, *rows, _, behind = page.read_text().splitlines()
    assert ("before", "<!-- scripts/kvm-unit-tests -->", "behind") == (before, mark, behind)
    assert "| test | exit | PASS | FAIL | SKIP | unanswered | |" == head
    assert [
        "| bad | 1 | 1 | 1 |  | 0 | known: no such device |",
        "| good | 0 | 2 |  |  | 0 | passes |",
    ] == rows
    # The rows of others stay.
    page.write_text(page.read_text().replace("| good | 0 | 2 |", "| good | 0 | 9 |"))
    assert 0 == main([folder, "bad", "--write"])
    assert "| bad | 1 | 1 | 1 |  | 0 | known: no such device |" in page.read_text()
    assert "| good | 0 | 9 |  |  | 0 | passes |" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "no x86/*.flat; build the checkout"), (["other"], "other: no such test in")],
)
def test_what_is_not_there_is_one_line(tmp_path, checkout, capsys, arguments, said):
    folder = checkout(**({"good": PASSES} if arguments else {}))
    with pytest.raises(SystemExit) as ended:
        main([folder, *arguments])
    assert 2 == ended.value.code
    assert said in capsys.readouterr().err


def test_the_file_of_what_is_known_can_be_read():
    known = read_known(kvm_unit_tests.DATA)
    assert known["access_test"].stride > 1
    assert "LAM" in known["lam"].fails


# The access test in small: 6 free bits, of which combinations with the two lowest set are illegal.
INVALID = 0x7FFF_FFFF & ~0b1011_0110_1000
SYMBOLS = ("ac_test_run", "ac_test_do_access", "invalid_mask")
ACCESS = f"""
    mov esp, 0x90000
    call ac_test_run
    mov esi, said
    mov al, bl
    add al, 0x30
    mov [said], al
    call print
    xor eax, eax
    {LEAVE}
ac_test_run:
    xor ebx, ebx
again:
    mov edi, combination
    call ac_test_do_access
next:
    mov eax, [combination]
    or eax, [invalid_mask]
    inc eax
    mov ecx, [invalid_mask]
    not ecx
    and eax, ecx
    mov [combination], eax
    mov ecx, eax
    and ecx, 0x28
    cmp ecx, 0x28
    je next
    cmp eax, 0x80000000
    jb again
    ret
ac_test_do_access:
    inc ebx
    ret
said: .asciz "0 tests, 0 failures\\n"
combination: .long 0
invalid_mask: .long {INVALID:#x}
"""


@pytest.mark.parametrize(("stride", "tested"), [(16, 4), (9, 7), (40, 2), (64, 1), (1000, 1)])
def test_a_stride_leaves_out_combinations_and_the_test_goes_on_by_itself(ran, stride, tested):
    found = ran(flat(ACCESS, SYMBOLS), stride)
    assert (0, ((tested, 0),)) == (found.status, found.combinations)


def test_without_a_stride_all_legal_combinations_are_tested(ran):
    # 48 of 64, as a character: those that don't have both of two bits.
    assert chr(0x30 + 48) + " tests" in ran(flat(ACCESS, SYMBOLS)).console


def test_a_word_that_is_no_combination_ends_the_test(ran):
    other = ACCESS.replace("combination: .long 0", "combination: .long 1")
    assert "holds no combination: 0x1" in ran(flat(other, SYMBOLS), 16).ended


@pytest.mark.parametrize(
    ("code", "symbols", "said"),
    [
        (ACCESS, SYMBOLS[:1], "needs its symbols ac_test_do_access and invalid_mask"),
        (ACCESS, SYMBOLS[1:], "needs one call of ac_test_do_access in .*; there are 0"),
        (ACCESS.replace("\nnext:", "\ncall ac_test_do_access\nnext:"), SYMBOLS, "there are 2"),
    ],
)
def test_a_file_that_is_another_access_test_is_refused(code, symbols, said):
    with pytest.raises(BadInput, match=said):
        read_access_test(flat(code, symbols))


def test_a_file_of_another_format_is_refused():
    with pytest.raises(BadInput, match="a stride needs an ELF file"):
        read_access_test(HEADER.encode())


@given(st.integers(0, (1 << BITS) - 1), st.data())
def test_steps_are_those_of_the_tests_own_counter(invalid, data):
    """Against the counter by its definition, one step after another."""
    word = data.draw(st.integers(0, (1 << BITS) - 1)) & ~invalid
    steps = data.draw(st.integers(0, 50))
    last = ((1 << BITS) - 1) & ~invalid
    expected = word
    for _ in range(steps):
        if expected == last:
            break
        expected = ((expected | invalid) + 1) & ~invalid
    assert expected == advanced(word, invalid, steps)
