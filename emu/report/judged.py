"""What judges said, as text and as JSON: of each case, and of all of them by judge."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from msgspec import UNSET

from crosswalk.emu.check.compare import agreements
from crosswalk.emu.check.departures import differs
from crosswalk.emu.check.judged import (
    AccessVerdicts,
    CompositeVerdicts,
    SequenceJudgement,
    Status,
)
from crosswalk.emu.report.composites import CompositeCase, outcomes_at
from crosswalk.emu.report.conclusion import Conclusion, agreement
from crosswalk.emu.report.text import count_text
from crosswalk.walker.columns import Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.formats import Case
from crosswalk.walker.formats.documents import (
    FaultJson,
    OkJson,
    OutcomeJson,
    ProtectionJson,
    hex_words,
)
from crosswalk.walker.formats.judged import (
    EndedJson,
    JudgedCompositeJson,
    JudgedCpuJson,
    JudgedFaultJson,
    JudgedJson,
    JudgedOkJson,
    JudgedProtectionJson,
    JudgedSequenceJson,
    JudgeJson,
    LostJson,
    NotExportableJson,
    NotShownJson,
    VerdictName,
)
from crosswalk.walker.outcome import Outcome, PageFault, Translation
from crosswalk.walker.tlb import Halted
