"""The options of `compare` as data: those of SOURCE twice, once for each side."""

from dataclasses import replace

from crosswalk.emu.cli.listing_options import FILTERS, NAMES, SYMBOLS
from crosswalk.emu.cli.options import (
    ALLOW_EMPTY,
    PARTIAL,
    RANGE,
    ROOTS,
    Command,
    Group,
    Option,
    json_option,
    names_of,
    not_empty,
    number,
    option,
    options_of,
    output_file,
    source,
)
from crosswalk.emu.cli.type_options import CHOSEN_TYPES

__all__ = ["COMPARE", "COUNTING", "OWN"]

_SHARED = ("source", "gdb_timeout", "leave_paused", "unpack_to", "unpack_limit")
"""What both sides have in common, of the options of SOURCE."""

_IGNORABLE = ("frame", "rights", "flags", "g", "pwt", "pcd", "pat", "pk", "sw")
"""What --ignore takes."""


def _other(each: Option) -> Option:
    """Return an option of A as one of B."""
    name = each.names[-1]
    settings = {**each.settings, "help": f"as {name}, for B"}
    needs = tuple("b" if it == "source" else f"b_{it}" for it in each.needs)
    return replace(each, names=(f"--b-{name.removeprefix('--')}",), settings=settings, needs=needs)


_SOURCE = source()
_A = replace(
    next(each for each in options_of(Command("", "", "", _SOURCE)) if each.positional),
    settings={
        "metavar": "A",
        "type": not_empty,
        "help": "what was before: all that other commands take as SOURCE",
    },
)
_GROUPS = [each for each in _SOURCE if isinstance(each, Group)]
_OWN = [
    *(each for group in _GROUPS for each in group.options if each.dest not in _SHARED),
    *SYMBOLS,
]

OWN = tuple(each.dest for each in _OWN)
"""The options that each side has for itself; B's begin with b_."""

COUNTING = (
    option(
        "--ignore",
        commas=True,
        metavar="WHAT[,...]",
        type=names_of(*_IGNORABLE),
        default=(),
        help="what doesn't count as a change, with commas: frame (the physical "
        "address), rights, flags, or some of them: g, pwt, pcd, pat, pk, sw (the "
        "bits that are the system's own)",
    ),
    option(
        "--accessed",
        action="store_true",
        help="A and D count, too, which accesses set",
    ),
    option(
        "--page-sizes",
        action="store_true",
        help="the size of pages counts, too: a large page that is now small ones",
    ),
)
"""What counts as a change of a mapping."""

COMPARE = Command(
    "compare",
    "compare:run",
    "list what two sources, or two looks at one, map differently",
    (
        _A,
        option("b", reads=True, metavar="B", type=not_empty, help="what is there after"),
        *(
            replace(group, title=title)
            for group, title in zip(
                _GROUPS,
                ("registers and features of A, instead of what it says", "reading A"),
                strict=True,
            )
        ),
        Group("the same of B", tuple(_other(each) for each in _OWN)),
        replace(
            ROOTS,
            settings={
                **ROOTS.settings,
                "help": "compare all known address spaces of both sides by their roots, or those "
                "of a list of CR3s, or of a file of them",
            },
        ),
        *RANGE,
        NAMES,
        FILTERS,
        CHOSEN_TYPES,
        Group(
            "what counts",
            (
                *COUNTING,
                option(
                    "--by-name",
                    action="store_true",
                    help="compare each region with that of its name, wherever it lies, frames left "
                    "out: two boots under KASLR",
                    needs="symbols",
                ),
                option(
                    "--frames",
                    action="store_true",
                    help="compare the collective rights of each physical range instead",
                ),
            ),
        ),
        option("--limit", metavar="N", type=number(bits=63), help="stop after N lines (10000000)"),
        option(
            "--summary",
            metavar="FILE",
            type=output_file,
            help="write how much differs, and what of both sides can't be followed, as a JSON "
            "document",
        ),
        ALLOW_EMPTY,
        PARTIAL,
        json_option("one record a line"),
    ),
    """\
Of each address space the best root is taken, unless --cr3, --b-cr3 or --roots choose others. Lines
begin with + for what appeared, - for what went, and ~ for what is mapped otherwise; neighbours that
changed alike are one line. With --frames or --roots all, several address spaces are looked at.""",
    """\
exit status: 0 no difference; 1 a difference; 2 bad input, or no difference found where not
everything could be looked at (--partial takes what is there).""",
)
