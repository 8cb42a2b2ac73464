"""`walker new` writes starters that pass; `walker try` shows what an adapter gets wrong."""

import json
import shlex
import subprocess
import sys

import pytest

from crosswalk.emu.testing.samples import in_mode, samples
from crosswalk.walker.context import PagingMode
from tests.emu.targets.walkers import HEADER

STARTERS = HEADER / "starters"
SPACES = (
    "4-level paging: pages of every size, rights at every level, both halves",
    "4-level paging: reserved and ignored bits, addresses that aren't canonical, holes",
    "5-level paging: pages of every size, both halves, canonical addresses",
)


def build(source, text=None):
    """The walker in a file: a library has to be compiled."""
    if text is not None:
        source.write_text(text, "utf-8")
    if source.suffix != ".c":
        return
    command = ["cc", "-shared", "-fPIC", "-Werror", "-Wall", "-Wextra", f"-I{HEADER}"]
    subprocess.run(
        [*command, "-o", source.with_name(f"lib{source.stem}.so"), source],
        check=True,
        capture_output=True,
    )


WALKERS = {
    "python": "python:mywalker.py:translate",
    "list": "python:mywalker.py:mappings",
    "c": "c:./libmywalker.so",
    "exec": f"exec:{sys.executable} mywalker_exec.py",
}
KINDS = {"list": "python"}


@pytest.fixture
def new(run, tmp_path, monkeypatch):
    """Write a starter into an empty folder; returns the file."""
    monkeypatch.chdir(tmp_path)

    def new(name):
        ran = run("walker", "new", KINDS.get(name, name))
        assert 0 == ran.status
        path = tmp_path / ran.out.split()[1].rstrip(";")
        build(path)
        return path

    return new


ADAPTED = {
    "kdumpfile": "/usr/bin/python3",
    "drgn": "/usr/bin/python3",
    "bochscpu": "bochs/bin/python",
    "qemu": "python3",
}


@pytest.mark.parametrize("kind", ADAPTED)
def test_an_adapter_comes_with_what_it_imports_and_its_w(run, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    ran = run("walker", "new", kind)
    assert (0, "") == (ran.status, ran.err)
    name = f"{kind}_walker.py"
    first, install, *_, fuzz = ran.out.splitlines()
    assert f"wrote {name} and protocol.py; go on with:" == first
    assert install.startswith(("  sudo apt-get install -y ", "  python3 -m venv bochs"))
    walker = f"exec:{ADAPTED[kind]} {name}"
    assert walker in shlex.split(fuzz)
    assert walker in (tmp_path / name).read_text("utf-8")
    for written in (name, "protocol.py"):
        shipped = STARTERS / "adapters" / written
        assert shipped.read_bytes() == (tmp_path / written).read_bytes()


def test_a_second_adapter_shares_what_the_first_one_brought(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert 0 == run("walker", "new", "drgn").status
    ran = run("walker", "new", "kdumpfile", "my own.py")
    assert "exec:/usr/bin/python3 'my own.py'" in shlex.split(ran.out.splitlines()[-1])
    names = {path.name for path in tmp_path.iterdir()}
    assert {"drgn_walker.py", "my own.py", "protocol.py"} == names


@pytest.mark.parametrize(
    ("there", "name", "message"),
    [
        ("protocol.py", (), "protocol.py: is there already, and isn't overwritten"),
        ("qemu_walker.py", (), "qemu_walker.py: is there already, and isn't overwritten"),
        ("mine.py", ("protocol.py",), "protocol.py: the adapter imports a file of this name"),
    ],
)
def test_an_adapter_overwrites_neither_file(run, tmp_path, monkeypatch, there, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / there).write_text("mine")
    ran = run("walker", "new", "qemu", *name)
    assert (2, "") == (ran.status, ran.out)
    assert message in ran.err
    assert {there: "mine"} == {path.name: path.read_text() for path in tmp_path.iterdir()}


def fuzz(run, walker, cases=4):
    options = ("--cases", str(cases), "--accesses", "1024", "--jobs", "1", "--no-reduce", "--json")
    ran = run("fuzz", "--walker", walker, *options)
    return ran.status, json.loads(ran.out)


@pytest.mark.parametrize("name", WALKERS)
def test_a_starter_passes_a_campaign(run, new, name):
    new(name)
    status, found = fuzz(run, WALKERS[name])
    assert (0, []) == (status, found["findings"])
    assert sum(found["answered"].values()) > 2000


@pytest.mark.parametrize("name", WALKERS)
def test_a_starter_is_right_about_the_samples(run, new, name):
    new(name)
    ran = run("walker", "try", WALKERS[name])
    assert (0, "") == (ran.status, ran.err)
    assert all(title in ran.out for title in SPACES)
    assert "wrong" not in ran.out
    assert "declined" not in ran.out.replace("right, 0 declined", "")


@pytest.mark.parametrize("name", WALKERS)
def test_a_starter_declines_the_modes_that_it_does_not_state(run, new, name):
    new(name)
    ran = run("walker", "try", WALKERS[name], "--mode", "pae,32bit")
    assert 2 == ran.status
    assert "verdict: nothing judged of: " in ran.out


MUTATIONS = {
    "python": [
        ("user = user and bool(entry & US)", "user = bool(entry & US)"),
        ("writable = writable and bool(entry & RW)", "writable = bool(entry & RW)"),
        ("executable = executable and not entry & XD", "executable = not entry & XD"),
        ("if level == 1 or entry & PS:\n            break", "if level == 1:\n            break"),
        ("if not context.canonical(va):", "if False:"),
        ("| va & inside", "| va & 0xFFF"),
        ("bits = FIELD & ~context.address_mask", "bits = 0 & ~context.address_mask"),
        ("bits |= PS\n        if", "bits |= 0\n        if"),
    ],
    "list": [
        ("first += (1 << 64) - 512 * size", "first += 0"),
        ("if level > 1 and not entry & PS:", "if level > 2 and not entry & PS:"),
        ("entry & ~field\n", "entry & 0xFFF\n"),
        ("(1 << 3 + 9 * level) - (1 << 13)", "0"),
    ],
    "c": [
        ("user &= (entry & US) != 0;", ""),
        ("writable &= (entry & RW) != 0;", ""),
        ("if (va != canonical(va))", "if (0)"),
        ("-span(level)) | (va", "-4096) | (va"),
        ("uint64_t first = canonical(", "uint64_t first = ("),
        ("bits |= PS | (now.amd ? G : 0);", ";"),
        ("args->size = span(level);", "args->size = 4096;"),
    ],
    "exec": [
        ("executable = executable and not entry & XD", "executable = not entry & XD"),
        ("if not space.canonical(va):", "if False:"),
        ("hex(entry & ~field)\n", "hex(entry & 0xFFF)\n"),
        ("va += (1 << 64) - 512 * size", "va += 0"),
    ],
}


def mutate(path, before, after):
    text = path.read_text("utf-8")
    assert 1 == text.count(before)
    build(path, text.replace(before, after))


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [(name, *change) for name, changes in MUTATIONS.items() for change in changes],
)
def test_the_samples_show_a_mutation_of_a_starter(run, new, name, before, after):
    mutate(new(name), before, after)
    assert 1 == run("walker", "try", WALKERS[name]).status


CONTROLS = (
    ("if not context.nxe:", "if False:"),
    ("user and not by_user and context.smep", "False"),
    ("user and not by_user and context.smap", "user and by_user and context.smap"),
    ("by_user or context.wp", "True"),
    ("if denied & 1 or", "if"),
)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), CONTROLS)
def test_a_campaign_finds_what_control_bits_show(run, new, before, after):
    mutate(new("python"), before, after)
    status, found = fuzz(run, WALKERS["python"], cases=48)
    assert 1 == status
    assert found["findings"]


@pytest.mark.parametrize("name", WALKERS)
def test_a_campaign_finds_a_mutation_of_each_starter(run, new, name):
    mutate(new(name), *MUTATIONS[name][0])
    status, found = fuzz(run, WALKERS[name])
    assert 1 == status
    assert found["findings"]


def test_what_is_there_is_not_overwritten(run, new):
    path = new("python")
    path.write_text("mine")
    for given in ((), (str(path),), (str(path.parent),)):
        ran = run("walker", "new", "python", *given)
        assert (2, "") == (ran.status, ran.out)
        assert ran.err.endswith("mywalker.py: is there already, and isn't overwritten\n")
    assert "mine" == path.read_text()


def test_a_dangling_link_is_not_followed(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mywalker.c").symlink_to("elsewhere.c")
    assert 2 == run("walker", "new", "c").status
    assert not (tmp_path / "elsewhere.c").exists()


@pytest.mark.parametrize(
    ("kind", "file", "walker"),
    [
        ("python", "ours.py", "python:ours.py:translate"),
        ("c", "ours.c", "c:./libours.so"),
        ("exec", "ours.py", "exec:python3 ours.py"),
    ],
)
def test_a_name_of_its_own_is_the_one_in_the_file(run, tmp_path, monkeypatch, kind, file, walker):
    monkeypatch.chdir(tmp_path)
    ran = run("walker", "new", kind, file)
    assert 0 == ran.status
    assert walker in ran.out
    text = (tmp_path / file).read_text("utf-8")
    assert walker in text
    assert "mywalker" not in text


@pytest.mark.parametrize("kind", ["python", "exec"])
def test_a_starter_in_python_has_a_name_of_python(run, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    ran = run("walker", "new", kind, "ours.txt")
    assert (2, "") == (ran.status, ran.out)
    assert "a name that ends in .py" in ran.err


ADDRESS = "    return entry & context.address_mask & ~inside | va & inside\n"
SWAP = 'int.from_bytes((entry & context.address_mask | va & inside).to_bytes(8, "little"), "big")'
ADAPTERS = {
    "the bytes of the physical address are in reverse order": [(ADDRESS, f"    return {SWAP}\n")],
    "the frame's number is given": [
        (ADDRESS, "    return (entry & context.address_mask & ~inside | va & inside) >> 12\n")
    ],
    "without the offset of the address in it": [
        (ADDRESS, "    return entry & context.address_mask & ~inside\n")
    ],
    "only the lowest 12 bits are added": [
        (ADDRESS, "    return entry & context.address_mask & ~inside | va & 0xFFF\n")
    ],
    "the entry's bits above the address": [
        (ADDRESS, "    return entry & ~inside | va & inside\n"),
        ("bits |= XD", "bits |= 0"),
    ],
    "the entry's low bits (its flags) are left in the address": [
        (ADDRESS, "    return (entry & (1 << 52) - 1) + (va & inside)\n")
    ],
    "the entry is given with the offset added": [(ADDRESS, "    return entry + (va & inside)\n")],
    "the entry is given instead of the address in it": [
        (ADDRESS, "    return entry\n"),
    ],
    "the physical address of the entry is given": [
        (ADDRESS, "    return table + (va >> 3 + 9 * level & 511) * 8\n")
    ],
    "the linear address is given back": [(ADDRESS, "    return va\n")],
    "no address of the upper half is found": [
        ("    va = access.va\n", "    va = access.va\n    if va >> 63:\n        return None\n")
    ],
    "no address is found": [
        ("(va >> 3 + 9 * level & 511) * 8)", "(va >> 3 + 9 * level & 511) * 8 + 0x100000)")
    ],
    "the answer is physical address 0": [("            return None\n", "            return 0\n")],
    "are exchanged": [
        (ADDRESS, "    return None\n"),
        ("            return None\n", "            return 4096\n"),
        ("        return None\n    table", "        return 4096\n    table"),
        (
            "user, writable, executable):\n        return None",
            "user, writable, executable):\n        return 4096",
        ),
    ],
}
LISTS = {
    "the size is one less": [("field, size, entry", "field, size - 1, entry")],
    "the size is given in pages": [("field, size, entry", "field, size >> 12, entry")],
    "the size is given in KiB": [("field, size, entry", "field, size >> 10, entry")],
    "the size is given as a power of two": [("field, size, entry", "field, 3 + 9 * level, entry")],
    "the flags are the whole entry": [("entry & ~field\n", "entry\n")],
    "the flags are the entry's lowest 12 bits": [("entry & ~field\n", "entry & 0xFFF\n")],
    "the frame's number is given": [("entry & field, size", "(entry & field) >> 12, size")],
    "addresses of the upper half are listed without": [
        ("first += (1 << 64) - 512 * size", "first += 0"),
        ("if first + size <= va or first >= end:", "if False:"),
        ("if root else touched", ""),
    ],
    "no address of the upper half is found": [("first += (1 << 64) - 512 * size", "first += 0")],
}


HALF = 'answer = translate(space, message) if "va" in message else {"outcome": "unknown"}'


def hints(ran):
    return [line for line in ran.out.splitlines() if line.startswith("hint: ")]


@pytest.mark.parametrize(
    ("name", "mistake"),
    [*(("python", each) for each in ADAPTERS), *(("list", each) for each in LISTS)],
)
def test_the_mistake_of_an_adapter_is_named_and_no_other(run, new, name, mistake):
    path = new(name)
    text = path.read_text("utf-8")
    for before, after in (LISTS if name == "list" else ADAPTERS)[mistake]:
        assert before in text
        text = text.replace(before, after)
    build(path, text)
    ran = run("walker", "try", WALKERS[name])
    assert 1 == ran.status
    assert 1 == len(hints(ran)), ran.out
    assert mistake in hints(ran)[0]


FOUR = """\
def translate(memory, context, access):
    va, table = access.va, context.cr3 & 0xFFFFFFFFFF000
    if {strict} and va >> 47 not in (0, 0x1FFFF):
        return None
    for level in (4, 3, 2, 1):
        shift = 3 + 9 * level
        entry = memory.word(table + (va >> shift & 511) * 8)
        if not entry or not entry & 1:
            return None
        if level == 1 or entry & 0x80 and level < 4:
            inside = (1 << shift) - 1
            return {shown}
        table = entry & context.address_mask
"""
PLACE = "entry & context.address_mask & ~inside | va & inside"
STATED = 'let it state modes = "4level"'


@pytest.mark.parametrize("strict", [True, False])
def test_a_walker_of_four_levels_alone_is_told_to_state_them(run, tmp_path, monkeypatch, strict):
    monkeypatch.chdir(tmp_path)
    text = FOUR.format(strict=strict, shown=PLACE)
    (tmp_path / "four.py").write_text(text)
    ran = run("walker", "try", "python:four.py:translate")
    (hint,) = hints(ran)
    assert "all that is wrong in 5-level paging is what a 4-level walk" in hint
    assert STATED in hint
    (tmp_path / "four.py").write_text(text + 'translate.modes = "4level"\n')
    ran = run("walker", "try", "python:four.py:translate")
    assert [] == hints(ran)
    assert "5-level" not in ran.out


def test_a_list_of_four_levels_alone_is_told_to_state_them(run, new):
    path = new("list")
    build(path, path.read_text("utf-8").replace("context.levels", "4"))
    ran = run("walker", "try", WALKERS["list"])
    assert 1 == ran.status
    assert [True] == [STATED in hint for hint in hints(ran)]


@pytest.mark.parametrize("shown", [f"({PLACE}) + 4096", f"({PLACE}) >> 12", "0"])
def test_a_wrong_answer_of_another_kind_is_no_walk_in_another_mode(
    run, tmp_path, monkeypatch, shown
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "four.py").write_text(FOUR.format(strict=True, shown=shown))
    ran = run("walker", "try", "python:four.py:translate")
    assert 1 == ran.status
    assert "modes = " not in ran.out


def test_a_sample_can_be_read_in_every_mode():
    for case in samples(PagingMode):
        assert {*PagingMode} == {in_mode(case.context(), mode).mode for mode in PagingMode}
        for mode in PagingMode:
            assert case.context() == in_mode(in_mode(case.context(), mode), case.context().mode)


def test_wrong_answers_are_repeated_together_at_the_end(run, new):
    path = new("python")
    text = path.read_text("utf-8").replace("writable and bool(entry & RW)", "bool(entry & RW)")
    build(path, text)
    ran = run("walker", "try", WALKERS["python"])
    wrong = [line for line in ran.out.splitlines() if "wrong: it is" in line]
    head = f"\n\n{len(wrong)} wrong answers:\n"
    assert 1 == ran.out.count(head)
    *repeated, verdict = ran.out.partition(head)[2].splitlines()
    questions = [line.strip().partition(":")[0] for line in repeated if line.startswith("    ")]
    assert [line.split("  ")[1] for line in wrong] == questions
    assert f"  {SPACES[0]}" in repeated
    assert verdict.startswith(f"verdict: FAILED: {len(wrong)} of ")


def test_of_many_wrong_answers_the_first_are_repeated(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no.py").write_text("def f(memory, context, access):\n    return 7 << 20\n")
    out = run("walker", "try", "python:no.py:f").out
    wrong, end = out.count("wrong: it is"), out[out.index(" wrong answers:\n") :]
    assert f"    … and {wrong - 20} more, above\n" in end
    assert 20 == sum(line.startswith("    ") for line in end.splitlines()) - 1


def test_a_bug_of_the_walker_is_no_mistake_of_an_adapter(run, new):
    path = new("python")
    text = path.read_text("utf-8").replace("writable and bool(entry & RW)", "bool(entry & RW)")
    build(path, text)
    ran = run("walker", "try", WALKERS["python"])
    assert 1 == ran.status
    assert [] == hints(ran)
    assert "write of 0x80000123 at CPL 3" in ran.out
    assert "wrong: it is refused" in ran.out


def test_what_fails_is_shown_and_the_rest_is_asked(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.py").write_text(
        "def f(memory, context, access):\n"
        "    if access.va == 0x1123:\n"
        "        raise ValueError('no such page')\n"
        "    return NotImplemented\n"
    )
    ran = run("walker", "try", "python:w.py:f")
    assert 1 == ran.status
    assert "wrong: crash: raised ValueError: no such page; it is not mapped" in ran.out
    assert "declined; it is mapped, pa 0x6123" in ran.out


def test_a_list_that_is_never_given_is_no_agreement(run, new):
    path = new("exec")
    text = path.read_text("utf-8").replace('elif "first" in message:', "elif False:")
    path.write_text(text.replace("answer = translate(space, message)", HALF))
    ran = run("walker", "try", WALKERS["exec"])
    assert 2 == ran.status
    assert "verdict: nothing judged of: leaves, flags\n" in ran.out


def test_a_part_that_no_mapping_of_a_list_gives_is_no_agreement(run, new):
    path = new("list")
    text = path.read_text("utf-8")
    assert 1 == text.count("def mappings(")
    bare = (
        "\ndef bare(memory, context, va, end):\n"
        "    said = mappings(memory, context, va, end)\n"
        "    if said is NotImplemented:\n"
        "        return said\n"
        "    return [(va, None, size, None, None) for va, _, size, *_ in said]\n\n\n"
        'bare.claims, bare.modes = "leaves,flags,effective", MODES\n'
    )
    path.write_text(text + bare)
    ran = run("walker", "try", "python:mywalker.py:bare")
    assert 2 == ran.status
    assert "verdict: nothing judged of: flags, effective\n" in ran.out
    ran = run("walker", "try", "python:mywalker.py:bare", "--claims", "leaves")
    assert 0 == ran.status


def test_a_range_that_is_declined_is_not_said_to_be_right(run, new):
    path = new("list")
    text = path.read_text("utf-8")
    upper = "    if declines(context) or va >> 63:\n        return NotImplemented\n    return below"
    before = "    if declines(context):\n        return NotImplemented\n    return below"
    assert 1 == text.count(before)
    path.write_text(text.replace(before, upper))
    ran = run("walker", "try", WALKERS["list"])
    assert 0 == ran.status
    assert "mapping of 0xffffffffffc00000  no answer" in ran.out
    assert "declined; it is pa 0x200000, 2 MiB, flags 0x83" in ran.out
    assert "not listed" not in ran.out


def test_json_has_all_that_is_shown(run, new):
    new("python")
    ran = run("walker", "try", WALKERS["python"], "--json", "--claims", "rights")
    found = json.loads(ran.out)
    assert 0 == ran.status
    assert (["rights"], ["4level", "5level"]) == (found["claims"], found["modes"])
    assert list(SPACES) == [space["note"] for space in found["spaces"]]
    assert (found["asked"], 0, []) == (found["answered"], found["wrong"], found["hints"])
    assert {
        "va": "0x1ff8",
        "access": "write",
        "cpl": 3,
        "ac": False,
        "said": "refused",
        "right": "refused",
        "wrong": False,
        "failure": None,
    } in found["spaces"][0]["questions"]


def test_every_mode_has_a_sample(run):
    ran = run("walker", "try", "translate", "--json")
    found = json.loads(ran.out)
    assert 0 == ran.status
    modes = ["4level", "4level", "5level", "pae", "32bit"]
    assert modes == [space["mode"] for space in found["spaces"]]
    assert found["asked"] == found["answered"]


def test_a_walker_that_can_not_be_had_is_named(run):
    ran = run("walker", "try", "python:nowhere:f")
    assert (2, "", 1) == (ran.status, ran.out, len(ran.err.splitlines()))
