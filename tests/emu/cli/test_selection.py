"""What the options choose, against a choice among all mappings, one at a time."""

from argparse import Namespace
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from crosswalk.emu.cli import selection as selection_module
from crosswalk.emu.cli.parser import parse
from crosswalk.emu.cli.selection import chosen_frames, chosen_selection, chosen_words
from crosswalk.walker import Rights, collective_rights, condensed, mappings
from tests.emu.cli.conftest import case_of
from tests.emu.cli.running import refused, written
from tests.random_tables import random_tables
from tests.tables import ADDRESS, KIB4, MIB2, OPEN, ROOT, RW, A, D, P, PageTables, chain

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEARCH = settings(max_examples=50_000, deadline=None, database=None, phases=[Phase.generate])

SIZES = {"4K": 1 << 12, "2M": 1 << 21, "4M": 1 << 22, "1G": 1 << 30}


@st.composite
def questions(draw):
    """Tables, one or two roots among them, and what is asked for, as the options have it."""
    tables = draw(random_tables(most=3))
    contexts = [tables.context]
    roots = draw(st.lists(st.sampled_from(tables.frames), max_size=1))
    registers = tables.context.cr3 & ~ADDRESS
    contexts += [replace(tables.context, cr3=registers | root) for root in roots]
    near = st.sampled_from([it.pa for it in mappings(tables.memory, contexts)] or [0])
    start = st.builds(lambda pa, by: max(pa + by, 0), near, st.integers(-KIB4, MIB2))
    ranges = st.builds(lambda low, size: (low, low + size), start, st.integers(1, 2 * MIB2))
    asked = {
        "pa": st.lists(ranges, min_size=1, max_size=2),
        "frame": st.lists(start, min_size=1, max_size=2),
        "aliases_of": st.tuples(st.just("pa"), start),
        "level": st.sampled_from("123"),
        "page_size": st.sampled_from((("4K",), ("2M",), ("4K", "2M"))),
        "wx": st.just(True),
        "writable": st.just(True),
        "executable": st.just(True),
        "user": st.just(True),
        **{name: st.sampled_from(("user", "supervisor")) for name in BY},
    }
    names = draw(st.sets(st.sampled_from(sorted(asked)), max_size=3))
    return tables.memory, contexts, {name: draw(asked[name]) for name in sorted(names)}


def reaches(it, low, high):
    return low < it.pa + it.size and it.pa < high


def in_frame(it, pa):
    return reaches(it, pa // KIB4 * KIB4, pa // KIB4 * KIB4 + KIB4)


HOLDS = {
    "pa": lambda it, value: any(reaches(it, *each) for each in value),
    "frame": lambda it, value: any(in_frame(it, each) for each in value),
    "aliases_of": lambda it, value: in_frame(it, value[1]),
    "level": lambda it, value: it.level == int(value),
    "page_size": lambda it, value: it.size in [SIZES[each] for each in value],
    "wx": lambda it, _: any(who[1:] == "wx" for who in (it.rights.supervisor, it.rights.user)),
    "writable": lambda it, _: "w" in it.rights.supervisor + it.rights.user,
    "executable": lambda it, _: "x" in it.rights.supervisor + it.rights.user,
    "user": lambda it, _: it.rights.user not in ("---", "-w-"),
    "readable_by": lambda it, who: "r" in getattr(it.rights, who),
    "writable_by": lambda it, who: "w" in getattr(it.rights, who),
    "executable_by": lambda it, who: "x" in getattr(it.rights, who),
}
"""Whether a mapping is one that an option of this value asks for."""
BY = ("readable_by", "writable_by", "executable_by")


def chosen_alone(some, options):
    """Those of some mappings that all of the options ask for."""
    return [it for it in some if all(HOLDS[name](it, value) for name, value in options.items())]


def spaces_of(contexts, memory=None):
    source = SimpleNamespace(memory=memory, assumed=())
    return SimpleNamespace(contexts=tuple(contexts), source=source)


def expected_of(memory, contexts, options):
    some = chosen_alone(mappings(memory, contexts), options)
    return [(it.context.root, it.va) for it in some]


def chosen_of(memory, contexts, options):
    selection = chosen_selection(Namespace(**options), spaces_of(contexts))
    found = selection.sections(memory, contexts)
    return [(context.root, it.va) for context, blocks in found for rows in blocks for it in rows]


@QUICK
@given(asked=questions())
def test_options_choose_from_all_mappings(asked):
    assert expected_of(*asked) == chosen_of(*asked)


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        ("_BY", {name: dict.fromkeys(("user", "supervisor"), Rights.USER_READ) for name in BY}),
        ("frame_of", lambda pa: (pa + KIB4, pa + 2 * KIB4)),
        ("_all", lambda conditions: conditions[0]),
    ],
    ids=["another privilege", "the neighbour", "the first condition alone"],
)
def test_a_rule_that_the_options_break_is_found(rule, wrong, monkeypatch):
    monkeypatch.setattr(selection_module, rule, wrong)
    asked = find(questions(), lambda it: expected_of(*it) != chosen_of(*it), settings=SEARCH)

    monkeypatch.undo()
    assert expected_of(*asked) == chosen_of(*asked)


@QUICK
@given(asked=questions())
def test_physical_ranges_are_chosen_frame_by_frame(asked):
    memory, contexts, options = asked
    some = {name: value for name, value in options.items() if name in ("pa", "wx", *BY)}
    frames = list(collective_rights(memory, contexts))
    found = list(chosen_frames(Namespace(**some), collective_rights(memory, contexts)))
    # Frames where something begins or ends, and those beside them.
    edges = [edge for start, size, _ in (*frames, *found) for edge in (start, start + size)]
    edges += [edge // KIB4 * KIB4 for each in some.get("pa", ()) for edge in each]
    for pa in {edge + by for edge in edges for by in (-KIB4, 0)} - {-KIB4}:
        there = [SimpleNamespace(pa=pa, size=KIB4, rights=it) for it in rights_at(frames, pa)]
        assert [it.rights for it in chosen_alone(there, some)] == rights_at(found, pa)


def rights_at(frames, pa):
    return [rights for start, size, rights in frames if start <= pa < start + size]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--pa", "0x9000-0xb000"), [1, 2]),
        (("--pa", "0x9000+4K", "--pa", "0x8fff-0x9000"), [0, 1]),
        (("--pa", "0xa000-"), [2]),
        (("--frame", "0x8fff"), [0]),
        (("--frame", "0x8000", "--frame", "0xa123"), [0, 2]),
        (("--pa", "0x8000-0xa000", "--frame", "0xa000"), []),
        (("--aliases-of", "0x401fff"), [1]),
        (("--aliases-of", "va:0x401fff"), [1]),
        (("--aliases-of", "pa:0x9001"), [1]),
        (("--flags", "nx=1"), [0]),
        (("--flags", "nx=0", "--writable"), [2]),
        (("--flags", "pte.us=1"), [2]),
        (("--flags", "pde.us=1"), []),
        (("--writable-by", "user"), [2]),
        (("--writable-by", "supervisor"), [0, 2]),
        (("--executable-by", "supervisor"), [1, 2]),
        (("--readable-by", "user"), [2]),
        (("--wx",), [2]),
        (("--page-size", "4K,1G"), [0, 1, 2]),
        (("--page-size", "2M"), []),
    ],
    ids=str,
)
def test_walk_lists_what_is_chosen(run, small_case, options, expected):
    every = run("walk", small_case, "--json").records
    ran = run("walk", small_case, "--json", *options)
    assert (0, [every[at] for at in expected]) == (ran.status, ran.records)
    count = len(expected)
    assert f"{count} mapping{'' if count == 1 else 's'}" == ran.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--pa", "5"), "'5' is not START-END or START+SIZE"),
        (("--pa", "0x1000-0x1000"), "0x1000-0x1000: an empty range"),
        (("--pa", "0x1000+0"), "0x1000+0: an empty range"),
        (("--pa", "0x1000-x"), "'x' is not a number"),
        (("--frame", "0x10000000000000"), "does not fit in 52 bits"),
        (("--aliases-of", "xx:5"), "'xx:5' is none of VA, va:VA, pa:PA"),
        (("--aliases-of", "0x402000"), "--aliases-of 0x402000: nothing is mapped there"),
        (("--aliases-of", "0x1000000000000000"), "nothing is mapped there"),
        (("--flags", "foo=1"), "no 'foo': the flags of a leaf are rw, us, "),
        (("--flags", "pk=3"), "--flags pk=3 means nothing here: CR4.PKE and CR4.PKS are clear"),
        (("--flags", "bit12=1"), "it is part of the address, or reserved"),
        (("--flags", "nx=1", "--efer", "0x500"), "EFER.NXE is clear"),
        (("--page-size", "3K"), "'3K' is none of 4K, 2M, 4M, 1G"),
        (("--page-size", "4M"), "--page-size 4M: 4-level paging here has 4K, 2M, 1G"),
        (
            ("--page-size", "4K,1G", "--no-page1gb"),
            "--page-size 1G: 4-level paging here has 4K, 2M",
        ),
    ],
    ids=str,
)
def test_what_no_mapping_can_be_is_refused_in_a_line(run, small_case, options, why):
    assert why in refused(run("walk", small_case, *options))


@pytest.mark.parametrize(
    ("mode", "option", "value", "why"),
    [
        ("32-bit", "--flags", "nx=1", "entries of 32-bit paging have none"),
        ("32-bit", "--flags", "pk=1", "32-bit paging has no protection keys"),
        ("32-bit", "--flags", "sw=1", "entries of 32-bit paging have the bits of avl alone"),
        ("32-bit", "--flags", "pdpte.g=1", "no pdpte maps a page in 32-bit paging here"),
        ("PAE", "--flags", "pdpte.g=1", "no pdpte maps a page in PAE paging here"),
        ("PAE", "--flags", "bit58=1", "it is part of the address, or reserved"),
        ("32-bit", "--page-size", "2M", "32-bit paging here has 4K, 4M"),
        ("PAE", "--page-size", "4M", "PAE paging here has 4K, 2M"),
    ],
)
def test_flags_and_sizes_that_a_mode_lacks_are_named(run, tmp_path, mode, option, value, why):
    tables = PageTables(mode, ram=((0, 0x10000),)).map(0, 0x5000)
    path = written(tmp_path / "case.json", case_of(mode=mode, words=tables.words))
    assert why in refused(run("walk", path, option, value))


def test_registers_that_are_assumed_are_named_with_their_option(run, small_raw):
    line = refused(run("walk", small_raw, "--cr3", "0x1000", "--flags", "pk=3"))
    assert line.endswith("so that bits 62:59 are no key (as assumed: give --cr4)")
    ran = run("walk", small_raw, "--cr3", "0x1000", "--flags", "pk=0", "--cr4", "0x400020")
    assert (0, 3) == (ran.status, len(ran.out.splitlines()))


def two_roots(*, same):
    """Two roots that map 0x400000 to one frame or to two, and one of them another page."""
    tables = PageTables().map(0x40_0000, 0x9000).map(0, 0x9000)
    other = PageTables(root=0xB000).map(0x40_0000, 0x9000 if same else 0xA000)
    return case_of(words=tables.words | other.words)


def test_aliases_in_all_roots_are_named_by_root(run, tmp_path):
    path = written(tmp_path / "case.json", two_roots(same=True))
    ran = run("walk", path, "--roots", "0x1000,0xb000", "--json", "--aliases-of", "0x400123")
    assert [("0x1000", "0x0"), ("0x1000", "0x400000"), ("0xb000", "0x400000")] == [
        (record["root"], record["va"]) for record in ran.records
    ]


def test_an_address_that_maps_several_frames_has_to_be_told_apart(run, tmp_path):
    path = written(tmp_path / "case.json", two_roots(same=False))
    both = ("--roots", "0x1000,0xb000")
    line = refused(run("walk", path, *both, "--aliases-of", "0x400123"))
    assert (
        "2 frames in these roots, as 0x9000 in 0x1000 and 0xa000 in 0xb000: "
        "give pa:PA, or one of --roots"
    ) in line
    assert 2 == len(run("walk", path, *both, "--json", "--aliases-of", "0x0").records)


def test_the_aliases_of_one_page_are_listed_as_far_as_the_limit_goes(run, tmp_path):
    words = dict(chain(4, 0x5000 | OPEN).words())
    path = written(tmp_path / "case.json", case_of(words=words))
    ran = run("walk", path, "--aliases-of", "pa:0x5000", "--limit", "2", "--json")
    assert ["0x0", "0x1000"] == [record["va"] for record in ran.records]
    assert ran.err.endswith("2 mappings, and there are more\n")
    assert "0 mappings\n" == run("walk", path, "--flags", "pwt=1").err[-11:]


@pytest.mark.parametrize("flags", ["a=0", "a=1", "d=0", "pte.a=1,g=0"])
def test_repeats_of_a_page_are_chosen_by_flags_that_accesses_set(run, tmp_path, flags):
    words = {pa: word for pa, word in chain(4, 0x5000 | P).words() if pa >= ROOT + 2 * KIB4}
    words |= {ROOT: ROOT + KIB4 | OPEN, ROOT + KIB4: ROOT + 2 * KIB4 | OPEN}
    words |= {ROOT + 3 * KIB4 + 8 * at: 0x5000 | P | A | D for at in range(0, 512, 2)}
    path = written(tmp_path / "case.json", case_of(words=words))

    (chosen,) = run("walk", path, "--coalesce", "--json", "--flags", flags).records
    (every,) = run("walk", path, "--coalesce", "--json").records
    assert (1 << 17, 1 << 18) == (chosen["mappings"], every["mappings"])
    assert ("0x1000" if flags.endswith("=0") and "a=1" not in flags else "0x0") == chosen["va"]


def test_a_watch_lists_changes_of_what_is_chosen(run, small_case, monkeypatch):
    tables = PageTables().map(0x40_0000, 0x8000, P | RW).map(0x80_0000, 0xA000)
    changed = case_of(words=tables.words)
    monkeypatch.setattr("time.sleep", lambda _: written(small_case, changed))
    watched = ("walk", small_case, "--json", "--watch", "1", "--watch-count", "2")
    assert ["0x400000", "0x401000"] == [record["va"] for record in run(*watched).records]
    written(small_case, case_of())
    chosen = run(*watched, "--writable-by", "supervisor")
    assert ["0x400000"] == [record["va"] for record in chosen.records]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--user", "--wx", "--level", "2"),
        ("--writable-by", "user", "--executable-by", "supervisor", "--page-size", "4K,2M"),
        ("--flags", "pwt=1,pk=3", "--pa", "0x1000-0x3000", "--pa", "0x5000-0x10000000000000"),
        ("--frame", "0x5123", "--frame", "0x7000", "--aliases-of", "pa:0x5000"),
        ("--aliases-of", "va:0x400000"),
        ("--symbols", "linux", "--in", "text", "--name", "ext4*"),
        ("--symbols", "boot/System.map", "--frame", "0x5000", "--in", "text"),
        ("--symbols", "System.map", "--symbols-offset=-0x2000000", "--in", "text"),
        ("--memory-type", "uc,wc", "--pat", "0x407050600070106", "--mtrr", "default:wb"),
    ],
    ids=" ".join,
)
def test_the_words_of_a_choice_are_those_that_were_given(words):
    assert list(words) == chosen_words(parse(["walk", "x", *words, "--start", "0x1000"]))


def test_what_chooses_nothing_is_no_word_of_a_choice():
    asked = ["walk", "x", "--symbols", "linux", "--pat", "0x407050600070106", "--start", "1"]
    assert [] == chosen_words(parse(asked))


def test_a_map_shows_what_is_chosen_and_says_so(run, small_case, tmp_path):
    page = tmp_path / "map.html"
    counts = [
        run("map", small_case, "-o", page, "--json", *options).document["views"][0]["rows"]
        for options in ((), ("--writable-by", "supervisor"), ("--frame", "0xf000"))
    ]
    assert [3, 2, 0] == counts
    assert "only the mappings that are chosen by --frame 0xf000;" in page.read_text("utf-8")


def test_a_map_of_more_than_can_be_listed_asks_for_fewer(run, small_case, tmp_path, monkeypatch):
    monkeypatch.setattr(condensed, "LISTED", 1)
    asked = ("map", small_case, "-o", tmp_path / "map.html", "--writable-by", "supervisor")
    assert refused(run(*asked)).endswith("more than 1 mappings are chosen: choose fewer")
    assert [] == list(tmp_path.glob("*.html"))
