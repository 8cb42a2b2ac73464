"""Options that are about memory types, as data."""

from crosswalk.emu.cli.options import Group, names_of, not_empty, number, option

__all__ = [
    "CHOSEN_TYPES",
    "FRAME_TYPES",
    "MEMORY_TYPES",
    "SOFTWARE",
    "TRANSLATED_TYPES",
    "WALKED_TYPES",
]

MEMORY_TYPES = ("uc", "wc", "wt", "wp", "wb", "uc-", "cd", "wc+", "mixed", "undefined")
"""The names of memory types; a test holds them to those of the walker."""

SOFTWARE = option(
    "--software",
    choices=["linux", "windows"],
    help="instead of mappings, list the entries that aren't present, and what they mean to this "
    "system: PROT_NONE, swapped, in transition…",
)
_PAT = option(
    "--pat",
    metavar="VALUE",
    type=number(bits=64),
    help="IA32_PAT, hex or decimal, instead of what SOURCE says; else the value after reset, and "
    "assumed: Linux 6.1 has 0x407050600070106",
)
_MTRR = option(
    "--mtrr",
    metavar="MTRR",
    action="append",
    reads=True,
    type=not_empty,
    help="MTRRs: BASE:SIZE:TYPE or default:TYPE (repeatable), or @FILE of such lines, of "
    "/proc/mtrr, of Linux' boot log, or of MSRs, a number and a value a line",
)
_MEMORY_TYPE = option(
    "--memory-type",
    metavar="LIST",
    commas=True,
    type=names_of(*MEMORY_TYPES),
    help=f"only mappings of these memory types: some of {', '.join(MEMORY_TYPES)}",
)
CHOSEN_TYPES = Group("memory types", (_MEMORY_TYPE, _PAT, _MTRR))
"""Of what has no column for them: it always shows them, or never."""
WALKED_TYPES = Group(
    "memory types",
    (
        option("--types", action="store_true", help="show the memory type of each mapping"),
        _MEMORY_TYPE,
        _PAT,
        _MTRR,
    ),
)
FRAME_TYPES = Group(
    "memory types",
    (
        option(
            "--types",
            action="store_true",
            help="show the memory types of each range, and say which ranges have several",
        ),
        option(
            "--one-type",
            action="store_true",
            help="the same, and exit with status 1 if there are any",
        ),
        _PAT,
        _MTRR,
    ),
)
TRANSLATED_TYPES = Group(
    "memory types",
    (
        option(
            "--types",
            action="store_true",
            help="show the memory type of the access, and that by which each entry is read",
        ),
        _PAT,
        _MTRR,
    ),
)
