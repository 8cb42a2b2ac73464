"""The options of expectations as data, and the command that writes some to begin with."""

from crosswalk.emu.cli.listing_options import SYMBOLS
from crosswalk.emu.cli.options import (
    ALLOW_EMPTY,
    ROOTS,
    SOURCE,
    Command,
    Group,
    Option,
    not_empty,
    option,
    output_file,
)

__all__ = ["EXPECT_NEW", "expecting"]

_EXPECT = option(
    "--expect",
    reads=True,
    metavar="FILE|SENTENCE",
    action="append",
    type=not_empty,
    help="what is to be true of the mappings: a sentence, which has a space in it, as 'no wx', or "
    "a file of them, a line each (@FILE for a name with a space); may be repeated; exit with "
    "status 1 where one is broken, 2 where nothing can be said",
)
_JUNIT = option(
    "--junit",
    metavar="FILE",
    type=output_file,
    help="write what each expectation comes to as a JUnit report",
    needs="expect",
)
_GITHUB = option(
    "--github",
    action="store_true",
    help="print each expectation that doesn't hold as an annotation for GitHub Actions, on "
    "standard error",
    needs="expect",
)
_PARTIAL = option(
    "--partial",
    action="store_true",
    help="accept a SOURCE that lacks some of the tables: say of the others what holds",
    needs="expect",
)
_VERBOSE = option(
    "--verbose",
    action="store_true",
    help="name all mappings that break an expectation (the first four ranges)",
    needs="expect",
)


def expecting(*, names: bool = True, github: bool = True, listing: bool = False) -> Group:
    """Return --expect and the options that go with it.

    With `names` those that give addresses names, too, without `github` all but --github; where a
    command lists mappings else, what it has for nothing but expectations.
    """
    others: tuple[Option, ...] = (_PARTIAL, _VERBOSE) if listing else ()
    options = (_EXPECT, _JUNIT, *((_GITHUB,) if github else ()), *others)
    return Group("expectations", (*options, *(SYMBOLS if names else ())))


EXPECT_NEW = Command(
    "expect new",
    "expect_new:run",
    "write expectations that hold of SOURCE today, to be edited",
    (
        *SOURCE,
        ROOTS,
        *SYMBOLS,
        option(
            "-o",
            "--output",
            metavar="FILE",
            type=output_file,
            help="where to write them (standard output)",
        ),
        ALLOW_EMPTY,
    ),
    """\
The regions and sections that are known (--symbols names more), each with its rights, and what is
true of the whole address space. What doesn't hold stands behind a #, with what breaks it.""",
)
