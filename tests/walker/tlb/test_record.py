import json

import pytest

from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.columns import Kind
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation
from crosswalk.walker.tlb import (
    Halted,
    Invlpg,
    Invpcid,
    MovCr0,
    MovCr3,
    MovCr4,
    Option,
    Sequence,
    SequenceRecord,
    Store,
    Wrpkru,
    dump_sequence,
    load_sequence,
    parse_sequence,
)

READ, WRITE, FETCH = AccessType
STEPS = (
    Access(0x1000, READ, 3, ac=False),
    Store(0x2000, 0x3067),
    Invlpg(0x1000),
    MovCr0(0x8000_0033),
    MovCr4(0x4200A0),
    Wrpkru(0xC),
    MovCr3(0x8000_0000_0000_1002),
    Invpcid(0, 2, 0x1000),
    Access(1 << 47, WRITE, 0, ac=True),
    Access(0x2000, FETCH, 0, ac=False),
)
SEQUENCE = Sequence(
    context=PagingContext(cr3=0x1000, cr4=0xA0),
    ram=((0, 0x10000),),
    entries={0x1000: 0x2067},
    steps=STEPS,
)


def document(**changes):
    return json.loads(dump_sequence(SequenceRecord(SEQUENCE))) | changes


def parsed(document):
    return parse_sequence(json.dumps(document).encode(), "x.json")


def test_a_sequence_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(dump_sequence(SequenceRecord(SEQUENCE, "why")))
    record = load_sequence(path)
    assert SequenceRecord(SEQUENCE, "why") == record
    assert path.read_bytes() == dump_sequence(record)


def test_outcomes_are_written_for_people_and_not_read():
    option = Option(Kind.OK, 0x5000, 0, frozenset({(0x1000, 0x20)}), fresh=False)
    record = SequenceRecord(
        SEQUENCE,
        allowed=((option,), (option._replace(kind=Kind.PAGE_FAULT, error_code=6),)),
        observed=(Translation(0x5000, entries=((0x1000, 0x2067),)), PageFault(6, 1 << 47)),
    )
    steps = json.loads(dump_sequence(record))["steps"]
    assert [{"outcome": "ok", "pa": "0x5000", "marks": {"0x1000": "0x20"}, "fresh": False}] == (
        steps[0]["allowed"]
    )
    assert {"outcome": "ok", "pa": "0x5000", "entries": {"0x1000": "0x2067"}} == (
        steps[0]["observed"]
    )
    assert {"outcome": "page_fault", "error_code": "0x6", "cr2": hex(1 << 47)} == (
        steps[8]["observed"]
    )
    assert SequenceRecord(SEQUENCE) == parse_sequence(dump_sequence(record), "x.json")
    halted = SequenceRecord(SEQUENCE, observed=(GeneralProtection(), Halted(7, "#UD")))
    assert "#UD" == json.loads(dump_sequence(halted))["halted"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "crosswalk-case/1"}, r"\$.format"),
        ({"more": 1}, "more"),
        ({"ram": [["0x0", "0x10"]]}, r"\$.ram\[0\]"),
        ({"entries": {"0x1004": "0x1"}}, "not a multiple of 8"),
        ({"entries": {"0x20000": "0x1"}}, "outside"),
        ({"cpu": {"cr3": "0x1000", "cr4": "0x0"}}, "PAE"),
        (
            {"cpu": {"cr3": "0x1000", "cr4": "0x20", "efer": "0x0"}},
            "5-level paging, not PAE paging",
        ),
        ({"cpu": {"cr3": "0x1000", "cr4": "0x0", "efer": "0x0"}}, "not 32-bit paging"),
        ({"steps": [{"step": "jump"}]}, r"\$.steps"),
        ({"steps": [{"step": "store", "pa": "0x20000", "value": "0x0"}]}, r"steps\[0\].pa"),
        ({"steps": [{"step": "store", "pa": "0x4", "value": "0x0"}]}, r"steps\[0\].pa"),
        ({"steps": [{"step": "invlpg", "va": "0x0", "pa": "0x0"}]}, "unknown field"),
        ({"steps": [{"step": "invpcid", "type": 4, "pcid": "0x0", "va": "0x0"}]}, "type"),
        ({"steps": [{"step": "invpcid", "type": 0, "pcid": "0x1", "va": "0x0"}]}, "PCIDE = 0"),
        ({"steps": [{"step": "mov_cr3", "value": "0x8000000000001000"}]}, "bit 63"),
        (
            {
                "steps": [
                    {"step": "mov_cr3", "value": "0x1"},
                    {"step": "mov_cr4", "value": "0x200a0"},
                ]
            },
            r"steps\[1\]: CR4.PCIDE set",
        ),
        ({"steps": [{"step": "mov_cr4", "value": "0x10a0"}]}, "LA57"),
        ({"steps": [{"step": "mov_cr4", "value": "0x80"}]}, "PAE"),
        ({"steps": [{"step": "wrpkru", "value": "0x0"}]}, "PKE clear"),
        ({"steps": [{"step": "invlpg", "va": "0x0"}] * 257}, "length"),
    ],
    ids=range(20),
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(changes, message):
    with pytest.raises(BadInput, match=message) as raised:
        parsed(document(**changes))
    assert str(raised.value).startswith("x.json: ")
    assert "\n" not in str(raised.value)


def test_what_is_not_json_is_said_to_be_that():
    for data in (b"", b"{", b"\xff", b"[]", b" " * (1 << 23)):
        with pytest.raises(CrosswalkError, match=r"^x\.json: "):
            parse_sequence(data, "x.json")


def test_an_invpcid_of_an_address_that_is_not_canonical_is_refused():
    with pytest.raises(BadInput, match="not canonical"):
        parsed(document(steps=[{"step": "invpcid", "type": 0, "pcid": "0x0", "va": hex(1 << 47)}]))
    parsed(document(steps=[{"step": "invpcid", "type": 1, "pcid": "0x0", "va": hex(1 << 47)}]))


@pytest.mark.parametrize(
    ("cpu", "steps", "feature"),
    [
        ({"cr3": hex(1 << 62)}, [], "LAM"),
        ({"cr3": "0x0"}, [{"step": "mov_cr3", "value": hex(1 << 61)}], "LAM"),
        ({"cr3": "0x0"}, [{"step": "mov_cr4", "value": hex(1 << 28 | 0x20)}], "LAM"),
        ({"cr3": "0x0", "cr4": hex(1 << 27 | 0x20)}, [], "LASS"),
        ({"cr3": "0x0", "efer": hex(1 << 20 | 0xD00), "vendor": "amd"}, [], "UAI"),
        ({"cr3": "0x0", "encryption_mask": hex(1 << 47)}, [], "an encryption mask"),
        ({"cr3": "0x0", "cr4": hex(1 << 24 | 0x20)}, [], "PKS"),
        ({"cr3": "0x0"}, [{"step": "mov_cr4", "value": hex(1 << 24 | 0x20)}], "PKS"),
    ],
)
def test_features_that_sequences_are_not_modelled_with_are_refused(cpu, steps, feature):
    with pytest.raises(BadInput, match=f"not modelled with {feature}"):
        parsed(document(cpu=cpu, steps=steps))
