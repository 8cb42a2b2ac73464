"""`translate`: one translation, every step shown."""

import argparse

from emu.cli.contain import contained
from emu.cli.output import add_json, emit, remark
from emu.cli.sources import add_source, chosen_source
from emu.cli.translating_nested import add_nested, nested_asked, translate_under
from emu.probe import Prober
from emu.report.records import outcome_json, walk_record
from emu.report.text import access_text, context_text, outcome_text, walk_lines
from walker.access import Access, AccessType
from walker.columns import Accesses
from walker.outcome import Outcome
from walker.source import Source, parse_int
from walker.translate import translate, walk

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
    add_json(parser, "one document")
    parser.set_defaults(run=_translate)


def _translate(options: argparse.Namespace) -> int:
    va = parse_int(options.va, "VA")
    nested = nested_asked(options)
    source = chosen_source(options, nested=nested)
    access = Access(
        va, AccessType[options.access.upper()], int(options.cpl), source.context.rflags_ac
    )
    if nested:
        return translate_under(options, source, access)
    path = walk(source.memory, source.context, va)
    predicted = translate(source.memory, source.context, access)
    observed = contained(lambda: _observe(source, access)) if options.observe else None
    remark(f"{source.name}: {context_text(source.context)}")
    if options.json:
        record = walk_record(path, access, predicted)
        if observed is not None:
            record["observed"] = outcome_json(observed)
        emit(record)
        return 0
    print(access_text(access))
    for line in walk_lines(source.context, path):
        print(line)
    print(f"predicted: {outcome_text(predicted, may=True)}")
    if observed is not None:
        print(f"observed:  {outcome_text(observed)}")
    return 0


def _observe(source: Source, access: Access) -> Outcome:
    return Prober(source.memory, source.context).probe(Accesses.of([access]))[0]
