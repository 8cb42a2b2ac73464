"""Two-dimensional walkers with one rule broken; each returns one outcome."""

from dataclasses import replace

import pytest

from crosswalk.walker.access import AccessType
from crosswalk.walker.context import CR0, CR4, EFER
from crosswalk.walker.entry import Entry
from crosswalk.walker.nested import translate as rules
from crosswalk.walker.nested.outcome import NestedError, NestedPageFault
from crosswalk.walker.nested.translate import (
    Npt,
    nested_fault_code,
    translate_nested,
    walk_nested,
)
from crosswalk.walker.outcome import PageFault, Translation
from crosswalk.walker.rights import Grant
from crosswalk.walker.translate import translate

READ, WRITE, EXECUTE = AccessType
TABLE_FAULT, FAULT_CODE = Npt.table_fault, rules.nested_fault_code


def one_of(predict):
    """The same walker as one that allows several outcomes."""
    return lambda *given: (predict(*given),)


def with_guest(change):
    """The walker reads the guest's registers as `change` makes them."""
    return lambda memory, context, access: translate_nested(
        memory, replace(context, guest=change(context.guest)), access
    )


def with_host(change):
    return lambda memory, context, access: translate_nested(
        memory, replace(context, host=change(context.host, context.guest)), access
    )


def answering(kind, change):
    """The walker says of outcomes of a kind what `change(outcome, access)` makes of them."""

    def predict(memory, context, access):
        outcome = translate_nested(memory, context, access)
        return change(outcome, access) if isinstance(outcome, kind) else outcome

    return predict


def without_code(bit):
    return answering(
        NestedPageFault, lambda fault, _: replace(fault, error_code=fault.error_code & ~bit)
    )


def needing(kind, grant):
    """Nested entries are asked for `grant` alone by this kind of access."""

    def predict(memory, context, access):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rules, "_NEEDED", rules._NEEDED | {kind: grant})
            return translate_nested(memory, context, access)

    return predict


def patched(where, name, made):
    """The walker has `made` for a rule of its own."""

    def predict(memory, context, access):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(where, name, made)
            return translate_nested(memory, context, access)

    return predict


def tables_need_no_write(self, path, va):
    """A guest's table is reached where it may be read."""
    return TABLE_FAULT(self, path, va) if FAULT_CODE(self.context, path, READ) else None


def tables_need_execution(self, path, va):
    """A guest's table isn't reached where it can't be executed."""
    found = TABLE_FAULT(self, path, va)
    if found is not None or path.grant & Grant.EXECUTE:
        return found
    return self._fault(path, NestedError.US | NestedError.P | NestedError.WR | NestedError.TABLE, 0)


def by_the_leaf_alone(host, path, kind, **options):
    """Entries above the leaf take no right away."""
    return FAULT_CODE(host, replace(path, steps=path.steps[-1:]), kind, **options)


def only_leaves_marked(memory, context, access):
    """A isn't set in nested entries above the leaves."""
    outcome = translate_nested(memory, context, access)
    if not isinstance(outcome, Translation):
        return outcome
    path = walk_nested(memory, context, access.va)
    upper = {step.pa for each in (*path.tables, path.page) for step in each.path.steps[:-1]}
    return replace(outcome, entries=tuple(e for e in outcome.entries if e[0] not in upper))


def page_always_dirty(memory, context, access):
    """D is set in the nested leaf of the page by reads and fetches, too."""
    outcome = translate_nested(memory, context, access)
    if not isinstance(outcome, Translation):
        return outcome
    leaf = walk_nested(memory, context, access.va).page.path.steps[-1].pa
    words = dict(outcome.entries)
    words[leaf] = words.get(leaf, memory.word(leaf)) | Entry.D
    changed = tuple(sorted(each for each in words.items() if each[1] != memory.word(each[0])))
    return replace(outcome, entries=changed)


def nested_page_first(memory, context, access):
    outcome = translate_nested(memory, context, access)
    page = walk_nested(memory, context, access.va).page
    if not isinstance(outcome, PageFault) or page is None:
        return outcome
    code = nested_fault_code(context.host, page.path, access.type)
    return NestedPageFault(code | NestedError.FINAL, page.gpa) if code else outcome


def guest_physical(memory, context, access):
    outcome = translate_nested(memory, context, access)
    if isinstance(outcome, Translation):
        return replace(outcome, pa=walk_nested(memory, context, access.va).page.gpa)
    return outcome


def tables_are_read(fault, access):
    lost = fault.error_code & NestedError.TABLE and access.type is not WRITE
    return replace(fault, error_code=fault.error_code & ~(NestedError.WR if lost else 0))


def tables_are_fetched(fault, access):
    told = fault.error_code & NestedError.TABLE and access.type is EXECUTE
    return replace(fault, error_code=fault.error_code | (NestedError.ID if told else 0))


def swapped(fault, _):
    return replace(fault, error_code=fault.error_code ^ (NestedError.FINAL | NestedError.TABLE))


def like_the_emulator(memory, context, access):
    """Nested leaves aren't marked, by a walker that has learned it from the emulator."""
    outcome = translate_nested(memory, context, access)
    if not isinstance(outcome, Translation):
        return outcome
    path = walk_nested(memory, context, access.va)
    leaves = {each.path.steps[-1].pa for each in (*path.tables, path.page)}
    return replace(outcome, entries=tuple(e for e in outcome.entries if e[0] not in leaves))


def host_nxe(value):
    return with_host(
        lambda host, _: replace(host, efer=host.efer & ~EFER.NXE | (EFER.NXE if value else 0))
    )


WRONG = {
    "one dimension": lambda memory, context, access: translate(memory, context.guest, access),
    "the guest's WP ignored": with_guest(lambda guest: replace(guest, cr0=guest.cr0 & ~CR0.WP)),
    "the guest's SMEP ignored": with_guest(lambda guest: replace(guest, cr4=guest.cr4 & ~CR4.SMEP)),
    "the guest's SMAP ignored": with_guest(lambda guest: replace(guest, cr4=guest.cr4 & ~CR4.SMAP)),
    "the host's NXE taken as set": host_nxe(True),
    "the host's NXE taken as clear": host_nxe(False),
    "nested entries read by the guest's EFER": with_host(
        lambda host, guest: replace(host, efer=guest.efer)
    ),
    "a guest-physical answer": guest_physical,
    "nested W ignored": needing(WRITE, Grant.USER),
    "nested U ignored for reads": needing(READ, Grant(0)),
    "nested NX ignored": needing(EXECUTE, Grant.USER),
    "nested W asked for by reads": needing(READ, Grant.USER | Grant.WRITE),
    "the page's nested walk before the guest's rights": nested_page_first,
    "walks of tables as reads": answering(NestedPageFault, tables_are_read),
    "walks of tables as the access": answering(NestedPageFault, tables_are_fetched),
    "final and table swapped": answering(NestedPageFault, swapped),
    "U missing": without_code(NestedError.US),
    "P missing": without_code(NestedError.P),
    "RSVD missing": without_code(NestedError.RSVD),
    "ID missing": without_code(NestedError.ID),
    "all of EXITINFO1 left open": answering(
        NestedPageFault, lambda fault, _: replace(fault, open=0x1F)
    ),
    "ID left open with NXE": answering(
        NestedPageFault, lambda fault, _: replace(fault, open=NestedError.ID)
    ),
    "ID never left open": answering(NestedPageFault, lambda fault, _: replace(fault, open=0)),
    "the page's address for the entry's": answering(
        NestedPageFault, lambda fault, _: replace(fault, gpa=fault.gpa & -4096)
    ),
    "the linear address for the guest-physical": answering(
        NestedPageFault, lambda fault, access: replace(fault, gpa=access.va)
    ),
    "no A and D": answering(Translation, lambda found, _: replace(found, entries=())),
    "nothing is marked on a nested fault": answering(
        NestedPageFault, lambda fault, _: replace(fault, entries=())
    ),
    "nested leaves not marked": like_the_emulator,
    "nested entries above the leaves not marked": only_leaves_marked,
    "D in the page's nested leaf whatever the access": page_always_dirty,
    "rights of the nested leaf alone": patched(rules, "nested_fault_code", by_the_leaf_alone),
    "walks of tables need no nested W": patched(Npt, "table_fault", tables_need_no_write),
}

WRONG_FOR_OTHERS = {
    "walks of tables need the right to execute": patched(Npt, "table_fault", tables_need_execution),
}
"""Such accesses end Unicorn: only another machine can contradict."""
