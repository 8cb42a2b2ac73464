"""`expect new`: sentences that hold of SOURCE today."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from itertools import islice

from crosswalk.emu.cli.expecting import judged, names_for_new
from crosswalk.emu.cli.followed import follow
from crosswalk.emu.cli.output import remark
from crosswalk.emu.cli.sources import report_source
from crosswalk.emu.cli.spaces import chosen_spaces
from crosswalk.emu.report.expectations import Result, detail_lines
from crosswalk.emu.report.text import count_text
from crosswalk.walker.errors import BadInput
from crosswalk.walker.expectations import Outcome, parse_expectations
from crosswalk.walker.expectations.suggest import suggested
from crosswalk.walker.formats.files import write_file

__all__ = ["run"]

_HEAD = """\
# What holds of these page tables today. Written by `crosswalk expect new`, to be edited:
# take out what may change, and put in what is to stay. What stands behind a # doesn't hold.
"""


def run(options: argparse.Namespace) -> int:
    """Write the sentences, and return the exit status."""
    spaces = chosen_spaces(options, listing=True, count=True)
    report_source(spaces.source)
    followed = follow(options, spaces)
    names = names_for_new(options, spaces)
    parts = list(suggested(spaces.source.memory, spaces.walked, names))
    sentences = parse_expectations("\n".join(text for part in parts for text in part), "expect new")
    results = judged(followed, sentences, names)
    holding = sum(each.judged.outcome is Outcome.HOLDS for each in results)
    if all(each.judged.outcome is Outcome.UNSAID for each in results):
        raise BadInput(f"{spaces.source.name}: nothing can be said: {results[0].reason}")
    left = iter(results)
    paragraphs = [_paragraph(islice(left, len(part))) for part in parts]
    text = "\n".join([_HEAD, *(each for each in paragraphs if each)])
    if options.output is None:
        sys.stdout.write(text)
    else:
        write_file(options.output, text.encode())
    if holding:
        remark(f"{count_text(holding, 'expectation')} that {'holds' if holding == 1 else 'hold'}")
    else:
        remark(
            f"no expectation holds, of {len(results):,}: each stands behind a #, with the reason"
        )
    return 0


def _paragraph(results: Iterable[Result]) -> str:
    return "".join(f"{line}\n" for line in _lines(results))


def _lines(results: Iterable[Result]) -> Iterator[str]:
    """Yield a sentence that holds as it is, another behind a # with why it doesn't."""
    for each in results:
        text = each.judged.sentence.text
        if each.judged.outcome is Outcome.HOLDS:
            yield text
            continue
        yield f"# {text}   # {each.word}: {each.reason}"
        yield from (f"#   {line}" for line in detail_lines(each, how=""))
