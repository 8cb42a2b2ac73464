"""`translate`: one translation, every step shown."""

import argparse

from emu.cli.contain import contained
from emu.cli.following import add_allow_empty, look, tell_followed
from emu.cli.output import add_json, emit, remark
from emu.cli.sources import add_source, chosen_source, tell_source
from emu.cli.translating_nested import add_nested, nested_asked, translate_under
from emu.probe import FEATURES, LACKS, Prober
from emu.report.records import outcome_json, walk_record
from emu.report.text import access_text, outcome_text, walk_lines
from walker.access import Access, AccessType
from walker.columns import Accesses
from walker.errors import BadInput
from walker.outcome import Outcome
from walker.source import Source, parse_int
from walker.translate import StepKind, translate, walk_access

__all__ = ["add_commands"]


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `translate`."""
    parser = commands.add_parser("translate", help="one translation, every step shown")
    add_source(parser)
    parser.add_argument("va", metavar="VA", help="the linear address")
    names = [kind.name.lower() for kind in AccessType]
    parser.add_argument("--access", choices=names, default="read", help="the access (read)")
    parser.add_argument("--cpl", choices=["0", "3"], default="0", help="its privilege level (0)")
    parser.add_argument(
        "--observe", action="store_true", help="make the access in the emulator as well"
    )
    add_nested(parser)
    add_allow_empty(parser)
    add_json(parser, "one document")
    parser.set_defaults(run=_translate)


def _translate(options: argparse.Namespace) -> int:
    va = parse_int(options.va, "VA")
    nested = nested_asked(options)
    source = chosen_source(options, nested=nested, listing=True)
    access = Access(
        va, AccessType[options.access.upper()], int(options.cpl), source.context.rflags_ac
    )
    if nested:
        return translate_under(options, source, access)
    path = walk_access(source.memory, source.context, access)
    predicted = translate(source.memory, source.context, access)
    tell_source(source)
    found = look(source)
    tell_followed(found)
    observed = contained(lambda: _observe(source, access)) if options.observe else None
    lacking = observed if isinstance(observed, str) else None
    if options.json:
        record = walk_record(path, access, predicted)
        if isinstance(observed, Outcome):
            record["observed"] = outcome_json(observed)
        if lacking is not None:
            record["predicted_only"] = {lacking: 1}
        emit({**record, **found.record()})
    else:
        print(access_text(access))
        if path.va != access.va:
            print(f"  the linear address is {path.va:#x}, by masking")
        for line in walk_lines(source.context, path):
            print(line)
        print(f"predicted: {outcome_text(predicted, may=True)}")
        if isinstance(observed, Outcome):
            print(f"observed:  {outcome_text(observed)}")
    if path.steps and path.steps[-1].kind is StepKind.OUTSIDE and not source.complete:
        remark("partial: the walk ends at a table outside SOURCE's memory, taken for absent")
    if lacking is not None:
        raise BadInput(
            f"predicted only: {lacking}: the emulated CPU has no {LACKS[lacking]}, nothing observed"
        )
    found.require_mapping(options)
    return 0


def _observe(source: Source, access: Access) -> Outcome | str:
    """Return what was observed, or the name of what the emulated CPU lacks for it."""
    prober = Prober(source.memory, source.context)
    accesses = Accesses.of([access])
    lacking = int(prober.lacking(accesses)[0])
    return FEATURES[lacking - 1] if lacking else prober.probe(accesses)[0]
