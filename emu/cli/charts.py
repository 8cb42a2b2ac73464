"""`--map` of `fuzz`, `findings` and `matrix`: what was found and covered, as a page of charts."""

from collections.abc import Iterator
from pathlib import Path

from crosswalk.emu.cli.campaign_findings import case_finding
from crosswalk.emu.cli.output import remark
from crosswalk.emu.cli.parser import release
from crosswalk.emu.fuzz.coverage import CELLS, CoverageMap
from crosswalk.emu.matrix.summary import Summary
from crosswalk.emu.report.finding import ReportJson, search_title
from crosswalk.emu.report.map.charts import (
    Chart,
    ChartPage,
    CountsChart,
    GridChart,
    WalkChart,
    chart_html,
    walk_charts,
)
from crosswalk.emu.report.text import count_text, size_text
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.formats.files import write_file
from crosswalk.walker.formats.located_errors import one_line

__all__ = ["write_findings_map", "write_matrix_map"]


def write_findings_map(path: Path, report: ReportJson, seen: CoverageMap | None = None) -> None:
    """Write the page of a campaign: each finding's walk, and the cells that were `seen`."""
    charts: list[Chart] = [*walk_charts(report)]
    about = [count_text(len(charts), "finding")]
    if seen is not None:
        charts += _coverage(seen)
        reached = int((seen.bits & CELLS.possible).sum())
        about.append(f"{reached:,} of {count_text(CELLS.reachable, 'cell')} of the coverage map")
    title = "; ".join(search_title(each) for each in report.searches) or "Findings"
    notes = [one_line(line) for search in report.searches for line in search.about]
    _write(path, ChartPage(one_line(title), "; ".join(about), release(), charts, notes))


def _coverage(seen: CoverageMap) -> Iterator[GridChart]:
    for family, first in zip(CELLS.families, CELLS.first, strict=True):
        part = slice(first, first + family.size)
        axes = [(axis.name, axis.labels) for axis in family.axes]
        title = f"coverage: {family.name}"
        yield GridChart(title, axes, CELLS.possible[part], seen.bits[part])


def write_matrix_map(path: Path, summary: Summary) -> None:
    """Write the page of the matrix: counts by section, and a walk of each group of divergences."""
    charts: list[Chart] = []
    if summary.combinations:
        columns = ["combinations", "ok", "#PF", "#GP"]
        rows = [
            (name, [count, *summary.outcomes.get(name, (0, 0, 0))])
            for name, count in summary.combinations.items()
        ]
        charts.append(CountsChart("Combinations, and what was observed", "section", columns, rows))
    if summary.tlb.sections:
        columns = ["sequences", "forced", "fresh", "stale", "known", "violations"]
        rows = [(name, counts) for name, counts in summary.tlb.sections.items()]
        charts.append(CountsChart("Sequences", "section", columns, rows, ["violations"]))
    known = {**summary.known, **summary.tlb.known}
    if known:
        rows = [(name, [count]) for name, count in known.items()]
        charts.append(CountsChart("Known divergences", "divergence", ["times"], rows))
    groups = [(group.signature, [group.count]) for group in summary.groups.values()]
    groups += [(group.cause, [group.count]) for group in summary.tlb.groups.values()]
    if groups:
        charts.append(
            CountsChart("Groups of divergences", "signature", ["times"], groups, ["times"])
        )
        charts += _group_walks(summary)
    divergent = summary.divergent + summary.tlb.violations
    about = (
        f"{count_text(summary.probes + summary.tlb.accesses, 'probe')}, "
        f"{count_text(divergent, 'divergence')} in {count_text(len(groups), 'group')}"
    )
    notes = [f"Crashed: {one_line(text)}." for text in summary.crashes]
    _write(path, ChartPage("Matrix", about, release(), charts, notes))


def _group_walks(summary: Summary) -> Iterator[WalkChart]:
    """Yield the walk of each group's case; a case that tells of no finding alone has none."""
    for slug, group in summary.groups.items():
        if not group.case:
            continue
        try:
            _, finding = case_finding(Path(f"{slug}.case.json"), group.case.encode())
        except CrosswalkError as error:
            remark(f"no walk is drawn of {slug}: {error}")
            continue
        yield WalkChart("Groups of divergences, by a case of each", finding)


def _write(path: Path, page: ChartPage) -> None:
    data = chart_html(page)
    write_file(path, data)
    remark(f"{path}: {size_text(len(data))}, {count_text(len(page.charts), 'chart')}")
