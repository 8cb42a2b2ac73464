"""The probe takes types and memory from the walker, and nothing that decides."""

import ast
import tomllib
from pathlib import Path

import pytest

import crosswalk.emu.probe
import crosswalk.walker
from crosswalk.emu.probe import Prober, control
from crosswalk.emu.probe.composite import CompositeProber
from crosswalk.emu.probe.nested import NestedProber
from crosswalk.emu.probe.reading import Reading
from crosswalk.emu.probe.sequences import Runner
from crosswalk.walker import architecture, columns
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import PagingContext
from crosswalk.walker.tlb.steps import Sequence
from tests.emu.accesses import every, probe, read
from tests.emu.composites import composite
from tests.emu.probe.nested.two_stages import PAGE, SHIFT, TwoStages
from tests.tables import PageTables, context

VA = 0x40_0000
ROOM = Path(crosswalk.emu.probe.__file__).parent

TAKEN = {
    "crosswalk.walker.access": {"Access", "AccessType"},
    "crosswalk.walker.architecture": {"GIB", "RFlags", "Vector"},
    "crosswalk.walker.columns": {"Accesses", "Kind", "Outcomes", "Rows"},
    "crosswalk.walker.context": {"PagingContext", "Vendor"},
    "crosswalk.walker.errors": {"BadInput", "CrosswalkError"},
    "crosswalk.walker.memory": {"FRAME", "U64", "WORDS", "PhysicalMemory", "SparseWords"},
    "crosswalk.walker.nested.context": {"NestedContext"},
    "crosswalk.walker.nested.outcome": {"NestedError", "NestedOutcome", "NestedPageFault"},
    "crosswalk.walker.outcome": {"GeneralProtection", "Outcome", "PageFault", "Translation"},
    "crosswalk.walker.tlb.steps": {
        "Halted",
        "Invlpg",
        "Invpcid",
        "MovCr0",
        "MovCr3",
        "MovCr4",
        "Sequence",
        "Step",
        "Store",
        "Wrpkru",
    },
}
"""All that the probe may take from the walker: types, their columns, memory, errors."""

READ = {
    *("cr0", "cr3", "cr4", "efer", "pkru", "pkrs", "rflags_ac", "maxphyaddr", "page1gb"),
    *("vendor", "encryption_mask", "guest", "host", "npt", "gmet"),
}
"""What the probe may read of a context: raw registers and features."""


def taken(source):
    """What a module takes from the walker beyond that, and reads of a context, as text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [it.name for it in node.names if it.name.startswith("crosswalk.walker")]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "crosswalk.walker"
        ):
            allowed = TAKEN.get(node.module, set())
            found += [f"{node.module}.{it.name}" for it in node.names if it.name not in allowed]
        elif isinstance(node, ast.Attribute):
            of = getattr(node.value, "id", getattr(node.value, "attr", ""))
            if of in {"context", "guest", "host", "npt"} and node.attr not in READ:
                found.append(f"{of}.{node.attr}")
    return found


def test_the_probe_takes_types_and_memory_alone():
    modules = sorted(ROOM.rglob("*.py"))
    assert len(modules) > 15
    found = {path.name: taken(path.read_text(encoding="utf-8")) for path in modules}
    assert {} == {name: what for name, what in found.items() if what}


def test_the_probes_own_bits_of_control_registers_are_those_of_the_manuals_numbers():
    registers = {each.__name__: each for each in (architecture.CR0, architecture.CR3)}
    registers |= {each.__name__: each for each in (architecture.CR4, architecture.EFER)}
    own = [name for name in dir(control) if name.partition("_")[0] in registers]
    assert len(own) > 15
    for name in own:
        register, _, bit = name.partition("_")
        assert registers[register][bit] == getattr(control, name), name


def test_all_that_is_listed_is_taken():
    names = {
        (node.module, each.name)
        for path in ROOM.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for each in node.names
    }
    listed = {(module, name) for module, every_name in TAKEN.items() for name in every_name}
    assert set() == listed - names


def test_the_import_contract_names_all_other_modules_of_the_walker():
    settings = tomllib.loads(
        (ROOM.resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    )
    contracts = settings["tool"]["importlinter"]["contracts"]
    (contract,) = [
        each for each in contracts if each.get("source_modules") == ["crosswalk.emu.probe"]
    ]
    forbidden = set(contract["forbidden_modules"])
    root = Path(crosswalk.walker.__file__).parent
    modules = {
        ".".join(("crosswalk", "walker", *path.relative_to(root).with_suffix("").parts))
        for path in root.rglob("*.py")
        if path.name != "__init__.py"
    }
    left = {each for each in modules if not {each, each.rpartition(".")[0]} & forbidden}
    assert set(TAKEN) == left


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        ("import crosswalk.walker.bulk", "crosswalk.walker.bulk"),
        ("from crosswalk.walker import translate", "crosswalk.walker.translate"),
        (
            "from crosswalk.walker.columns import Accesses, merge_changes",
            "crosswalk.walker.columns.merge_changes",
        ),
        (
            "from crosswalk.walker.entry import reserved_bits",
            "crosswalk.walker.entry.reserved_bits",
        ),
        ("from crosswalk.walker.architecture import CR4", "crosswalk.walker.architecture.CR4"),
        ("def f(context):\n    return context.root", "context.root"),
        ("levels = sequence.context.levels", "context.levels"),
        ("nxe = self._context.host.nxe", "host.nxe"),
    ],
)
def test_anything_else_that_is_taken_is_found(planted, expected):
    assert [expected] == taken(planted)


def _refuse(name):
    def decided(*_):
        raise AssertionError(f"the probe asked the walker for {name}")

    return decided


@pytest.fixture
def silent(monkeypatch):
    """Nothing that the walker decides can be had: neither of a context, nor of columns."""
    for name, value in vars(PagingContext).items():
        if isinstance(value, property):
            monkeypatch.setattr(PagingContext, name, property(_refuse(name)))
    for name in ("canonical", "require_linear"):
        monkeypatch.setattr(PagingContext, name, _refuse(name))
    for name in ("merge_changes", "distinct"):
        monkeypatch.setattr(columns, name, _refuse(name))


def _sequence():
    builder = PageTables().map(VA, 0x8000)
    return Sequence(
        context=context(), ram=((0, 1 << 24),), entries=builder.words, steps=(read(VA),)
    )


SEQUENCE, CONTEXTS = _sequence(), {mode: context(mode) for mode in (4, 5)}
CONTEXTS |= {mode: context(mode) for mode in ("32-bit", "PAE")}
NESTED = TwoStages()


@pytest.mark.parametrize("mode", [4, 5, "32-bit", "PAE"])
def test_accesses_are_made_without_a_decision_of_the_walkers(silent, mode):
    tables = PageTables(mode)
    memory = tables.map(VA, 0x8000).memory
    asked = Prober(memory, CONTEXTS[mode])
    for bulk in (True, False):
        assert [0x8000] * 6 == [each.pa for each in probe(asked, *every(VA), bulk=bulk)]
    assert 1 == Reading(memory, CONTEXTS[mode]).count
    with pytest.raises(AssertionError, match="asked the walker for root"):
        CONTEXTS[mode].root  # noqa: B018  # To be read is to be found out.


def test_composites_sequences_and_nested_accesses_are_made_without_one(silent):
    prober = CompositeProber(PageTables().map(VA, 0x8000).memory, CONTEXTS[4])
    assert 0x8000 == prober.probe(composite("rmw:xadd", VA)).pa[0, 0]
    assert 0x8000 == Runner().run(SEQUENCE)[0].pa
    nested = NestedProber(NESTED.memory, NESTED.context)
    assert (5 + SHIFT) * PAGE == nested.probe(Access(5 * PAGE, AccessType.READ)).pa
