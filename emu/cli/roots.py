"""`roots`: where the tables of each address space in SOURCE begin."""

import argparse
import sys

from crosswalk.emu.cli.output import emit, remark, styled
from crosswalk.emu.cli.sources import chosen_contents, chosen_roots
from crosswalk.emu.report.roots import ROOT_HEADING, root_record, root_text
from crosswalk.emu.report.source import strays_count
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import SourceKind

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """List the roots of SOURCE, best first, and return the exit status."""
    if options.no_scan and options.scan_live:
        raise BadInput("--no-scan and --scan-live: choose one of them")
    contents = chosen_contents(options)
    live = contents.kind is SourceKind.LIVE
    scan = options.scan_live if live else not options.no_scan
    roots = chosen_roots(options, contents, scan=scan)
    for text in roots.remarks:
        remark(text)
    if not roots:
        looked = "named" if not scan else "named, and none was found in its memory"
        raise BadInput(f"{contents.name}: no root is {looked}")
    if sys.stdout.isatty() and not options.json:
        print(styled(ROOT_HEADING, "bold"))
    for root in roots:
        if options.json:
            emit(root_record(root))
        else:
            print(root_text(root))
    if live and not scan:
        remark("memory wasn't searched for others: --scan-live does")
    strays = f", {strays_count(len(roots.strays))} among them" if roots.strays else ""
    remark(f"{len(roots):,} root{'s' if len(roots) != 1 else ''}{strays}")
    return 0
