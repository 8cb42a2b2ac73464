"""`info`: all that is known of SOURCE, and what is assumed."""

import argparse

from crosswalk.emu.cli.followed import look
from crosswalk.emu.cli.output import emit
from crosswalk.emu.cli.sources import (
    chosen_contents,
    chosen_roots,
    chosen_source,
    is_guest,
    is_rootless,
)
from crosswalk.emu.cli.spaces import Spaces
from crosswalk.emu.report.roots import root_record, roots_lines
from crosswalk.emu.report.source import contents_lines, contents_record, info_lines, info_record
from crosswalk.walker.formats import Contents

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Print what SOURCE has, and return the exit status."""
    contents = None if is_guest(options.source) else chosen_contents(options)
    roots = None
    if contents is not None and is_rootless(options, contents):
        roots = chosen_roots(options, contents)
        if not roots:
            _print_contents(options, contents)
    source = chosen_source(options, listing=True, contents=contents, roots=roots)
    found = look(Spaces(source, (source.context,)))
    if options.json:
        known = {} if roots is None else {"roots": [root_record(each) for each in roots]}
        emit(info_record(source, found.levels, found.unfollowed) | known)
    else:
        for line in info_lines(source, found.levels, found.unfollowed):
            print(line)
        if roots is not None:
            for line in roots_lines(roots):
                print(line)
    found.require_mapping(options)
    return 0


def _print_contents(options: argparse.Namespace, contents: Contents) -> None:
    """Print what there is where no root is known, which is an error."""
    if options.json:
        emit(contents_record(contents))
    else:
        for line in contents_lines(contents):
            print(line)
