"""`translate --ncr3`: one translation under nested paging, the steps of both dimensions."""

import argparse

from crosswalk.emu.check.nested import NestedDivergence
from crosswalk.emu.check.nested.compare import agrees
from crosswalk.emu.check.nested.departures import FATAL, known_nested
from crosswalk.emu.check.nested.emulated import EMULATOR, emulated
from crosswalk.emu.cli.output import emit, remark
from crosswalk.emu.probe.nested import NestedProber
from crosswalk.emu.report.nested import (
    nested_outcome_json,
    nested_outcome_text,
    nested_record,
    nested_walk_lines,
    stage_of,
)
from crosswalk.emu.report.text import access_text, context_text
from crosswalk.emu.workers.contained import contained
from crosswalk.walker.access import Access
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Source, parse_int
from crosswalk.walker.nested import NestedContext, NestedOutcome, translate_nested, walk_nested

__all__ = ["add_nested", "nested_asked", "translate_under"]

_CR4, _EFER = "0x20", "0xd00"


def add_nested(parser: argparse.ArgumentParser) -> None:
    """Add the options for nested paging."""
    group = parser.add_argument_group("nested paging: SOURCE's memory is the host's")
    group.add_argument("--ncr3", metavar="PA", help="where the host's nested tables are")
    group.add_argument("--host-efer", metavar="VALUE", help=f"the host's EFER ({_EFER})")
    group.add_argument("--host-cr4", metavar="VALUE", help=f"the host's CR4 ({_CR4})")


def nested_asked(options: argparse.Namespace) -> bool:
    """Return whether nested tables were given; `BadInput` for what doesn't go with that."""
    if options.ncr3 is None:
        for name in ("host_efer", "host_cr4"):
            if getattr(options, name) is not None:
                raise BadInput(f"--{name.replace('_', '-')} is for nested paging: give --ncr3 too")
        return False
    return True


def translate_under(options: argparse.Namespace, source: Source, access: Access) -> int:
    """Print one translation of a source under the nested tables that the options name.

    The host's physical addresses are as wide as the guest's and its pages as large; its vendor
    is AMD, whose nested paging it is.
    """
    host = _host(options, source.context)
    if source.memory.word(host.root) is None:
        raise BadInput(f"{source.name}: nCR3 {host.cr3:#x} points outside the memory")
    context = NestedContext(source.context, host)
    path = walk_nested(source.memory, context, access.va)
    predicted = translate_nested(source.memory, context, access)
    observed = contained(lambda: _observe(source, context, access)) if options.observe else None
    remark(f"{source.name}: {context_text(context.guest)}")
    differs = None
    if observed is not None and not agrees(source.memory, predicted, observed):
        differs = known_nested(
            source.memory, context, NestedDivergence(access, predicted, observed)
        )
    remark(f"nested: {context.host.mode} paging, nCR3 {host.cr3:#x}, NXE {int(host.nxe)}")
    if options.json:
        record = nested_record(path, access, predicted)
        if observed is not None:
            record["observed"] = nested_outcome_json(observed)
        if differs is not None:
            record["known"] = list(differs.known)
        emit(record)
        return 0 if differs is None or differs.known else 1
    print(access_text(access))
    for line in nested_walk_lines(context, path):
        print(line)
    print(f"predicted: {nested_outcome_text(predicted, may=True)}")
    stage = stage_of(predicted)
    if stage is not None:
        print(f"failed in: {stage}")
    if observed is not None:
        print(f"observed:  {nested_outcome_text(observed)}")
    if differs is not None:
        known = ", ".join(differs.known)
        print(f"known emulator divergences: {known}" if known else "verdict: FAILED")
    return 0 if differs is None or differs.known else 1


def _observe(source: Source, context: NestedContext, access: Access) -> NestedOutcome:
    if emulated(source.memory, context, access, EMULATOR) is None:
        raise BadInput(f"the emulator can't make this access: {FATAL.differs}")
    return NestedProber(source.memory, context).probe(access)


def _host(options: argparse.Namespace, guest: PagingContext) -> PagingContext:
    cr3 = parse_int(options.ncr3, "--ncr3")
    cr4 = parse_int(options.host_cr4 or _CR4, "--host-cr4")
    efer = parse_int(options.host_efer or _EFER, "--host-efer")
    try:
        return PagingContext(
            cr3=cr3,
            cr4=cr4,
            efer=efer,
            maxphyaddr=guest.maxphyaddr,
            page1gb=guest.page1gb,
            vendor=Vendor.AMD,
        )
    except BadInput as error:
        raise BadInput(f"the host: {error}") from error
