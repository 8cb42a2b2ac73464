"""The second walk takes types and memory from the walker, and nothing that decides."""

import ast
from pathlib import Path

import pytest

from crosswalk.emu.check import emulated, emulated_rules, nested_ept

TAKEN = {
    "crosswalk.walker.access": {"AccessType"},
    "crosswalk.walker.columns": {"MAX_STEPS", "Accesses", "Kind", "Outcomes"},
    "crosswalk.walker.context": {"PagingContext", "Vendor"},
    "crosswalk.walker.memory": {"FRAME", "U64", "PhysicalMemory"},
    "crosswalk.emu.check.emulated_rules": {"Keys", "LevelRules", "Pages", "Rules", "levels_of"},
}
"""All that it may take from this project."""

READ = {
    *(
        "cr0",
        "cr3",
        "cr4",
        "efer",
        "pkru",
        "pkrs",
        "maxphyaddr",
        "page1gb",
        "vendor",
        "encryption_mask",
    ),
}
"""What it may read of a context: raw registers and features."""


EPT_TAKEN = {
    "crosswalk.emu.check.nested_deviations": {"Deviation"},
    "crosswalk.emu.check.nested_words": {"Refused", "Words"},
    "crosswalk.walker.access": {"Access", "AccessType"},
    "crosswalk.walker.nested.context": {"EptCapability", "EptContext"},
    "crosswalk.walker.nested.outcome": {"EptMisconfiguration", "EptViolation"},
    "crosswalk.walker.rights": {"Grant"},
}
EPT_READ = {"eptp", "mbec", "maxphyaddr", "capabilities"}
"""The same of the second statement of EPT."""


def taken(source, may_take=TAKEN, may_read=READ):
    """What a module takes beyond that, and reads of a context, as text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
            found += [name for name in names if name.split(".")[0] == "crosswalk"]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module.split(".")[0] == "crosswalk":
                allowed = may_take.get(module, set())
                found += [f"{module}.{it.name}" for it in node.names if it.name not in allowed]
        elif isinstance(node, ast.Attribute) and "context" in (
            getattr(node.value, "id", ""),
            getattr(node.value, "attr", ""),
        ):
            found += [] if node.attr in may_read else [f"context.{node.attr}"]
    return found


@pytest.mark.parametrize("module", [emulated, emulated_rules], ids=lambda each: each.__name__)
def test_the_second_walk_takes_types_and_memory_alone(module):
    assert [] == taken(Path(module.__file__).read_text(encoding="utf-8"))


def test_the_second_statement_of_ept_takes_types_and_memory_alone():
    source = Path(nested_ept.__file__).read_text(encoding="utf-8")
    assert [] == taken(source, EPT_TAKEN, EPT_READ)
    planted = "from crosswalk.walker.nested.ept import misconfigured\nself.context.levels\n"
    wrong = {"crosswalk.walker.nested.ept.misconfigured", "context.levels"}
    assert wrong == set(taken(planted, EPT_TAKEN, EPT_READ))


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        (
            "from crosswalk.walker.entry import reserved_bits",
            "crosswalk.walker.entry.reserved_bits",
        ),
        (
            "from crosswalk.walker.columns import merge_changes",
            "crosswalk.walker.columns.merge_changes",
        ),
        ("import crosswalk.walker.bulk", "crosswalk.walker.bulk"),
        ("def of(context):\n    return context.root", "context.root"),
        ("from crosswalk.emu.probe import Prober", "crosswalk.emu.probe.Prober"),
    ],
)
def test_what_it_must_not_take_is_found(planted, found):
    assert [found] == taken(planted)
