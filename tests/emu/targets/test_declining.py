"""Walkers of every kind state their claims and modes, and decline what they have no answers for."""

import json

import pytest

from crosswalk.emu.targets.capabilities import Capability, parse_modes
from crosswalk.emu.targets.registry import open_target
from crosswalk.emu.workers.sandbox import Failure
from crosswalk.walker.context import PagingMode
from crosswalk.walker.errors import BadInput
from tests.emu.targets.walkers import PAGE, answers, library, python_walker, reads, script

TRANSLATES_AND_LISTS = """
static struct crosswalk_memory now;
void crosswalk_attach(const struct crosswalk_memory *memory) { now = *memory; }
void heki_walk(uint64_t va, uint64_t va_end, heki_func_t func, struct heki_args *args)
{
    if (now.cr4 & 1 << 12) abort();
    args->va = 0x400000; args->pa = 0x200000; args->size = 4096; args->flags = 7;
    if (va <= 0x400000 && va_end > 0x400000) func(args);
}
int crosswalk_translate(uint64_t va, int access, int cpl, int ac, uint64_t *pa)
{
    (void)access; (void)cpl; (void)ac;
    *pa = va;
    return 1;
}
"""
FOUR_LEVELS = """
int crosswalk_declines(const struct crosswalk_memory *memory) { return memory->cr4 >> 12 & 1; }
"""
STATES = """
const char *crosswalk_claims(void) { return "leaves,translation"; }
const char *crosswalk_modes(void) { return "4level, pae"; }
"""
GREETING = {"protocol": "crosswalk-walker/1", "claims": ["leaves", "translation"]}
PROCESS = """
import json, sys
print({greeting!r}, flush=True)
for line in sys.stdin:
    question = json.loads(line)
    if "cpu" in question: wide = int(question["cpu"]["cr4"], 16) >> 12 & 1
    elif wide: print('{{"outcome": "unknown"}}', flush=True)
    elif "va" in question: print('{{"outcome": "page_fault"}}', flush=True)
    else: print('{{"mappings": []}}', flush=True)
"""
STATED = {PagingMode.LEVEL4, PagingMode.PAE}


def in_python(folder, stated=""):
    body = (
        "def f(memory, context, va, end):\n    return NotImplemented if context.levels == 5 else ()"
    )
    return python_walker(folder, f"{body}\nf.claims = 'leaves'\n{stated}")


def in_c(folder, stated=""):
    return library(folder, TRANSLATES_AND_LISTS + FOUR_LEVELS + stated)


def in_lines(folder, stated=None):
    return script(folder, PROCESS.format(greeting=json.dumps(GREETING | (stated or {}))))


def modes(walker):
    target = open_target(walker)
    target.close()
    return target.modes


@pytest.mark.parametrize(
    ("made", "stated"),
    [
        (in_python, "f.modes = '4level,pae'"),
        (in_python, "f.modes = ('4level', 'pae')"),
        (in_python, "MODES = {'4level', 'pae'}"),
        (in_python, "MODES = '5level'\nf.modes = ['pae', '4level']"),
        (in_c, STATES),
        (in_lines, {"modes": ["4level", "pae"]}),
    ],
    ids=["text", "names", "of the module", "before the module's", "C", "JSON lines"],
)
def test_a_walker_states_its_modes(tmp_path, made, stated):
    assert STATED == modes(made(tmp_path, stated))


def test_a_walker_may_state_no_modes(tmp_path):
    assert None is modes(in_python(tmp_path))
    assert None is modes(in_c(tmp_path))
    assert None is modes(in_lines(tmp_path))


def test_the_built_in_walkers_know_every_mode():
    assert set(PagingMode) == open_target("walk").modes


@pytest.mark.parametrize("made", [in_python, in_c, in_lines], ids=["Python", "C", "JSON lines"])
def test_a_list_is_declined_in_one_address_space_and_given_in_another(tmp_path, made):
    walker = made(tmp_path)
    listing = answers(walker, reads(PAGE), levels=5).listing
    assert len(listing.ranges) > 0
    assert listing.silent.all()
    assert not answers(walker, reads(PAGE), levels=4).listing.silent.any()


def test_a_generator_declines_as_a_function_does(tmp_path):
    body = """
def f(memory, context, va, end):
    if va: return NotImplemented
    yield 0x40_0000, 0x20_0000, 4096
f.claims = "leaves"
"""
    listing = answers(python_walker(tmp_path, body), reads(PAGE)).listing
    assert [False, True] == listing.silent.tolist()
    assert [PAGE] == listing.mappings.va.tolist()


def test_a_library_that_declines_is_asked_nothing(tmp_path):
    said = answers(in_c(tmp_path), reads(PAGE), levels=5)
    assert said.silent.all()
    failed = answers(library(tmp_path, TRANSLATES_AND_LISTS), reads(PAGE), levels=5)
    assert {"died of SIGABRT"} == {each.failure.kind for each in failed.failures}


def test_lists_under_an_encryption_mask_are_declined_by_a_library(tmp_path):
    said = answers(in_c(tmp_path), reads(PAGE), encryption_mask=1 << 47)
    assert said.silent.all()
    assert said.listing.silent.all()


def test_a_library_states_its_claims_and_the_command_line_goes_before(tmp_path):
    target = open_target(in_c(tmp_path, STATES))
    assert {Capability.LEAVES, Capability.TRANSLATION} == target.claims
    target.close()
    target = open_target(in_c(tmp_path, STATES), claims="rights")
    assert {Capability.RIGHTS} == target.claims
    target.close()


@pytest.mark.parametrize(
    ("made", "stated", "message"),
    [
        (in_python, "f.modes = 'long'", "its modes, 'long': 'long' is none of 32bit, pae, 4level"),
        (in_python, "f.modes = ()", "its modes, (): '' is none of 32bit"),
        (in_c, STATES.replace("pae", "PAE"), "crosswalk_modes: 'PAE' is none of 32bit"),
        (in_c, STATES.replace("leaves", "leafs"), "crosswalk_claims: 'leafs' is none of leaves"),
        (in_c, STATES.replace("leaves,", "faults,"), "its exports answer "),
        (in_c, STATES.replace('"leaves,translation"', "0"), "crosswalk_claims returned a null"),
        (in_lines, {"modes": ["long"]}, "is no greeting: Invalid enum value 'long'"),
        (in_lines, {"modes": []}, "'' is none of 32bit"),
    ],
)
def test_what_can_not_be_stated_is_bad_input(tmp_path, made, stated, message):
    with pytest.raises(BadInput) as caught:
        open_target(made(tmp_path, stated))
    assert message in str(caught.value)
    assert 1 == len(str(caught.value).splitlines())


def test_what_says_neither_yes_nor_no_to_declining_is_nonsense(tmp_path):
    walker = library(tmp_path, TRANSLATES_AND_LISTS + FOUR_LEVELS.replace(">> 12 & 1", "? 7 : 0"))
    failed = answers(walker, reads(PAGE)).failures[0].failure
    message = "crosswalk_declines returned neither 0 nor 1: 7"
    assert (Failure.NONSENSE, message) == (failed.failure, str(failed))


def test_modes_are_names_with_commas():
    assert set(PagingMode) == parse_modes("32bit, pae,4level,5level", "here")
    with pytest.raises(BadInput, match="here: '64bit' is none of 32bit, pae, 4level, 5level"):
        parse_modes("64bit", "here")
