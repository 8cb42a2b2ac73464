import pytest

from crosswalk.emu.targets.capabilities import Capability
from crosswalk.emu.targets.registry import open_target
from crosswalk.emu.workers.sandbox import Failure, Limits
from crosswalk.walker.columns import Kind
from crosswalk.walker.context import Vendor
from crosswalk.walker.errors import BadInput
from tests.emu.targets.walkers import (
    HOLE,
    LARGE,
    PAGE,
    READ_ONLY,
    answers,
    every,
    failures,
    library,
    reads,
)

NOTED = """
static struct crosswalk_memory now;
void crosswalk_attach(const struct crosswalk_memory *memory) { now = *memory; }
"""
LISTS = """
void heki_walk(uint64_t va, uint64_t va_end, heki_func_t func, struct heki_args *args)
{
	(void)va; (void)va_end; (void)func; (void)args;
	%s
}
"""
TRANSLATES = """
int crosswalk_translate(uint64_t va, int access, int cpl, int ac, uint64_t *pa)
{
	(void)va; (void)access; (void)cpl; (void)ac; (void)pa;
	%s
}
"""
FIRST = "__attribute__((constructor)) static void first(void) { %s }"
TOP = 1 << 64


def lists(folder, code):
    return library(folder, NOTED + LISTS % code)


def translates(folder, code):
    return library(folder, NOTED + TRANSLATES % code)


def failure(walker, limits=Limits(seconds=20)):  # noqa: B008  # Frozen.
    return failures(walker, reads(PAGE), limits=limits)[0][0]


def test_a_list_is_what_the_callback_is_told(tmp_path):
    code = """
    if (va > 0x400000 || va_end <= 0x400000) return;
    args->va = 0x400000; args->pa = 0x200000; args->size = 4096; args->flags = 7;
    func(args);
    args->va = 0x40000000; args->size = 1 << 21; args->flags = 1ull << 63;
    func(args);
    """
    mappings = answers(lists(tmp_path, code), reads(PAGE)).listing.mappings
    assert [(PAGE, 0x20_0000, 4096, 7), (LARGE, 0x20_0000, 1 << 21, 1 << 63)] == list(
        zip(
            mappings.va.tolist(), mappings.pa.tolist(), mappings.size.tolist(),
            mappings.flags.tolist(), strict=True,
        )
    )  # fmt: skip


WITH_RIGHTS = """
void crosswalk_list(uint64_t first, uint64_t last, crosswalk_func_t func)
{
	struct crosswalk_mapping it = {0};
	(void)first; (void)last; (void)func; (void)it;
	%s
}
"""


def with_rights(folder, code, rest=""):
    return library(folder, NOTED + WITH_RIGHTS % code + rest)


def test_a_list_with_rights_is_what_the_callback_is_told(tmp_path):
    code = """
    if (last < 0x400000 || first > 0x400000) return;
    it.va = 0x400000; it.size = 4096; it.pa = 0x200000; it.flags = 7; it.given = 7;
    it.rights = CROSSWALK_USER | CROSSWALK_EXECUTE;
    func(&it);
    it.va += 4096; it.given = CROSSWALK_HAS_RIGHTS; it.rights = CROSSWALK_WRITE;
    func(&it);
    """
    mappings = answers(with_rights(tmp_path, code), reads(PAGE)).listing.mappings
    assert [0x40_0000, 0x40_1000] == mappings.va.tolist()
    assert [(0x20_0000, 7, 6, 7), (0, 0, 1, 4)] == list(
        zip(mappings.pa, mappings.flags, mappings.rights, mappings.given, strict=True)
    )


def test_the_last_page_of_all_is_asked_for_with_its_last_byte(tmp_path):
    code = """
    if (last == ~0ull) { it.va = last - 4095; it.size = 4096; func(&it); }
    """
    mappings = answers(with_rights(tmp_path, code), reads(TOP - 1)).listing.mappings
    assert [(TOP - 4096, 4096, 0)] == list(
        zip(mappings.va.tolist(), mappings.size.tolist(), mappings.given.tolist(), strict=True)
    )


def test_rights_that_are_none_are_nonsense(tmp_path):
    code = (
        "it.va = first; it.size = 4096; it.given = CROSSWALK_HAS_RIGHTS; it.rights = 8; func(&it);"
    )
    failed = failure(with_rights(tmp_path, code))
    assert (Failure.NONSENSE, "no mapping") == (failed.failure, failed.kind)


def test_parts_that_are_none_are_nonsense(tmp_path):
    code = "it.va = first; it.size = 4096; it.given = 99; func(&it);"
    failed = failure(with_rights(tmp_path, code))
    assert (Failure.NONSENSE, "no mapping") == (failed.failure, failed.kind)
    assert "given 0x63, which has unknown bits" in str(failed)


def test_ranges_are_claimed_by_whom_it_states(tmp_path):
    states = 'const char *crosswalk_claims(void) { return "leaves,effective,ranges"; }'
    own = {Capability.LEAVES, Capability.FLAGS, Capability.EFFECTIVE}
    assert own == claims_of(with_rights(tmp_path, ""))
    chosen = {Capability.LEAVES, Capability.EFFECTIVE, Capability.RANGES}
    assert chosen == claims_of(with_rights(tmp_path, "", states))
    listing = lists(tmp_path, "")
    assert {Capability.LEAVES, Capability.RANGES} == claims_of(listing, "leaves,ranges")
    with pytest.raises(BadInput, match="its exports answer flags, leaves, ranges only"):
        claims_of(listing, "leaves,effective")


def claims_of(walker, claims=None):
    target = open_target(walker, claims=claims)
    target.close()
    return target.claims


def test_the_end_of_all_addresses_is_their_last_and_a_page_cut_off_there_is_whole(tmp_path):
    code = """
    if (va_end != UINT64_MAX) return;
    args->va = 0 - 4096ull; args->pa = 0x1000; args->size = va_end - args->va;
    func(args);
    """
    mappings = answers(lists(tmp_path, code), reads(PAGE)).listing.mappings
    assert [(TOP - 4096, 4096)] == list(
        zip(mappings.va.tolist(), mappings.size.tolist(), strict=True)
    )


def test_a_translation_is_yes_no_or_silence(tmp_path):
    code = "*pa = va + 8; return va == 0x400000 ? 1 : va == 0x401000 ? 0 : -1;"
    said = answers(translates(tmp_path, code), reads(PAGE, READ_ONLY, HOLE))
    assert [Kind.OK, Kind.PAGE_FAULT] == said.outcomes.kind.tolist()[:2]
    assert [PAGE + 8, 0] == said.outcomes.pa.tolist()[:2]
    assert [False, False, True] == said.silent.tolist()


def test_a_library_is_told_of_registers_features_and_accesses(tmp_path):
    code = """
    if (now.cr0 != 0x80010001 || now.cr3 != 0x1000 || now.cr4 != 0x400020 || now.efer != 0xd00)
        return 0;
    if (now.pkru != 0x54 || now.maxphyaddr != 36 || now.page1gb != 0 || now.amd != 1) return 0;
    *pa = 1 + access * 4 + cpl + ac;
    return 1;
    """
    said = answers(
        translates(tmp_path, code), every(PAGE), pke=True, pkru=0x54, maxphyaddr=36,
        page1gb=False, vendor=Vendor.AMD,
    )  # fmt: skip
    assert [1, 4, 5, 8, 9, 12] == said.outcomes.pa.tolist()


def test_frames_of_ram_are_lent_and_others_are_null(tmp_path):
    code = """
    const uint64_t *root = now.frame(now.cr3), *empty = now.frame(0x800000);
    if (!root || !empty || now.frame(1 << 24) || now.frame(1ull << 51)) return 0;
    if (now.frame(now.cr3) != root || now.frame(now.cr3 + 8) != root) return 0;
    for (int i = 0; i < 512; i++) if (empty[i]) return 0;
    *pa = root[0];
    return 1;
    """
    assert 0x2007 == answers(translates(tmp_path, code), reads(PAGE)).outcomes.pa[0]


@pytest.mark.parametrize(
    "code",
    [
        "return *(volatile char *)((const char *)now.frame(now.cr3) + 4096);",
        "*(char *)now.frame(now.cr3) = 0; return 0;",
        "*(char *)now.frame(0x800000) = 0; return 0;",
        "return *(volatile char *)now.frame(1 << 24);",
    ],
    ids=["past the frame", "into the frame", "into an empty frame", "where no RAM is"],
)
def test_who_reads_or_writes_where_nothing_is_lent_dies_of_it(tmp_path, code):
    found = failure(translates(tmp_path, code))
    assert (Failure.CRASH, "died of SIGSEGV") == (found.failure, found.kind)


def test_claims_follow_from_exports(tmp_path):
    both = library(tmp_path, NOTED + LISTS % "" + TRANSLATES % "return 0;")
    for chosen, claims in (
        (None, {Capability.LEAVES, Capability.FLAGS, Capability.TRANSLATION, Capability.RIGHTS}),
        ("leaves", {Capability.LEAVES}),
        ("translation", {Capability.TRANSLATION}),
    ):
        target = open_target(both, claims=chosen)
        assert claims == target.claims
        target.close()
    assert None is answers(both, reads(PAGE), claims="translation").listing
    assert answers(both, reads(PAGE), claims="leaves").silent.all()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("abort();", "died of SIGABRT"),
        ("exit(5);", "ended with status 5"),
        ("*(volatile int *)8 = 1;", "died of SIGSEGV"),
        ("((void (*)(void))args)();", "died of SIGSEGV"),
    ],
    ids=["abort", "exit", "null pointer", "data executed"],
)
def test_a_crash_is_a_failure_that_says_how(tmp_path, code, kind):
    found = failure(lists(tmp_path, code))
    assert (Failure.CRASH, kind) == (found.failure, found.kind)


def test_a_loop_is_a_hang(tmp_path):
    assert Failure.HANG == failure(lists(tmp_path, "for (;;);"), Limits(seconds=0.5)).failure


def test_endless_callbacks_are_a_flood(tmp_path):
    found = failure(lists(tmp_path, "for (;;) func(args);"))
    assert (Failure.FLOOD, "too many mappings") == (found.failure, found.kind)


def test_endless_printing_is_a_flood(tmp_path, capfd):
    body = "#include <stdio.h>\n" + NOTED + LISTS % 'for (;;) puts("xxxxxxxxxxxxxxxx");'
    found = failure(library(tmp_path, body), Limits(seconds=20, output=1 << 16))
    assert (Failure.FLOOD, "too much output") == (found.failure, found.kind)
    assert ("", "") == capfd.readouterr()


def test_too_much_memory_is_refused(tmp_path):
    code = "char *p = malloc(1ull << 32); if (!p) exit(7); *p = 1;"
    found = failure(lists(tmp_path, code), Limits(seconds=20, memory=1 << 30))
    assert "ended with status 7" == found.kind


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("func(0);", "called back with a null pointer"),
        ("args->va = 1ull << 47; args->size = 1; func(args);", "a mapping that is not canonical"),
        ("args->size = 0; func(args);", "no mapping"),
    ],
)
def test_nonsense_in_a_callback_is_a_failure(tmp_path, code, kind):
    found = failure(lists(tmp_path, code))
    assert (Failure.NONSENSE, kind) == (found.failure, found.kind)


def test_what_is_neither_yes_nor_no_is_nonsense(tmp_path):
    found = failure(translates(tmp_path, "return 2;"))
    assert "crosswalk_translate returned neither 0, 1 nor -1: 2" == str(found)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("int nothing;", "exports no crosswalk_attach"),
        (NOTED, "exports none of crosswalk_translate, heki_walk and crosswalk_list"),
        (FIRST % "abort();", "died of SIGABRT, when it is loaded"),
        (FIRST % "for (;;);", "no answer in 1 s of CPU time, when it is loaded"),
        (FIRST % "exit(0);", "ended with status 0, when it is loaded"),
    ],
    ids=["exports nothing", "no walk", "aborts", "hangs", "exits"],
)
def test_what_can_not_be_loaded_is_bad_input(tmp_path, body, message):
    walker = library(tmp_path, body)
    limits = Limits(seconds=1 if "for" in body else 20)
    with pytest.raises(BadInput) as caught:
        open_target(walker, limits)
    assert f"{walker}: {message}" in str(caught.value)


def test_what_a_constructor_prints_is_neither_shown_nor_an_answer(tmp_path, capfd):
    noisy = "#include <stdio.h>\n" + FIRST % 'puts("hi");'
    walker = library(tmp_path, noisy + NOTED + TRANSLATES % "*pa = 9; return 1;")
    assert 9 == answers(walker, reads(PAGE)).outcomes.pa[0]
    assert ("", "") == capfd.readouterr()


def test_a_file_that_is_no_library_is_bad_input(tmp_path):
    path = tmp_path / "its.so"
    path.write_text("not a library")
    path.with_suffix(".elf").write_bytes(b"\x7fELF and no more of it")
    for name, message in (
        (path, f"c:{path}: {path} is no shared library"),
        (path.with_suffix(".elf"), "file too short"),
        (tmp_path, f"c:{tmp_path}: {tmp_path}: is a directory"),
        ("nowhere.so", "c:nowhere.so: nowhere.so: no such file or directory"),
    ):
        with pytest.raises(BadInput) as caught:
            open_target(f"c:{name}")
        assert message in str(caught.value)
        assert 1 == len(str(caught.value).splitlines())


def test_a_claim_that_no_export_answers_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="its exports answer flags, leaves, ranges only"):
        open_target(lists(tmp_path, ""), claims="faults")


def test_of_an_encryption_mask_a_library_can_not_be_told_and_is_not_asked(tmp_path):
    said = answers(translates(tmp_path, "return 1;"), reads(PAGE), encryption_mask=1 << 47)
    assert said.silent.all()
