"""The commands that search, show again and make small, and those about walkers under test."""

from pathlib import Path

from crosswalk.emu.cli.options import (
    ASSUME,
    JOBS,
    JUDGE,
    MODE,
    MUTING,
    PORTABLE,
    REPORTING,
    SEED,
    SELECT,
    WALKER_MUTING,
    Command,
    Group,
    json_option,
    not_empty,
    number,
    option,
    output_file,
    output_folder,
    walker,
)

__all__ = ["SEARCHING", "WALKERS"]

CHARTS = option(
    "--map",
    metavar="FILE",
    type=output_file,
    help="draw what was found and covered, as a page for a browser",
)

_REPLAY = Command(
    "replay",
    "replay:run",
    "show the predicted and the observed outcome of each probe of a case",
    (
        option("cases", reads=True, metavar="CASE", type=not_empty, nargs="+", help="a case file"),
        option(
            "--time-limit",
            metavar="SECONDS",
            type=number(bits=32),
            default=120,
            help="after so long with one case the emulator counts as hanging (120)",
        ),
        walker("none but the built-in one"),
        Group("wrong answers that don't fail", WALKER_MUTING[:2]),
        json_option("each case, with both outcomes filled in,"),
    ),
    """\
Make every probe of a case, and show what was predicted and what was observed. With --walker that
walker is asked as well: exit status 1 then means that one of its answers is wrong, and with --json
`predicted` is its answer. A walker that a case names is run only if --walker names it too.
A probe that needs a feature that the emulated CPU lacks, LAM for one, is predicted only: it has no
`observed`, and the walker's answer is compared with the prediction.""",
    """\
exit status: 0 no divergence; 1 a divergence; 2 bad input, all probes predicted only, nothing judged
of one of the walker's claims, or the emulator crashes or hangs.""",
)

_CASES = option(
    "cases",
    reads=True,
    metavar="CASE",
    type=not_empty,
    nargs="+",
    help="a case, a composite or a sequence; a folder of them; - for standard input",
)

_JUDGE = Command(
    "judge",
    "judge:run",
    "put the probes of cases to other machines, and compare with what is predicted for them",
    (
        _CASES,
        option(
            "--with",
            dest="judges",
            reads=True,
            metavar="J",
            action="append",
            required=True,
            type=not_empty,
            help="the judge: unicorn, qemu[:PATH], qemu-mttcg[:PATH], kvm[:PATH], bochs[:PATH], "
            "exec:COMMAND, log:FILE, or x86isa[:ACL2]; may be repeated",
        ),
        option(
            "--verbose",
            action="store_true",
            help="show each probe, those that agree and those without an outcome too",
        ),
        *REPORTING,
        json_option("each case, with what every judge said filled in,"),
    ),
    """\
Put every probe to each judge, a machine that boots an image with the cases in it, or the emulated
CPU (unicorn), and compare what it says with what is predicted for the CPU that it says it has. Each
probe has agreed, has diverged, has diverged as that judge is known to, or has no outcome, for a
reason that is counted. That a judge dies, hangs or floods at a probe is a divergence too; the other
probes are put to it all the same.

With --json a case has `judged` for each probe, and `predicted` for the CPU that the case names.""",
    """\
exit status: 0 all that was answered agrees, or diverges as is known; 1 a divergence, or a judge
ended at a probe; 2 bad input, or a judge answered nothing or didn't come to its end; 130
interrupted, with what was answered so far.""",
)

_EXPORT = Command(
    "export",
    "export:run",
    "write boot images that put the probes of cases to the machine that boots them",
    (
        _CASES,
        option(
            "--output",
            "-o",
            metavar="IMAGE",
            required=True,
            type=output_file,
            help="where the image is written: multiboot, for boot loaders and emulators",
        ),
        option(
            "--iso",
            metavar="FILE",
            type=output_file,
            help="write it as an ISO file too, that PCs boot from a stick or a CD, by BIOS and "
            "UEFI; needs GRUB's tools",
        ),
        option(
            "--screen",
            action="store_true",
            help="have the answers shown on the screen even where there is a COM1",
        ),
        option(
            "--verbose",
            action="store_true",
            help="name each probe that can't be exported",
        ),
        json_option("one document"),
    ),
    """\
Write an image with the probes of all cases, in as few boots as can be: one. The machine that boots
it sends what came of them to COM1 at 115,200 baud, 8N1; without a COM1, or with --screen, it shows
them on the screen, in pages, the next after a key or half a minute. `crosswalk judge` with the same
cases and --with log:FILE says what that means. Where the runs don't go into one image there are
IMAGE, IMAGE-2 and so on.""",
    """\
exit status: 0 written; 2 bad input, or nothing to write.""",
)

_FUZZ = Command(
    "fuzz",
    "fuzz:run",
    "search for divergences with generated layouts",
    (
        SEED,
        option(
            "--cases",
            metavar="N",
            type=number(bits=32),
            help="end after so many layouts in all (256, unless --time)",
        ),
        option(
            "--time",
            metavar="SECONDS",
            type=number(bits=32),
            help="end after so long in this run, whichever comes first; reducing may take as "
            "long again",
        ),
        option("--jobs", metavar="N", type=number(bits=8, least=1), help="processes (one a CPU)"),
        option(
            "--accesses",
            metavar="N",
            type=number(bits=20, least=16),
            default=8192,
            help="a layout's accesses, about (8192)",
        ),
        option(
            "--corpus",
            metavar="DIR",
            type=output_folder,
            help="keep findings and state here, and go on from them (./crosswalk-fuzz; with "
            "--walker or --judge a folder in it, named after that)",
        ),
        option(
            "--fresh",
            action="store_true",
            help="begin anew: remove what an earlier campaign left in the folder",
        ),
        option(
            "--from",
            reads=True,
            metavar="SOURCE",
            dest="source",
            help="change the tables of this case, ELF core, or guest:4level, instead of making "
            "new ones; of a folder of cases, or another campaign's, put those first as they are",
        ),
        walker("none but the built-in one"),
        JUDGE,
        Group("what is asked", (MODE, ASSUME, SELECT, *PORTABLE)),
        Group("findings that don't fail", MUTING),
        option("--no-reduce", action="store_true", help="leave findings as they are found"),
        option("--blind", action="store_true", help="generate layouts without using coverage"),
        option("--coverage", action="store_true", help="print which coverage cells were reached"),
        option(
            "--junit",
            metavar="FILE",
            type=output_file,
            help="write a JUnit XML report here, with a failure for each finding",
        ),
        *REPORTING,
        CHARTS,
        option(
            "--scheduler",
            metavar="ADDRESS",
            help="work on the Dask cluster there, instead of --jobs processes here; its workers "
            "need the same versions of crosswalk, unicorn and numpy",
        ),
        json_option("one summary document"),
    ),
    """\
Search for the page table that proves a walker wrong. Layouts are made from a seed, guided by
coverage; every access is put to the walker, the emulated CPU, the layout's intended mappings, and
the walker under test.

Divergences are grouped by the rule that differs, and the first case of each group is written to
DIR/findings with its outcomes; when the search is over, all are reduced. A layout with which the
emulator crashes, hangs or fails is a finding too. The command that reproduces a finding is printed
with it.

The same seed, options and number of layouts give the same findings, byte for byte, with any
number of processes, and whatever interrupts the search: Ctrl-C, kill -9, a full disk. The same
command goes on where it was; so does one with a larger --cases, or another --jobs. A search
with another seed, walker or set of options needs a folder of its own, or --fresh.

Findings of earlier runs are asked again first, and those that the walker doesn't show any more are
said to be gone. Where the walker has changed, the layouts begin anew.

Options may stand in the table [tool.crosswalk.fuzz] of the nearest pyproject.toml.""",
    """\
exit status: 0 nothing was found that isn't accepted; 1 there are findings; 2 nothing was asked, or
the walker under test never answered one of its claims; bad usage, a folder that can't be used, or a
cluster that is gone; 130 interrupted, with what was found so far.""",
)

_FINDINGS = Command(
    "findings",
    "findings:run",
    "list what campaigns have found, or write a report of it",
    (
        option(
            "folder",
            reads=True,
            metavar="DIR",
            nargs="?",
            type=Path,
            default=Path("crosswalk-fuzz"),
            help="a campaign's folder, one with campaigns in it, or one of cases (crosswalk-fuzz)",
        ),
        option(
            "--cause",
            metavar="PATTERN",
            action="append",
            type=not_empty,
            help="only findings of such a cause or rule, as 'reserved*'; may be repeated",
        ),
        *REPORTING,
        CHARTS,
        json_option("one document"),
    ),
    """\
List the findings that `crosswalk fuzz` keeps: the rule with its sections in the manuals, the
answer of the walker under test and the true one, the entries that the address selects with the one
to blame, and the command that shows it again. No walker is run, and nothing is changed.

DIR may be any folder of cases, too: a finding is then what a case's note says, or what of its
predicted and observed outcomes differs.""",
    """\
exit status: 0 also where there are findings: they are listed, not made; 2 bad usage, no such
folder, or nothing found where a file couldn't be read.""",
)

_REDUCE = Command(
    "reduce",
    "reduce:run",
    "shrink a case while it shows the same",
    (
        option(
            "case",
            reads=True,
            metavar="CASE",
            type=Path,
            help="a case, a composite or a sequence that diverges",
        ),
        option(
            "-o",
            "--output",
            metavar="FILE",
            type=output_file,
            help="write it here (standard output)",
        ),
        walker("none but the built-in one: a walker that a case names isn't run unasked"),
        JUDGE,
        json_option("what became smaller, as one document; needs --output,"),
    ),
    """\
Make a case as small as it can be while it shows the same divergence (the rule that two witnesses
see differently), crash or hang of the emulator. Probes and entries are removed, bits and control
state simplified, tables and addresses moved low. A case that shows several divergences is reduced
to the one that its note names, or else to the first. Composites are reduced as well, and so are
sequences, which lose steps too, while an access diverges for the same cause; that may be a known
divergence of the emulated CPU. With --judge it is that machine which diverges, hangs or dies; what
is known of it is none.

The same case gives the same bytes, and a reduced one gives itself. Every candidate is tried in a
process of its own. The search ends after 3,000 candidates, or 24 that hang, and says so.""",
    """\
exit status: 0 reduced; 2 bad usage or bad input, or a case that shows no divergence; 130
interrupted. To see the result: crosswalk replay FILE, or crosswalk sequence FILE; of a machine
crosswalk judge FILE --with J.""",
)

_MATRIX = Command(
    "matrix",
    "matrix:run",
    "try every combination of entry bits, control bits and access",
    (
        option(
            "--select",
            metavar="NAME=VALUE,…",
            type=not_empty,
            help="only what has these values",
        ),
        option(
            "--list",
            action="store_true",
            help="show dimensions, sizes and what is left out, and why",
        ),
        JUDGE,
        Group(
            "what is asked",
            (
                option(
                    "--pairs",
                    action="store_true",
                    help="of each section of single accesses a selection in which each pair of "
                    "values of two dimensions comes up",
                ),
                *PORTABLE,
            ),
        ),
        JOBS,
        option(
            "--state",
            metavar="FILE",
            type=output_file,
            help="go on from this file, and keep it up to date",
        ),
        option(
            "--cases",
            metavar="DIR",
            type=output_folder,
            help="write a case of each group of divergences here",
        ),
        CHARTS,
        json_option("one summary document (with --list, one record a section)"),
    ),
    """\
Try every combination of entry bits at every level, control bits and access, some 41 million of
them, and compare the walker's prediction with what the emulated CPU does. Then run sequences of
changes, invalidations and accesses, and compare each outcome with the set that caching allows.

Features that the emulated CPU lacks (LAM, UAI, LASS, PKS, addresses of 2^40 and up) are predicted
only, and counted apart: where one of the first three leads to an access, its prediction is compared
with what is observed without the feature.

With --judge a machine is asked instead of the emulated CPU, and what it answers compared with what
is predicted for its CPU. What it has no answer for is counted by reason. --pairs is for machines
that are too slow for everything.""",
    """\
NAME=VALUE: pte.nx=1, pde.ps=0, pml4e.bit51=1, cr0.wp=0, cr4.smep=1, efer.nx=0, rflags.ac=1,
cr3.lam_u48=1, cr4.lass=1, efer.uaie=1, encryption_mask=0x800000000000,
pkru.ad=1, pkrs.wd=1, access=write, cpl=3, section=rights-4k, mode=pae (or 32bit, 4level, 5level),
maxphyaddr=52, vendor=amd, page1gb=0; a name given twice allows either value.
Of composites: access=rmw, cross, implicit, twice, or one form such as access=cross:write,
access=twice:read+write; then.cpl=3 and then.ac=1 are those of the second access.
Of sequences (sections tlb-…): page=2m, level=pde, change=rw-0, invalidate=invlpg, number=17.""",
)

_SEQUENCE = Command(
    "sequence",
    "sequence:run",
    "show what each access of a sequence of changes and invalidations may see, and saw",
    (
        option("sequences", reads=True, metavar="SEQUENCE", nargs="+", help="a file, or a name"),
        json_option("each sequence, with what is allowed and observed filled in,"),
    ),
    """\
Run sequences of steps in the emulator (stores to entries, invalidations, loads of control
registers, accesses), the TLB kept from step to step, and compare each access with the set of
outcomes that caching allows.""",
    """\
SEQUENCE: a file of the format crosswalk-sequence/1, as `crosswalk matrix --cases` writes it, or
the name of a sequence of the matrix: section=tlb-random,number=17.""",
)

WALKERS = (
    Command(
        "walker new",
        "walker_new:run_new",
        "write a walker to begin with, which passes, or an adapter for one that exists",
        (
            option(
                "kind",
                choices=["python", "c", "exec", "kdumpfile", "drgn", "bochscpu", "qemu"],
                help="a walker that Crosswalk reaches in this way, or the adapter for this one",
            ),
            option(
                "file",
                metavar="FILE",
                nargs="?",
                type=not_empty,
                help="write it here, or into this folder (mywalker.py, mywalker.c, "
                "mywalker_exec.py, kdumpfile_walker.py...); what is there isn't overwritten",
            ),
        ),
        """\
Write a short page-table walker, correct in 4-level and 5-level paging: a module in Python, a
library in C, or a process that reads and writes JSON lines (in Python; it can be in any language).
It translates and it lists mappings. Put your own walker in the place of its functions.

Or write the adapter that puts libkdumpfile, drgn, Bochs or QEMU's monitor under test, protocol.py,
which it imports, beside it; and print what to install.""",
    ),
    Command(
        "walker try",
        "walker:run_try",
        "show a walker's answers about small address spaces",
        (
            option(
                "walker",
                reads=True,
                metavar="W",
                type=not_empty,
                help="what --walker takes elsewhere",
            ),
            MODE,
            Group("the walker under test", walker("").options[1:]),
            json_option("one document"),
        ),
        """\
Ask a walker about small address spaces, always the same ones, and show the tables, each question,
its answer and the right one. Without --mode there are those of the modes that it states, or two of
4-level paging and one of 5-level paging. The wrong answers are repeated at the end. Where they give
away what an adapter does wrong (a frame's number for an address, say), or that the walker takes one
paging mode for another, a hint names it.""",
        """\
exit status: 0 all answers are right; 1 one is wrong, or the walker fails; 2 nothing was answered of
a claim, bad usage, or a walker that can't be had.""",
    ),
)

SEARCHING = (_REPLAY, _JUDGE, _EXPORT, _FUZZ, _FINDINGS, _REDUCE, _MATRIX, _SEQUENCE)
