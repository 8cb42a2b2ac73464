"""The sections of the manuals that a rule rests on, by paging mode."""

import re

from crosswalk.walker.context import PagingMode

__all__ = ["EDITIONS", "manual_of"]

EDITIONS = "Intel SDM of June 2026; AMD APM volume 2, revision 3.44 of March 2026"
"""The editions whose section titles these are, as docs/manuals.md has them."""

_FORMATS = {
    PagingMode.BIT32: ('Intel SDM vol. 3A, "32-Bit Paging"', "legacy"),
    PagingMode.PAE: ('Intel SDM vol. 3A, "PAE Paging"', "legacy"),
    PagingMode.LEVEL4: ('Intel SDM vol. 3A, "4-Level Paging and 5-Level Paging"', "long"),
    PagingMode.LEVEL5: ('Intel SDM vol. 3A, "4-Level Paging and 5-Level Paging"', "long"),
}
_WALKS = {
    PagingMode.BIT32: _FORMATS[PagingMode.BIT32][0],
    PagingMode.PAE: 'Intel SDM vol. 3A, "Linear-Address Translation with PAE Paging"',
    PagingMode.LEVEL4: 'Intel SDM vol. 3A, "Linear-Address Translation with 4-Level Paging and '
    '5-Level Paging"',
}
_WALKS[PagingMode.LEVEL5] = _WALKS[PagingMode.LEVEL4]
_AMD = {
    "legacy": 'AMD APM vol. 2, "Legacy-Mode Page Translation"',
    "long": 'AMD APM vol. 2, "Long-Mode Page Translation"',
}
_RIGHTS = (
    'Intel SDM vol. 3A, "Determination of Access Rights"',
    'AMD APM vol. 2, "Page-Translation-Table Entry Fields"',
)
_CODE = (
    'Intel SDM vol. 3A, "Page-Fault Exceptions"',
    'AMD APM vol. 2, "Page-Fault Error Code"',
)
_LAM = ('Intel SDM vol. 3A, "Linear-Address Masking (LAM)"',)
_UAI = ('AMD APM vol. 2, "Upper Address Ignore"',)
_NONE: tuple[str, ...] = ()

_RULES: tuple[tuple[str, tuple[str, ...] | str], ...] = (
    (r"canonical addresses", ('Intel SDM vol. 3A, "Canonicality Checking"',)),
    (
        r"a PDPTE with reserved bits, loaded|bit 5 of a PDPTE.*",
        ('Intel SDM vol. 3A, "PDPTE Registers"',),
    ),
    (r"reserved in .*", "format"),
    (r"flags of .*", "format"),
    # No manual says what is read where there is no memory.
    (r"a table outside RAM, .*", _NONE),
    (r"P of a .*|a .* page that is there|(address|size) of a .* page", "walk"),
    (r"(effective )?(R/W|U/S|XD) of .*|SMEP|SMAP|.* at once|rights of a page", _RIGHTS),
    (r"(read|write|execute) of a .* page that withholds nothing", _RIGHTS),
    (r"protection key of .*", ('Intel SDM vol. 3A, "Protection Keys"',)),
    (
        r"the half of the addresses that LASS bars",
        ('Intel SDM vol. 3A, "Linear-Address-Space Separation (LASS)"',),
    ),
    (r"address bits that LAM ignores", _LAM),
    (r"address bits that UAI ignores", _UAI),
    (r".* in the error code (of|at) .*", _CODE),
    (r"CR2 of .*", ('Intel SDM vol. 3A, "Interrupt 14—Page-Fault Exception (#PF)"',)),
    (
        r"((A|D) of a |A and D|a word beside the walk|more than A and D).*",
        (
            'Intel SDM vol. 3A, "Accessed and Dirty Flags"',
            'AMD APM vol. 2, "Notes on Accessed and Dirty Bits"',
        ),
    ),
    (r"rmw:.*", ('Intel SDM vol. 3A, "Bus Locking"', *_CODE)),
    (r"cross:.*", ('Intel SDM vol. 3A, "Guaranteed Atomic Operations"',)),
    (
        r"implicit.*",
        (
            'Intel SDM vol. 3A, "Determination of Access Rights"',
            'Intel SDM vol. 3A, "Code- and Data-Segment Descriptor Types"',
        ),
    ),
    (r"twice:.*", ('Intel SDM vol. 3A, "Caching Translations in TLBs"',)),
    # What a program owes, and no processor.
    (r"effective rights that explain .*", _NONE),
    (r"an answer within the limits|an outcome( of an? .*)?|an? .*that can be .*|a case .*", _NONE),
)
_PATTERNS = tuple((re.compile(pattern), sections) for pattern, sections in _RULES)


def manual_of(rule: str, mode: PagingMode) -> tuple[str, ...] | None:
    """Return the sections that state a rule of a signature: manual, volume and title.

    None of them for what no manual states; None for a rule that isn't known.
    """
    for pattern, sections in _PATTERNS:
        if pattern.fullmatch(rule):
            if isinstance(sections, tuple):
                return sections
            intel, kind = _FORMATS[mode]
            return (intel if sections == "format" else _WALKS[mode], _AMD[kind])
    return None
