"""Sequences in a small address space, and the outcomes allowed after them."""

from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.columns import Kind
from crosswalk.walker.context import CR4, PagingContext
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation
from crosswalk.walker.tlb import Sequence, Store, TlbModel

READ, WRITE, FETCH = AccessType
P, RW, US, A, D, PS, G = 1, 2, 4, 0x20, 0x40, 0x80, 0x100
XD, KEY1 = 1 << 63, 1 << 59
OPEN = P | RW | US | A | D
PML4E, PDPTE, PDE, PTE = 0x1000, 0x2000, 0x3000, 0x4000
OLD, NEW = 0x10_0000, 0x20_0000
SMALL = {PML4E: 0x2000 | OPEN, PDPTE: 0x3000 | OPEN, PDE: 0x4000 | OPEN, PTE: OLD | OPEN}
# Another page table, PD and PDPT, that lead to NEW.
OTHER = {0x7000: 0x8000 | OPEN, 0x8000: 0x9000 | OPEN, 0x9000: NEW | OPEN}
LARGE = {PML4E: 0x2000 | OPEN, PDPTE: 0x3000 | OPEN, PDE: 0x40_0000 | OPEN | PS}
RAM = ((0, 0x100_0000),)
CR4_ON = CR4.PAE | CR4.PGE
FAR = 1 << 46


def access(kind=READ, cpl=3, va=0):
    return Access(va, kind, cpl, ac=False)


def after(*steps, entries=SMALL, last=None, without=(), **registers):
    """Return the kind, address and error code of each outcome allowed at last."""
    last = access() if last is None else last
    model = model_of(*steps, last, entries=entries, without=without, **registers)
    return {option[:3] for option in model.allowed(last)}


def model_of(*steps, entries=SMALL, without=(), **registers):
    context = PagingContext(**({"cr3": PML4E, "cr4": int(CR4_ON)} | registers))
    sequence = Sequence(context=context, ram=RAM, entries=entries, steps=steps)
    model = TlbModel(sequence, frozenset(without))
    for step in steps[:-1]:
        if isinstance(step, Access):
            (option,) = model.allowed(step)[:1]
            model.observe(step, outcome_of(step, option))
        else:
            model.apply(step)
    return model


def outcome_of(step, option):
    if option.kind is Kind.OK:
        return Translation(option.pa)
    if option.kind is Kind.PAGE_FAULT:
        return PageFault(option.error_code, step.va)
    return GeneralProtection()


def ok(pa):
    return (Kind.OK, pa, 0)


def fault(code):
    return (Kind.PAGE_FAULT, 0, code)


MOVED = Store(PTE, NEW | OPEN)
