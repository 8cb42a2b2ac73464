"""Searches for the planted bugs, guided and blind, and says how long it took to find each."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from crosswalk.emu.fuzz.campaign.plan import ROUND, Plan
from crosswalk.emu.workers.contained import contained
from crosswalk.walker.formats import Case
from scripts.hunting.search import reduced_finding, search
from scripts.hunting.table import Hunt, bug_lines, cell_lines, summary_lines
from scripts.hunting.walkers import Sought, search_walker, walker_lines
from tests.emu.fuzz.hunted_bugs import HUNTED
from tests.emu.wrong_walkers import LISTS, TRANSLATIONS

WALKERS = (*LISTS, *TRANSLATIONS)
_FEW, _SMALL, _MOST = 16, 256, 3
"""The most layouts, accesses and campaigns for walkers under test: lists take longer."""

_PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "search-quality.md"

_PAGE_TEXT = """\
# Quality of the search

    scripts/hunt{options}

writes this page; all but the seconds is the same each time. How good is a search that finds
nothing? This one is sent after walkers that are known to be wrong: the {bugs} planted bugs of
`tests/emu/fuzz/hunted_bugs.py`, one at a time, from the obvious (a rule left out) to the rare (two
particular bits on two levels, and a control bit besides). Each is searched for by {seeds} campaigns
of other seeds, guided by the coverage map as `crosswalk fuzz` is, and by as many that are blind,
as with `--blind`, for up to {limit} layouts of {accesses:,} accesses. A bug counts as found where
an access diverges from what the emulated CPU does, and no known divergence of the emulator
explains it.

The comparison flatters guided search: the generator was tuned with these same bugs in view, by
campaigns whose seeds are partly those of this page. What the figures say of other bugs is less.

{summary}

## Layouts and seconds until found

Medians over the seeds; in brackets how many of the campaigns found it, if not all. Seconds are of
CPU time of one process: generating, predicting once, probing, comparing, and counting coverage
where that steers: a guided layout takes longer, so that what takes little luck is found in fewer
seconds without guidance, and what takes much in fewer with it. The last column is the size of the
case which a finding of seed 0, guided, was reduced to (of the next seed, where that found none):
its entries, the end of its tables, and the flags in which entries differ from plain ones, which are
present, writable and for the user. Tables of a smallest case lie in a row from 0x1000 up.

{bugs_table}

## Walkers under test

The {walkers} walkers of `tests/emu/wrong_walkers.py` list mappings (with flags, effective rights,
as ranges) or translate, and have one thing wrong each. They are asked about {few} layouts of
{small:,} accesses by campaigns without guidance, one for each of {most} seeds: the first layout
that shows something wrong, the seconds until then (medians over the seeds where there is one), how
many rules the wrong answers of all layouts differ by, and how many causes are left when findings of
one cause are one. The last column is the smallest case of the first finding.

{walkers_table}

## Cells reached by the same number of layouts

Medians over the seeds. A campaign learns by rounds of {round} layouts, with a lag of two rounds (so
that its result doesn't depend on the number of workers): until then it is guided by an empty
map, towards anything that the map has a cell for.

{cells_table}

When all cells have been seen, guided search has no targets left, and is as blind as the other.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the page, and write it; status 1 if blind search finds a bug that guided misses."""
    parser = argparse.ArgumentParser(prog="scripts/hunt", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="campaigns of each kind (5)")
    parser.add_argument("--layouts", type=int, default=256, help="the most of each (256)")
    parser.add_argument("--accesses", type=int, default=1024, help="of each layout (1024)")
    parser.add_argument("--page", type=Path, default=_PAGE, help="where to write the page")
    options = parser.parse_args(arguments)
    chosen = [
        f" --{name} {getattr(options, name)}"
        for name in ("seeds", "layouts", "accesses")
        if getattr(options, name) != parser.get_default(name)
    ]
    hunt = run(options.seeds, options.layouts, options.accesses)
    seeds, layouts = min(_MOST, options.seeds), min(_FEW, options.layouts)
    sought = seek(seeds, layouts, min(_SMALL, options.accesses))
    page = page_of(hunt, sought, options.accesses, "".join(chosen))
    print(page)
    options.page.write_text(page, encoding="utf-8")
    guided, blind = (
        {bug for each in searches for bug in each.found} for searches in (hunt.guided, hunt.blind)
    )
    return int(bool(blind - guided))


def page_of(hunt: Hunt, sought: Sequence[Sequence[Sought]], accesses: int, options: str) -> str:
    """Return the page; `options` are those that the command was given."""
    return _PAGE_TEXT.format(
        options=options,
        bugs=len(hunt.bugs),
        seeds=len(hunt.guided),
        limit=hunt.limit,
        accesses=accesses,
        round=ROUND,
        summary="\n".join(summary_lines(hunt)),
        bugs_table="\n".join(bug_lines(hunt)),
        cells_table="\n".join(cell_lines(hunt)),
        walkers=len(WALKERS),
        few=min(_FEW, hunt.limit),
        small=min(_SMALL, accesses),
        most=len(sought[0]),
        walkers_table="\n".join(walker_lines(WALKERS, sought)),
    )


def run(seeds: int, limit: int, accesses: int) -> Hunt:
    """Run `seeds` campaigns of each kind, and reduce a finding of each bug found."""
    searches = {}
    cases: dict[str, Case] = {}
    for guided in (True, False):
        searches[guided] = []
        for seed in range(seeds):
            plan = Plan(seed=seed, accesses=accesses, guided=guided)
            done = contained(lambda plan=plan: search(plan, limit, HUNTED))
            searches[guided].append(done)
            name = "guided" if guided else "blind"
            print(f"{name}, seed {seed}: {len(done.found)} found", file=sys.stderr)
            for bug in HUNTED if guided else []:
                if bug.name in done.found and bug.name not in cases:
                    at = done.found[bug.name]
                    cases[bug.name] = contained(
                        lambda bug=bug, at=at, plan=plan: reduced_finding(bug, plan, at)
                    )
    return Hunt(tuple(bug.name for bug in HUNTED), limit, searches[True], searches[False], cases)


def seek(seeds: int, layouts: int, accesses: int) -> list[list[Sought]]:
    """Run `seeds` campaigns against each walker under test that has one thing wrong."""
    sought = []
    for walker in WALKERS:
        plans = [Plan(seed=seed, accesses=accesses) for seed in range(seeds)]
        sought.append(
            [
                contained(lambda plan=plan, walker=walker: search_walker(walker, plan, layouts))
                for plan in plans
            ]
        )
        found = sum(each.found is not None for each in sought[-1])
        print(f"{walker.name}, {walker.claims}: found by {found} of {seeds}", file=sys.stderr)
    return sought


if __name__ == "__main__":
    sys.exit(main())
