"""`info`: all that is known of SOURCE, and what is assumed."""

import argparse

from crosswalk.emu.cli.completeness import add_allow_empty, look
from crosswalk.emu.cli.output import add_json, emit
from crosswalk.emu.cli.source_options import add_source, chosen_source, rootless_contents
from crosswalk.emu.report.info import contents_lines, contents_record, info_lines, info_record

__all__ = ["add_commands"]


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `info`."""
    parser = commands.add_parser(
        "info", help="what SOURCE has: format, CPUs, ranges, mappings, what is assumed"
    )
    add_source(parser)
    add_allow_empty(parser)
    add_json(parser, "one document")
    parser.set_defaults(run=_info)


def _info(options: argparse.Namespace) -> int:
    rootless = rootless_contents(options)
    if rootless is not None:
        if options.json:
            emit(contents_record(rootless))
        else:
            for line in contents_lines(rootless):
                print(line)
    source = chosen_source(options, listing=True)
    found = look(source)
    if options.json:
        emit(info_record(source, found.levels, found.unfollowed))
    else:
        for line in info_lines(source, found.levels, found.unfollowed):
            print(line)
    found.require_mapping(options)
    return 0
