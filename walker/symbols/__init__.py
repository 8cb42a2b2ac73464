"""Names of linear addresses: regions of an address space, sections of a file, symbols."""

from crosswalk.walker.symbols.names import NO_NAMES, Labels, Names
from crosswalk.walker.symbols.spans import Span, SpanKind, Spans

__all__ = ["NO_NAMES", "Labels", "Names", "Span", "SpanKind", "Spans"]
