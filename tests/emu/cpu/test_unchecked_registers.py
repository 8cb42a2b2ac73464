"""What the emulated CPU takes and a processor refuses, each by the instructions that show it."""

import pytest

from crosswalk.emu.cpu.unchecked_registers import (
    INSTRUCTION_DEPARTURES,
    MACHINE_DEPARTURES,
    run_alone,
)

GENERAL_PROTECTION, PAGE_FAULT = 13, 14
EACH = pytest.mark.parametrize(
    "departure", MACHINE_DEPARTURES, ids=[each.id for each in MACHINE_DEPARTURES]
)


@EACH
def test_the_emulated_cpu_takes_what_a_processor_refuses(departure):
    assert (None, departure.taken) == run_alone(departure.source)


@EACH
def test_each_says_what_differs_where_the_manual_has_it_and_why(departure):
    assert departure.manual.startswith("Intel SDM vol. 2") or departure.manual.startswith(
        'Intel SDM vol. 3A, "'
    )
    assert "#GP" in departure.manual
    assert departure.differs.endswith(".")
    assert departure.reason.endswith(".")


@pytest.mark.parametrize("departure", INSTRUCTION_DEPARTURES, ids=lambda each: each.id)
def test_an_instruction_has_another_result_than_a_processors(departure):
    assert (None, departure.taken) == run_alone(departure.source)
    assert departure.manual.startswith("Intel SDM vol. 2")


def test_without_rf_in_what_iret_loads_pushf_stores_none():
    (departure,) = INSTRUCTION_DEPARTURES
    assert "push 0x10002" in departure.source
    assert (None, 0x2) == run_alone(departure.source.replace("push 0x10002", "push 2"))


def test_ids_are_distinct():
    every = (*MACHINE_DEPARTURES, *INSTRUCTION_DEPARTURES)
    assert len(every) == len({each.id for each in every})


@pytest.mark.parametrize(
    ("source", "vector"),
    [
        ("mov rax, 0x8000000000001234\nmov rbx, [rax]", GENERAL_PROTECTION),
        ("mov rax, 0x20\nlldt ax", GENERAL_PROTECTION),
        ("mov rax, 0x400000\nmov rbx, [rax]", PAGE_FAULT),
    ],
    ids=["an access", "LLDT of a TSS", "a page that isn't mapped"],
)
def test_what_it_does_refuse_is_seen(source, vector):
    assert vector == run_alone(source)[0]


def test_instructions_that_a_processor_takes_are_run_to_their_end():
    assert (None, 0x6000) == run_alone(
        "mov rbx, 0x8000\nsgdt [rbx]\nlgdt [rbx]\nsgdt [rbx]\nmov rax, [rbx + 2]"
    )
