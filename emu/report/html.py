"""Findings as one page of HTML: nothing is loaded, nothing is run, all text is escaped."""

from collections.abc import Iterator
from html import escape

from crosswalk.emu.report.finding import (
    NOTHING,
    FindingJson,
    FindingsJson,
    ReportJson,
    answer_rows,
    entry_rows,
    found_text,
    headline,
    manual_text,
    search_title,
)

__all__ = ["html"]

_STYLE = """\
:root { color-scheme: light dark; --line: light-dark(#d0d7de, #3d444d);
  --soft: light-dark(#f6f8fa, #161b22); --mark: light-dark(#fff1c2, #5c4300); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; font-size: 1.2rem; }
table { border-collapse: collapse; }
th, td { border: 1px solid var(--line); padding: .3rem .6rem; text-align: left; }
td.number { text-align: right; }
td, dd, li, h1, h2 { overflow-wrap: anywhere; }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: 6px; padding: .8rem;
  overflow-x: auto; font-size: .85rem; }
pre.command { white-space: pre-wrap; overflow-wrap: anywhere; }
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
    yield f'<h1 id="{anchor}">{escape(search_title(search))}</h1>'
    if search.about:
        yield "<ul>"
        yield from (f"<li>{escape(line)}" for line in search.about)
        yield "</ul>"
    if not search.findings:
        yield f"<p>{NOTHING}"
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
    for title, text in (*rows, *answer_rows(finding), ("found", found_text(finding))):
        yield f"<dt>{escape(title)}<dd>{escape(text)}"
    yield "</dl>"
    lines = "\n".join(
        f"<mark>{escape(text)}</mark>" if blamed else escape(text)
        for text, blamed in entry_rows(finding)
    )
    if lines:
        yield f"<pre>{lines}</pre>"
    if len(finding.variants) > 1:
        yield "<p>Of the same cause:<ul>"
        for each in finding.variants[1:]:
            again = "" if each.reproduce is None else f"<br><code>{escape(each.reproduce)}</code>"
            yield f"<li>{each.count:,} × {escape(each.rule)}{again}"
        yield "</ul>"
    if finding.reproduce is not None:
        yield f'<p>To see it again:<pre class="command">{escape(finding.reproduce)}</pre>'
    if finding.case_text is not None:
        text = escape(finding.case_text)
        yield f"<details><summary>The case file</summary><pre>{text}</pre></details>"
