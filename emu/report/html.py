"""Findings as one page of HTML: nothing is loaded, nothing is run, all text is escaped."""

import re
from collections.abc import Iterator
from html import escape

from crosswalk.emu.report.finding import (
    NOTHING,
    FindingJson,
    FindingsJson,
    ReportJson,
    VariantJson,
    case_file,
    entry_rows,
    found_text,
    has_predicted,
    headline,
    manual_text,
    nothing_text,
    search_title,
    titled_answers,
)

__all__ = ["html"]

_STYLE = """\
:root { color-scheme: light dark; --line: light-dark(#d0d7de, #3d444d);
  --soft: light-dark(#f6f8fa, #161b22); --mark: light-dark(#fff1c2, #5c4300); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; }
h2 { margin-top: 2.5rem; font-size: 1.2rem; }
table { border-collapse: collapse; }
th, td { border: 1px solid var(--line); padding: .3rem .6rem; text-align: left; }
td.number { text-align: right; white-space: nowrap; }
td, dd, li, h1, h2 { overflow-wrap: anywhere; }
pre, ol.entries { background: var(--soft); border: 1px solid var(--line); border-radius: 6px;
  padding: .8rem; font-size: .85rem; }
pre, ol.entries li { white-space: pre-wrap; overflow-wrap: anywhere; }
ol.entries { font-family: monospace; list-style: none; margin: 1em 0; }
ol.entries li { padding-left: 2ch; text-indent: -2ch; }
mark { background: var(--mark); color: inherit; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dt { font-weight: 600; }
dd { margin: 0; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); font-size: .9rem; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def html(document: ReportJson) -> bytes:
    """Return the findings as a page in UTF-8."""
    title = "; ".join(search_title(search) for search in document.searches) or "Findings"
    lines = [
        "<!doctype html>",
        '<html lang="en">',
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{_STYLE}</style>",
        "<main>",
    ]
    for number, search in enumerate(document.searches, 1):
        lines += _search(f"s{number}", search)
    if not document.searches:
        lines.append(f"<p>{NOTHING}")
    lines.append("</main>")
    made = f"Made by {document.made_by}. Sections of the manuals are named by their titles: "
    lines.append(f"<footer><p>{escape(made)}{escape(document.editions)}.</footer>")
    lines.append("</html>")
    return "".join(f"{line}\n" for line in lines).encode()


def _search(anchor: str, search: FindingsJson) -> Iterator[str]:
    title = re.sub("[/:]", r"\g<0><wbr>", escape(search_title(search)))
    yield f'<h1 id="{anchor}">{title}</h1>'
    if search.about:
        yield "<ul>"
        yield from (f"<li>{escape(line)}" for line in search.about)
        yield "</ul>"
    if not search.findings:
        yield f"<p>{nothing_text(search)}"
        return
    yield "<table><thead><tr><th><th>finding<th>times</thead><tbody>"
    for number, finding in enumerate(search.findings, 1):
        link = f'<a href="#{anchor}-{number}">{escape(headline(finding))}</a>'
        yield f'<tr><td class="number">{number}<td>{link}<td class="number">{finding.count:,}'
    yield "</tbody></table>"
    for number, finding in enumerate(search.findings, 1):
        yield f'<section id="{anchor}-{number}">'
        yield f"<h2>{number}. {escape(headline(finding))}</h2>"
        yield from _finding(finding)
        yield "</section>"


def _finding(finding: FindingJson) -> Iterator[str]:
    yield "<dl>"
    rows = [("rule", finding.rule)]
    if finding.manual:
        rows.append(("manual", manual_text(finding.manual)))
    if finding.access is not None:
        rows.append(("access", finding.access))
    for title, text in (*rows, *titled_answers(finding), ("found", found_text(finding))):
        yield f"<dt>{escape(title)}<dd>{escape(text)}"
    yield "</dl>"
    lines = [
        f"<li><mark>{escape(text)}</mark>" if blamed else f"<li>{escape(text)}"
        for text, blamed in entry_rows(finding)
    ]
    if lines:
        yield f'<ol class="entries">{"".join(lines)}</ol>'
    if finding.reproduce is not None:
        yield f"<p>To see it again:<pre>{escape(finding.reproduce)}</pre>"
    if finding.case_text is not None:
        yield "<details><summary>The case file</summary>"
        if has_predicted(finding):
            yield "<p>In the case file, <code>predicted</code> is what the walker said."
        yield f"<pre>{escape(finding.case_text)}</pre></details>"
    yield from _others(finding.variants[1:])


def _others(variants: list[VariantJson]) -> Iterator[str]:
    if variants:
        yield f"<details><summary>{len(variants)} more of the same cause</summary><ul>"
        for each in variants:
            name = case_file(each)
            where = "" if name is None else f": <code>{escape(name)}</code>"
            yield f"<li>{each.count:,} × {escape(each.rule)}{where}"
        yield "</ul></details>"
