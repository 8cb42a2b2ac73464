"""Mutants of what both sides import: which modules and lines that are, and who judges them."""

from dataclasses import replace

import pytest

from scripts.mutation import product
from scripts.mutation.mutants import ROOT, import_name, mutants_of, path_of
from scripts.mutation.product import COMMANDS, lines_of_both, noticed_by
from scripts.mutation.shared import SHARED, closure, import_graph, shared_modules

QUICK = ((0, ("check", "tests/cases/shared/four-level.json")),)


def mutants(module):
    return list(mutants_of(module, (ROOT / path_of(module)).read_text()))


def test_the_shared_modules_are_those_of_the_import_graph():
    assert [import_name(name) for name in SHARED] == shared_modules()


def test_a_module_that_both_come_to_import_is_missed(tmp_path):
    for name, text in {
        "walker/bulk.py": "from crosswalk.walker.helper import f",
        "walker/leaves.py": "",
        "walker/translate.py": "",
        "walker/nested/translate.py": "",
        "walker/tlb/model.py": "",
        "walker/helper.py": "from crosswalk.walker import below",
        "walker/below.py": "",
        "walker/alone.py": "",
        "emu/probe/prober.py": "import crosswalk.walker.below",
        "emu/probe/paths.py": "from crosswalk.walker.alone import x",
        "emu/cpu/engine.py": "from crosswalk.emu.other import y",
        "emu/other.py": "from crosswalk.walker.helper import f",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert ["crosswalk.walker.below", "crosswalk.walker.helper"] == shared_modules(tmp_path)
    graph = import_graph(tmp_path)
    assert {"crosswalk.walker.helper", "crosswalk.walker.below"} == closure(
        graph, ["crosswalk.walker.helper"]
    )


def test_the_modules_that_predict_are_no_part_of_what_the_probe_imports():
    assert not set(SHARED) & {"bulk", "translate", "leaves", "tlb.model", "nested.translate"}


def test_every_command_names_what_there_is():
    for _, command in COMMANDS:
        for word in command:
            assert not word.endswith(".json") or (ROOT / word).is_file()


def test_lines_that_both_sides_run_are_told_from_those_of_one():
    texts = {
        name: (ROOT / f"walker/{name}.py").read_text().splitlines()
        for name in ("memory", "columns")
    }
    lines = {texts[module][line - 1].strip() for module, line in lines_of_both(tuple(texts), QUICK)}
    assert "one: NDArray[np.bool_] = (frames >= first) & (frames < end)" in lines
    # What fills a memory is run by neither side, and both are given it.
    assert "tables[row[pa // FRAME * FRAME], pa % FRAME // 8] = value" in lines
    # What the walker runs alone, the emulated CPU can contradict.
    alone = "changed_pa[rows], changed_value[rows] = merged"
    assert alone in {line.strip() for line in texts["columns"]}
    assert alone not in lines


BUGS = {
    "words of one table read from another": (
        "memory",
        "at = np.searchsorted(self._known, frames)",
        "at = np.searchsorted(self._known, frames + np.uint64(FRAME))",
    ),
    "the root cut to 32 bits": (
        "context",
        "return self.cr3 & self.address_mask",
        "return self.cr3 & self.address_mask & 0xFFFF_FFFF",
    ),
    "D lost where changes are told": (
        "columns",
        "_merge_rows(entry_pa[rows], before[rows], after[rows])",
        "_merge_rows(entry_pa[rows], before[rows], after[rows] & ~np.uint64(0x40))",
    ),
}
ASKED = (*QUICK, (0, ("check", "tests/cases/shared/root-above-4gib.json")))


@pytest.mark.parametrize(("module", "was", "became"), BUGS.values(), ids=BUGS)
def test_the_product_notices_what_both_sides_could_get_wrong_in_one_way(module, was, became):
    text = (ROOT / f"walker/{module}.py").read_text()
    assert 1 == text.count(was)
    bug = replace(mutants(module)[0], write=lambda: text.replace(was, became))
    assert noticed_by(bug, ASKED) is not None


def test_what_raises_or_never_ends_is_noticed(monkeypatch):
    monkeypatch.setattr(product, "_PATIENCE", 20)
    one = mutants("memory")[0]
    raising = replace(one, write=lambda: "raise ValueError")
    assert noticed_by(raising, QUICK) is not None
    endless = replace(one, write=lambda: "while True: pass")
    monkeypatch.setattr(product, "_PATIENCE", 2)
    assert "time" == noticed_by(endless, QUICK)


def test_the_module_itself_is_noticed_by_nothing():
    same = replace(mutants("memory")[0], write=(ROOT / "walker/memory.py").read_text)
    assert None is noticed_by(same, QUICK)


def test_a_product_that_fails_without_a_mutant_judges_nothing():
    with pytest.raises(RuntimeError, match="fails without any mutant"):
        lines_of_both(["memory"], [(0, ("check", "tests/cases/none.json"))])
