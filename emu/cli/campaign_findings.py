"""The findings of a campaign described, each with the command that shows it again."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from crosswalk.emu.cli.output import command_line
from crosswalk.emu.cli.parser import release
from crosswalk.emu.cli.walker_options import replay_command, size_text, walker_options
from crosswalk.emu.findings.describe import (
    case_lines,
    described,
    described_case,
    described_composite,
    joined_findings,
    signature_in,
)
from crosswalk.emu.findings.manual import EDITIONS
from crosswalk.emu.findings.signature import Signature
from crosswalk.emu.fuzz.campaign import Plan
from crosswalk.emu.fuzz.campaign.state import Found, State
from crosswalk.emu.fuzz.campaign.store import digest
from crosswalk.emu.report.composites import parse_composite
from crosswalk.emu.report.finding import FindingJson
from crosswalk.walker.formats import parse_case

__all__ = ["campaign_findings", "reproduce"]


def campaign_findings(
    plan: Plan,
    state: State,
    case: Callable[[str], bytes],
    path: Callable[[str], Path | None],
) -> FindingsJson:
    """Return the findings of a campaign, the most frequent first.

    `case` and `path` give a finding's case file by its id, and where that is. Raises as `case`.
    """
    made = []
    for slug, found in sorted(state.findings.items(), key=lambda item: (-item[1].count, item[0])):
        data = case(slug) if found.case else None
        signature = _signature(found, plan.walker)
        reduced = data is not None and found.reduced == digest(data) and found.alone
        finding = msgspec.structs.replace(
            _described(signature, data, slug, reduced=reduced),
            id=slug,
            count=found.count,
            layout=found.layout,
            case=str(path(slug)) if found.case and path(slug) is not None else None,
            reproduce=reproduce(plan, found, slug, path(slug)),
        )
        made.append((signature, finding))
    return FindingsJson(walker=plan.walker, findings=joined_findings(made))


def _signature(found: Found, walker: str | None) -> Signature:
    parsed = signature_in(found.signature, walker)
    return parsed or Signature(found.witness, found.signature, "", "")


def _described(
    signature: Signature, data: bytes | None, slug: str, *, reduced: bool
) -> FindingJson:
    """Return a finding with what its case shows, if it has one."""
    if data is None:
        return described(signature)
    composite = parse_composite(data, slug)
    if composite is None:
        case = parse_case(data, slug)
        made = described_case(signature, case, reduced=reduced)
        count, size = len(case.entries), size_text(case)
    else:
        made = described_composite(signature, composite, reduced=reduced)
        count = len(composite.case.entries)
        size = f"{count:,} {'entry' if count == 1 else 'entries'}, 1 composite"
    text = case_lines(data)
    return msgspec.structs.replace(made, size=size, entries=count, case_text=text)


def reproduce(plan: Plan, found: Found, slug: str, path: Path | None) -> str:
    """Return the command that shows a finding again.

    That replays its case, and asks the walker under test in a finding of its own alone; or tries
    to reduce it. What no case holds is shown by making the layouts again, up to that one.
    """
    if found.again == "replay":
        own = found.witness == f"peer:{plan.walker}"
        named = (plan.walker, plan.claims) if own else (None, None)
        return replay_command(path, *named)
    if found.again == "reduce":
        words = walker_options(plan.walker, plan.claims)
        return command_line(["crosswalk", "reduce", str(path), *words])
    return command_line(
        [
            *("crosswalk", "fuzz", "--seed", str(plan.seed)),
            *("--cases", str((found.layout or 0) + 1)),
            *("--accesses", str(plan.accesses), *([] if plan.guided else ["--blind"])),
            *([] if plan.source is None else ["--from", plan.source]),
            *walker_options(plan.walker, plan.claims),
            *("--corpus", f"{slug}-again"),
        ]
    )
