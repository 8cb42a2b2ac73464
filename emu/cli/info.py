"""`info`: all that is known of SOURCE, and what is assumed."""

import argparse

from crosswalk.emu.cli.output import emit
from crosswalk.emu.cli.sources import chosen_source, look, rootless_contents
from crosswalk.emu.report.source import contents_lines, contents_record, info_lines, info_record

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Print what SOURCE has, and return the exit status."""
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
