"""Walkers of EPT with one rule broken; each returns the outcomes that it allows."""

from dataclasses import replace

import pytest

from crosswalk.walker.access import AccessType
from crosswalk.walker.context import CR0, CR4
from crosswalk.walker.nested import ept, violations
from crosswalk.walker.nested.context import EptCapability
from crosswalk.walker.nested.ept import EptEntry, Misconfigured
from crosswalk.walker.nested.outcome import EptMisconfiguration, EptViolation, Qualification
from crosswalk.walker.nested.translate import nested_outcomes, walk_nested
from crosswalk.walker.nested.violations import Ept
from crosswalk.walker.outcome import PageFault, Translation
from crosswalk.walker.protection.policy import Use
from crosswalk.walker.translate import StepKind, translate

READ, WRITE, EXECUTE = AccessType
ACCESSED_DIRTY = 1 << 6
MISCONFIGURED, USES, RESERVED = ept.misconfigured, ept.ept_uses, ept.ept_reserved_bits
STEP_AT, LEAF_ADDRESS = ept._step_at, ept.ept_leaf_address
UPDATE_FAULT, TABLE_FAULT, FAULT = Ept.update_fault, Ept.table_fault, Ept._fault
USES_OF, VIOLATION = violations.ept_uses_of, Ept._violation
GUEST = int(
    Qualification.GUEST_USER | Qualification.GUEST_WRITABLE | Qualification.GUEST_NO_EXECUTE
)


def with_host(**changes):
    """The walker reads the host's side as `changes` make it."""

    def predict(memory, context, access):
        made = {name: change(getattr(context.host, name)) for name, change in changes.items()}
        return nested_outcomes(memory, replace(context, host=replace(context.host, **made)), access)

    return predict


def lacking(capability):
    return with_host(capabilities=lambda all_of_them: all_of_them & ~capability)


def with_guest(**changes):
    def predict(memory, context, access):
        made = {name: change(getattr(context.guest, name)) for name, change in changes.items()}
        guest = replace(context.guest, **made)
        return nested_outcomes(memory, replace(context, guest=guest), access)

    return predict


def patched(where, name, made):
    """The walker has `made` for a rule of its own."""

    def predict(memory, context, access):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(where, name, made)
            if where is ept and hasattr(violations, name):
                patch.setattr(violations, name, made)
            return nested_outcomes(memory, context, access)

    return predict


def answering(kind, change):
    """The walker says of outcomes of a kind what `change(outcome, access)` makes of them."""

    def predict(memory, context, access):
        return tuple(
            change(each, access) if isinstance(each, kind) else each
            for each in nested_outcomes(memory, context, access)
        )

    return predict


def without(bit, *, table=True, page=True):
    """A bit of the qualification is never set, at the guest's tables or at its pages."""

    def change(violation, _access):
        at_page = bool(violation.qualification & Qualification.PAGE)
        if not (page if at_page else table):
            return violation
        return replace(violation, qualification=violation.qualification & ~bit)

    return answering(EptViolation, change)


def reserved(lost, *, leaf, level=None):
    """Bits that aren't reserved in a leaf, or in a table's entry; of a level alone, or of all."""

    def bits(context, number, *, leaf):
        found = RESERVED(context, number, leaf=leaf)
        return found & ~lost if leaf is wanted and level in (None, number) else found

    wanted = leaf
    return patched(ept, "ept_reserved_bits", bits)


def granting(right):
    return patched(ept, "ept_uses", lambda context, entry: USES(context, entry) | right)


def accepting(reason):
    def found(context, level, entry):
        why = MISCONFIGURED(context, level, entry)
        return None if why is reason else why

    return patched(ept, "misconfigured", found)


def write_only_is_a_right(context, level, entry):
    return MISCONFIGURED(context, level, entry | EptEntry.R if entry & EptEntry.W else entry)


def user_by_cpl(memory, context, access):
    """XU is chosen by the privilege of the access."""
    use = Use.USER_EXECUTE if access.cpl == 3 else Use.SUPERVISOR_EXECUTE
    return patched(violations, "_executes", lambda _grant: use)(memory, context, access)


def one_right_to_execute(memory, context, access):
    return patched(violations, "_executes", lambda _grant: Use.SUPERVISOR_EXECUTE)(
        memory, context, access
    )


def absent_and_malformed(memory, context, level, pa):
    """Entries that aren't present are looked at for what is reserved, too."""
    step = STEP_AT(memory, context, level, pa)
    if step.kind is not StepKind.NOT_PRESENT or not step.entry:
        return step
    bad = MISCONFIGURED(context, level, step.entry | EptEntry.R)
    return replace(step, kind=StepKind.MISCONFIGURED) if bad else step


def rights_first(self, path, va, needed, made, undefined=GUEST):
    """Rights are looked at before a lower entry that is misconfigured."""
    upper = replace(path, steps=path.steps[:-1])
    misconfigured = bool(path.steps) and path.steps[-1].kind is StepKind.MISCONFIGURED
    withheld = needed & ~violations.ept_uses_of(self.context, upper)
    if misconfigured and upper.steps and withheld:
        return self._violation(upper, va, made, undefined)
    return FAULT(self, path, va, needed, made, undefined)


def by_the_leaf_alone(context, path):
    """Entries above the leaf take no right away."""
    return USES_OF(context, replace(path, steps=path.steps[-1:]))


def rights_of_the_last_entry(self, path, *rest):
    """The qualification has the rights of the last entry alone."""
    return VIOLATION(self, replace(path, steps=path.steps[-1:]), *rest)


def tables_as_the_access(memory, context, access):
    """A write needs W of the guest's tables, too, and a fetch X."""
    needed = {READ: Use.READ, WRITE: Use.WRITE, EXECUTE: Use.SUPERVISOR_EXECUTE}[access.type]
    made = violations._ACCESSES[access.type]

    def fault(self, path, va):
        return TABLE_FAULT(self, path, va) or FAULT(self, path, va, needed, made)

    return patched(Ept, "table_fault", fault)(memory, context, access)


def ignored_are_reserved(context, level, *, leaf):
    """Bits of controls that are off have to be 0."""
    ignored = EptEntry.VERIFY_PAGING | EptEntry.PAGING_WRITE | EptEntry.SUPPRESS_VE
    return RESERVED(context, level, leaf=leaf) | ignored


def page_first(memory, context, access):
    """The page's own walk comes before what the guest's tables allow."""
    found = nested_outcomes(memory, context, access)
    path = walk_nested(memory, context, access.va)
    if not isinstance(found[0], PageFault) or path.page is None:
        return found
    fault = Ept(context.host).page_fault(path.page.path, access, path.guest.grant)
    return found if fault is None else (fault,)


def guest_physical(memory, context, access):
    found = nested_outcomes(memory, context, access)
    if isinstance(found[0], Translation):
        return (replace(found[0], pa=walk_nested(memory, context, access.va).page.gpa),)
    return found


def marked(*, table_leaves):
    """D is set in the EPT entries of the guest's tables as in those of the pages, or never."""

    def predict(memory, context, access):
        found = nested_outcomes(memory, context, access)
        if not isinstance(found[0], Translation) or not context.host.accessed_dirty:
            return found
        path = walk_nested(memory, context, access.va)
        tables = {each.path.steps[-1].pa for each in path.tables}
        leaves = tables if table_leaves else {path.page.path.steps[-1].pa}
        kept = tuple(
            (pa, word & ~int(EptEntry.D) | (memory.word(pa) & int(EptEntry.D)))
            if pa in leaves
            else (pa, word)
            for pa, word in found[0].entries
        )
        return (replace(found[0], entries=tuple(e for e in kept if e[1] != memory.word(e[0]))),)

    return predict


def only_leaves_marked(memory, context, access):
    """A isn't set in EPT entries above the leaves."""
    found = nested_outcomes(memory, context, access)
    if not isinstance(found[0], Translation):
        return found
    path = walk_nested(memory, context, access.va)
    upper = {step.pa for each in (*path.tables, path.page) for step in each.path.steps[:-1]}
    return (replace(found[0], entries=tuple(e for e in found[0].entries if e[0] not in upper)),)


def page_always_dirty(memory, context, access):
    """D is set in the EPT leaf of the page by reads and fetches, too."""
    found = nested_outcomes(memory, context, access)
    if not isinstance(found[0], Translation) or not context.host.accessed_dirty:
        return found
    leaf = walk_nested(memory, context, access.va).page.path.steps[-1].pa
    words = dict(found[0].entries)
    words[leaf] = words.get(leaf, memory.word(leaf)) | int(EptEntry.D)
    changed = tuple(sorted(each for each in words.items() if each[1] != memory.word(each[0])))
    return (replace(found[0], entries=changed),)


def unchanged(memory, context, access):
    """EPT's own entries are left alone, and the guest's are marked."""
    found = nested_outcomes(memory, context, access)
    path = walk_nested(memory, context, access.va)
    guest = {step.pa for step in path.guest.steps}
    return tuple(
        replace(each, entries=tuple(e for e in each.entries if e[0] in guest)) for each in found
    )


def with_bit_12(context, level, *, leaf):
    return RESERVED(context, level, leaf=leaf) & ~(1 << 12 if leaf and level > 1 else 0)


def like_bochs_at_tables(violation, _access):
    both = Qualification.READ | Qualification.WRITE
    at_page = violation.qualification & Qualification.PAGE
    if at_page or violation.qualification & both != both or violation.open & Qualification.READ:
        return violation
    return replace(violation, qualification=violation.qualification & ~Qualification.READ)


def in_bit_13(violation, _access):
    code = violation.qualification
    if code & Qualification.FETCH or not code & Qualification.USER_EXECUTABLE:
        return violation
    moved = code & ~Qualification.USER_EXECUTABLE | Qualification.SHADOW_STACK
    return replace(violation, qualification=int(moved))


BITS = {
    "read of a page": without(Qualification.READ, table=False),
    "write of a page": without(Qualification.WRITE, table=False),
    "fetch": without(Qualification.FETCH),
    "read of a table": without(Qualification.READ, page=False),
    "write of a table": without(Qualification.WRITE, page=False),
    "readable": without(Qualification.READABLE),
    "writable": without(Qualification.WRITABLE),
    "executable": without(Qualification.EXECUTABLE),
    "valid linear address": without(Qualification.GLA_VALID),
    "page or table": without(Qualification.PAGE),
    "the guest's U/S": without(Qualification.GUEST_USER),
    "the guest's R/W": without(Qualification.GUEST_WRITABLE),
    "the guest's XD": without(Qualification.GUEST_NO_EXECUTE),
}
WRONG = {
    **{f"missing in the qualification: {name}": wrong for name, wrong in BITS.items()},
    "one dimension": lambda memory, context, access: (translate(memory, context.guest, access),),
    "the guest's WP ignored": with_guest(cr0=lambda value: value & ~CR0.WP),
    "the guest's SMEP ignored": with_guest(cr4=lambda value: value & ~CR4.SMEP),
    "the guest's SMAP ignored": with_guest(cr4=lambda value: value & ~CR4.SMAP),
    "a guest-physical answer": guest_physical,
    "R ignored": granting(Use.READ),
    "W ignored": granting(Use.WRITE),
    "X ignored": granting(Use.SUPERVISOR_EXECUTE | Use.USER_EXECUTE),
    "A and D always": with_host(eptp=lambda value: value | ACCESSED_DIRTY),
    "A and D never": with_host(eptp=lambda value: value & ~ACCESSED_DIRTY),
    "execution alone isn't supported": lacking(EptCapability.EXECUTE_ONLY),
    "no 1-GiB pages": lacking(EptCapability.PAGE_1G),
    "no 2-MiB pages": lacking(EptCapability.PAGE_2M),
    "no advanced information": lacking(EptCapability.ADVANCED),
    "W without R let through": patched(ept, "misconfigured", write_only_is_a_right),
    "reserved memory types let through": accepting(Misconfigured.MEMORY_TYPE),
    "reserved bits let through": accepting(Misconfigured.RESERVED),
    "bits 6:3 of a table's entry ignored": reserved(0x78, leaf=False),
    "address bits above MAXPHYADDR of a table's entry ignored": reserved(0xFFF << 40, leaf=False),
    "bits of controls that are off reserved": patched(
        ept, "ept_reserved_bits", ignored_are_reserved
    ),
    "PS of a PML4E ignored": reserved(EptEntry.PS, leaf=False, level=4),
    "address bits above MAXPHYADDR of a page's entry ignored": reserved(0xFFF << 40, leaf=True),
    "low address bits of a large page ignored": reserved(0x3FFF_E000, leaf=True),
    "an absent entry's reserved bits looked at": patched(ept, "_step_at", absent_and_malformed),
    "rights before misconfigurations": patched(Ept, "_fault", rights_first),
    "rights of the leaf alone": patched(violations, "ept_uses_of", by_the_leaf_alone),
    "rights of the last entry in the qualification": patched(
        Ept, "_violation", rights_of_the_last_entry
    ),
    "walks of tables as the access": tables_as_the_access,
    "the page's own walk before the guest's rights": page_first,
    "A and D of guest entries set unchecked": patched(Ept, "update_fault", lambda *_: None),
    "A and D of guest entries always written": patched(
        Ept,
        "table_fault",
        lambda self, *rest: TABLE_FAULT(self, *rest) or UPDATE_FAULT(self, *rest),
    ),
    "the rights of entries above one that isn't present": answering(
        EptViolation,
        lambda each, _: replace(
            each, qualification=each.qualification | (0 if each.qualification & 0x78 else 0x38)
        ),
    ),
    "all of the qualification left open": answering(
        EptViolation, lambda each, _: replace(each, open=0x1FFFF)
    ),
    "nothing of the qualification left open": answering(
        EptViolation, lambda each, _: replace(each, open=0)
    ),
    "the page's address for the entry's": answering(
        EptViolation, lambda each, _: replace(each, gpa=each.gpa & -4096)
    ),
    "the linear address for the guest-physical": answering(
        EptViolation, lambda each, access: replace(each, gpa=access.va)
    ),
    "the guest-physical address for the linear": answering(
        EptViolation, lambda each, _: replace(each, gla=each.gpa)
    ),
    "misconfigurations without the place in the page": answering(
        EptMisconfiguration, lambda each, _: replace(each, gpa=each.gpa & -4096)
    ),
    "misconfigurations as violations": answering(
        EptMisconfiguration, lambda each, access: EptViolation(0x81, each.gpa, access.va)
    ),
    "no A and D": answering(Translation, lambda found, _: replace(found, entries=())),
    "no A and D in EPT": unchanged,
    "no A in entries above the leaves": only_leaves_marked,
    "D of the page whatever the access": page_always_dirty,
    "one outcome where the processor may choose": lambda *asked: nested_outcomes(*asked)[:1],
    "no D for the guest's tables": marked(table_leaves=True),
    "no D for pages": marked(table_leaves=False),
    "nothing is marked on a violation": answering(
        EptViolation, lambda each, _: replace(each, entries=())
    ),
}
"""Without mode-based execute control as with it."""

WRONG_WITH_MBEC = {
    "XU ignored": granting(Use.USER_EXECUTE),
    "mode-based execute control ignored": with_host(mbec=lambda _: False),
    "the user's right to execute is the supervisor's": one_right_to_execute,
    "XU chosen by CPL": user_by_cpl,
    "an entry with XU alone isn't present": patched(ept, "ept_present_bits", lambda _: 7),
    "missing in the qualification: XU": without(Qualification.USER_EXECUTABLE),
}

WRONG_WITHOUT_MBEC = {
    "mode-based execute control always": with_host(mbec=lambda _: True),
    "an entry with XU alone is present": patched(ept, "ept_present_bits", lambda _: 0x407),
}

LIKE_BOCHS = {
    "ept-table-access-no-read": answering(EptViolation, like_bochs_at_tables),
    "ept-user-execute-in-bit-13": answering(EptViolation, in_bit_13),
    "ept-guest-marks-unchecked": patched(Ept, "update_fault", lambda *_: None),
    "ept-large-page-bit-12": patched(ept, "ept_reserved_bits", with_bit_12),
}
"""Walkers that have learned a departure from the machine, by its name."""
