"""The commands and their options as data, of which `crosswalk.emu.cli.parser` makes the parser.

The function that carries a command out is named as text, and imported when it is called.
"""

from dataclasses import replace
from pathlib import Path

from crosswalk.emu.cli.compare_options import COMPARE
from crosswalk.emu.cli.expect_options import EXPECT_NEW, expecting
from crosswalk.emu.cli.guest_options import EPILOG, GUEST, POINTS, PROTECTED
from crosswalk.emu.cli.host_options import HOST_TABLES
from crosswalk.emu.cli.listing_options import FILTERS, FORMATS, FRAME_FILTERS, NAMES, SYMBOLS
from crosswalk.emu.cli.options import (
    ALLOW_EMPTY,
    JOBS,
    PARTIAL,
    RANGE,
    ROOTS,
    SEED,
    SOURCE,
    SUMMARY,
    VERBOSE,
    WALKER_MUTING,
    WALKER_REPORTING,
    Command,
    Group,
    Option,
    json_option,
    not_empty,
    number,
    option,
    output_file,
    output_folder,
    seconds,
    source,
    walker,
)
from crosswalk.emu.cli.search_commands import SEARCHING, WALKERS
from crosswalk.emu.cli.type_options import (
    CHOSEN_TYPES,
    FRAME_TYPES,
    SOFTWARE,
    TRANSLATED_TYPES,
    WALKED_TYPES,
)

__all__ = ["COMMANDS", "GROUPS"]


_POLICY = option(
    "--policy",
    choices=["one-privilege", "any"],
    help="exit with status 1 if a frame is both writable and executable: within one privilege, "
    "or for any two",
)
_WATCH = Group(
    "watching SOURCE",
    (
        option(
            "--watch",
            metavar="SECONDS",
            type=seconds(86400),
            help="list what changes, by a look each so many seconds; a live guest runs meanwhile",
        ),
        option(
            "--watch-count",
            metavar="N",
            type=number(bits=63, least=1),
            help="end after so many looks, the first included (never)",
            needs="watch",
        ),
    ),
)
_CHECKING = (
    option(
        "--cases", metavar="DIR", type=output_folder, help="write each divergence here, as a case"
    ),
    replace(
        VERBOSE,
        settings={
            **VERBOSE.settings,
            "help": "explain the known divergences; name all mappings that break an expectation",
        },
    ),
    JOBS,
    json_option("one summary document"),
)
_REPORTING = tuple(
    replace(each, needs=("walker", "expect")) if each.dest == "github" else each
    for each in WALKER_REPORTING
)

_CHECK = (
    Command(
        "run",
        "run_kernel:run",
        "boot a guest, walk its tables, cross-check all of them",
        (
            option(
                "--paging",
                choices=["4level", "5level"],
                default="4level",
                help="the guest's paging (4level)",
            ),
            option(
                "--save",
                metavar="FILE",
                type=output_file,
                help="write the guest's paging structures as a case; with --guest or --kernel, "
                "unless FILE ends in .json, RAM and registers as an ELF core",
            ),
            *_CHECKING,
            expecting(names=False),
            GUEST,
            POINTS,
        ),
        epilog=EPILOG,
    ),
    Command(
        "check",
        "check:run_check",
        "cross-check every mapping of SOURCE",
        (
            *SOURCE,
            ROOTS,
            *RANGE,
            option(
                "--limit",
                metavar="N",
                type=number(bits=63, least=1),
                help="check the first N mappings of each size, holes and malformed entries "
                "(without it all, but not more than 200,000 mappings)",
            ),
            PARTIAL,
            ALLOW_EMPTY,
            *_CHECKING,
            Group("names", SYMBOLS),
            expecting(names=False, github=False),
            walker("none but the built-in one"),
            Group("wrong answers that don't fail", WALKER_MUTING),
            Group("reports of wrong answers", _REPORTING),
        ),
        """\
With --walker the image is put to that walker whole: all of its paging structures, every access that
the emulated CPU makes, and every range to one that lists mappings. --cases then has a case of each
finding about the walker as well.""",
        """\
exit status: 0 agreement; 1 a divergence, or a wrong answer; 2 bad input, nothing asked, not all of
SOURCE looked at, or nothing judged of one of the walker's claims.""",
    ),
)

_READ = (
    Command(
        "info",
        "info:run",
        "show what SOURCE has: format, CPUs, ranges, mappings, what is assumed",
        (*SOURCE, ALLOW_EMPTY, json_option("one document")),
    ),
    Command(
        "roots",
        "roots:run",
        "list where the tables of each address space in SOURCE begin",
        (
            *SOURCE,
            option(
                "--no-scan",
                action="store_true",
                help="only the roots that options, registers, headers and notes name, without "
                "a search of all memory",
            ),
            option(
                "--scan-live",
                action="store_true",
                help="search all memory of a live guest, too, which is paused meanwhile",
            ),
            json_option("one record a line"),
        ),
        """\
The best root comes first: one that options or registers name, a header's, VMCOREINFO's; then what
a search of the memory finds, which knows no system: roots whose upper halves are alike are a group,
and the biggest comes first. The last ones are strays: alone in their group, of stale tables or of
another system; --roots all leaves them out.""",
    ),
    Command(
        "walk",
        "walk:run_walk",
        "list the mappings of SOURCE",
        (
            *SOURCE,
            ROOTS,
            *RANGE,
            FILTERS,
            NAMES,
            expecting(names=False, listing=True),
            option("--coalesce", action="store_true", help="fold equal neighbours to ranges"),
            option(
                "--limit", metavar="N", type=number(bits=63), help="stop after N lines (10000000)"
            ),
            option(
                "--save-case",
                metavar="FILE",
                type=output_file,
                help="write the paging structures as a case file",
            ),
            SOFTWARE,
            WALKED_TYPES,
            HOST_TABLES,
            FORMATS,
            _WATCH,
            SUMMARY,
            ALLOW_EMPTY,
            json_option("one record a line"),
        ),
    ),
    Command(
        "frames",
        "frames:run",
        "list the collective rights of each physical range",
        (
            *SOURCE,
            ROOTS,
            _POLICY,
            option(
                "--aliases",
                metavar="N",
                type=number(bits=63),
                default=4,
                help="name up to N mappings that write, and N that execute, each range that is "
                "writable and executable; with --tables, N that write each table that user mode "
                "may write (4)",
            ),
            option(
                "--of",
                metavar="PA",
                type=number(bits=52),
                help="instead, list the mappings of the 4-KiB frame that holds this address",
            ),
            option(
                "--tables",
                action="store_true",
                help="instead, list the frames of page tables that are mapped, and who may write "
                "them; exit with status 1 if user mode may write one",
            ),
            FRAME_FILTERS,
            Group("names", SYMBOLS),
            FRAME_TYPES,
            HOST_TABLES,
            option(
                "--limit",
                metavar="N",
                type=number(bits=63),
                help="with --of or --watch, stop after N lines",
            ),
            FORMATS,
            _WATCH,
            SUMMARY,
            ALLOW_EMPTY,
            PARTIAL,
            json_option("one record a line"),
        ),
    ),
    Command(
        "translate",
        "translate:run",
        "show every step of one translation",
        (
            *SOURCE,
            ROOTS,
            option("va", metavar="VA", type=number(), help="the linear address"),
            option(
                "--access",
                choices=["read", "write", "execute"],
                default="read",
                help="the access (read)",
            ),
            option("--cpl", choices=["0", "3"], default="0", help="its privilege level (0)"),
            option(
                "--observe", action="store_true", help="make the access in the emulator as well"
            ),
            Group("names", SYMBOLS),
            TRANSLATED_TYPES,
            HOST_TABLES,
            ALLOW_EMPTY,
            json_option("one document"),
        ),
    ),
)

_MAP = Command(
    "map",
    "map:run_map",
    "draw SOURCE's address spaces and physical memory, as a page for a browser",
    (
        *SOURCE,
        ROOTS,
        FILTERS,
        NAMES,
        CHOSEN_TYPES,
        option(
            "-o",
            "--output",
            metavar="FILE",
            type=output_file,
            default=Path("map.html"),
            help="the page (map.html)",
        ),
        option("--title", metavar="TEXT", type=not_empty, help="what the page is called"),
        ALLOW_EMPTY,
        json_option("one summary document"),
    ),
    """\
Write one page of HTML that needs nothing else and loads nothing: all address spaces that --roots
names, from the whole down to a page, and the collective rights of physical memory beside them.
Options that choose mappings choose what is drawn; findings and collective rights are of all.""",
)

_NESTED = Command(
    "nested",
    "nested:run",
    "cross-check translation under nested paging on random pairs of layouts",
    (
        option(
            "--pairs",
            metavar="N",
            type=number(bits=32, least=1),
            default=128,
            help="how many pairs (128)",
        ),
        option(
            "--pair",
            metavar="K",
            type=number(bits=32),
            help="only the pair of this number; with --verbose its known divergences, "
            "each with its walk",
        ),
        option(
            "--tables",
            choices=["npt", "ept", "ept-mbec"],
            default="npt",
            help="what lies beneath the guest's tables: AMD's nested tables (the default), or "
            "Intel's EPT, without or with mode-based execute control",
        ),
        option(
            "--with",
            dest="judge",
            reads=True,
            metavar="J",
            type=not_empty,
            help="who is asked: unicorn (the default) or qemu[:PATH] about npt, bochs[:PATH] about "
            "ept and ept-mbec",
        ),
        option(
            "--accesses",
            metavar="N",
            type=number(bits=20, least=1),
            default=200,
            help="accesses of a pair (200)",
        ),
        SEED,
        JOBS,
        VERBOSE,
        json_option("one summary document"),
    ),
    """\
Make random pairs of layouts, a guest's paging structures and the nested ones beneath (AMD's nested
paging, or Intel's EPT), and compare the walker's prediction with what an emulated CPU, or another
machine, does in guest mode: the system-physical address, the guest's faults, nested faults and VM
exits with their address and cause, and every word that was changed in either dimension.""",
    """\
The same seed and number of accesses give the same pairs, with any number of processes. An access
that crashes the emulator is predicted and not made, except for one of each pair, in a process of
its own; the verdict counts them. exit status: 0 agreement; 1 a divergence, an unexpected crash, or
an expected crash that did not occur; 2 bad usage, or nothing that could be asked.

A machine is asked in one process. Where it can't show which address was reached, or can't make an
access, that is counted, and no agreement.""",
)

_PROTECT = Command(
    "protect",
    "protect:run",
    "apply collective rights, as nested paging would enforce them",
    (
        *source(optional=True),
        ROOTS,
        PROTECTED,
        option(
            "--tables",
            choices=["npt", "ept", "ept-mbec"],
            help="the second-level tables that are to enforce it (npt); without SOURCE, ept and "
            "ept-mbec run in Bochs",
        ),
        option(
            "--with",
            dest="machine",
            reads=True,
            metavar="MACHINE",
            type=not_empty,
            help="where a guest runs under EPT: bochs[:PATH], Bochs 3 (bochs)",
            needs="tables",
        ),
        Group(
            "the policy, for SOURCE",
            (
                Option(_POLICY.names, _POLICY.settings, ("source",)),
                option(
                    "--format",
                    choices=["json", "pages", "ept", "kvm", "kvm-deny"],
                    help="instead of a summary, write what is granted: as one document, as the "
                    "page list that a hypercall takes, as an EPT, or as KVM's memory attributes "
                    "(Heki's; NR, NW, NX)",
                    needs="source",
                ),
                option(
                    "--beyond",
                    action="store_true",
                    help="instead of a summary, compare what each kind of second-level table "
                    "grants beyond the collective rights",
                    needs="source",
                ),
                option(
                    "--output",
                    metavar="FILE",
                    type=output_file,
                    help="where --format writes it",
                    needs="format",
                ),
                option(
                    "--map",
                    metavar="FILE",
                    type=output_file,
                    help="draw what is granted before and after, as a page for a browser",
                    needs="source",
                ),
                option(
                    "--at",
                    metavar="PA",
                    type=number(bits=52),
                    help="where in memory the page list is to lie (0x100000), or the EPT",
                    needs="format",
                ),
                option(
                    "--offset",
                    metavar="BYTES",
                    type=number(bits=52),
                    help="how far above its guest-physical address the EPT maps a page (0)",
                    needs="format",
                ),
            ),
        ),
        ALLOW_EMPTY,
        PARTIAL,
        expecting(),
        option(
            "--verbose",
            action="store_true",
            help="name all mappings that break an expectation; of the built-in guest: show the "
            "malformed hypercalls one by one",
        ),
        json_option("one summary document"),
    ),
    """\
With SOURCE: what the policy grants each page of its memory. With --kernel or --guest: a Linux
kernel, or another, under nested paging, its collective rights enforced, and attacked. With none of
them: the built-in guest asks for protection, is protected, probed, attacked, and runs on.""",
)

_OTHER = (
    Command(
        "help",
        "main:run_help",
        "show the help of a command",
        (option("command", metavar="COMMAND", nargs="*", help="its name"),),
    ),
    Command(
        "completion",
        "main:run_completion",
        "print a script that completes commands and options in a shell",
        (option("shell", choices=["bash", "zsh", "tcsh"], help="the shell that is to load it"),),
        epilog="To use it at once in bash: source <(crosswalk completion bash)",
    ),
)

GROUPS = {
    "expect": "write expectations of page tables",
    "walker": "start a walker under test, and try it",
}
"""What the commands of two words are for, by the first word."""

COMMANDS = {
    command.name: command
    for command in (
        *_CHECK,
        *_READ,
        COMPARE,
        _MAP,
        *SEARCHING,
        _NESTED,
        _PROTECT,
        EXPECT_NEW,
        *WALKERS,
        *_OTHER,
    )
}
