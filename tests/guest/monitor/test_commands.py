"""Commands and answers of the monitor as words, read back by a reading of their own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosswalk.guest.monitor import commands
from crosswalk.guest.monitor.commands import Command, Damaged, Flag, Op, Status, decoded, encoded
from crosswalk.walker.errors import BadInput

ALL = (1 << 64) - 1
WORD = st.integers(0, ALL)
BATCH = st.integers(0, 1 << 40)
COMMANDS = st.builds(
    Command,
    st.sampled_from([op for op in Op if op not in {Op.GREETING, Op.DONE}]),
    st.lists(WORD, max_size=5),
    st.sampled_from([Flag(0), Flag.MAY_FAIL]),
)


def sum_of(words, batch):
    """The checksum by its definition, word by word."""
    running = 0
    own = commands.SUM_START + batch
    for word in words:
        own += word
        running += own
    return own + 2 * running & ALL


def taken(words, batch):
    """What a batch holds: op, flags, sequence and payload of each command."""
    words, found = words.tolist(), []
    while words:
        head = words[0]
        size = head >> 32
        assert sum_of(words[: size + 1], batch) == words[size + 1]
        found.append((head & 0xFF, head >> 8 & 0xFF, head >> 16 & 0xFFFF, words[1 : size + 1]))
        words = words[size + 2 :]
    return found


def answered(answers, batch):
    """Words as the monitor answers: (op, status, sequence, payload) of each, and the end."""
    words = []
    for op, status, sequence, payload in [*answers, (Op.DONE, 0, 0, [])]:
        record = [op | status << 8 | sequence << 16 | len(payload) << 32, *payload]
        words += [*record, sum_of(record, batch)]
    return np.array(words, np.uint64)


@given(st.lists(COMMANDS, max_size=6), BATCH)
def test_a_batch_holds_its_commands_in_order(asked, batch):
    wanted = [
        (each.op, each.flags, number, list(each.payload)) for number, each in enumerate(asked)
    ]
    assert wanted == taken(encoded(asked, batch), batch)


ANSWERS = st.lists(
    st.tuples(
        st.sampled_from([op for op in Op if op is not Op.DONE]),
        st.sampled_from(Status),
        st.integers(0, 0xFFFF),
        st.lists(WORD, max_size=5),
    ),
    max_size=6,
)


@given(ANSWERS, BATCH, st.lists(WORD, max_size=3))
def test_answers_are_read_to_their_end(answers, batch, behind):
    words = np.concatenate([answered(answers, batch), np.array(behind, np.uint64)])
    found = [(each.op, each.status, each.sequence, each.words) for each in decoded(words, batch)]
    assert answers == found


@given(ANSWERS, BATCH, st.data())
def test_a_changed_bit_is_noticed(answers, batch, data):
    words = answered(answers, batch)
    at = data.draw(st.integers(0, len(words) - 1))
    words[at] ^= np.uint64(1 << data.draw(st.integers(0, 63)))
    with pytest.raises(Damaged):
        list(decoded(words, batch))


@given(ANSWERS, BATCH, st.integers(1, 100))
def test_answers_to_another_batch_are_none(answers, batch, distance):
    with pytest.raises(Damaged, match="answer 0"):
        list(decoded(answered(answers, batch), batch + distance))


@given(ANSWERS, BATCH, st.data())
def test_answers_cut_short_are_noticed_behind_the_whole_ones(answers, batch, data):
    words = answered(answers, batch)
    cut = words[: data.draw(st.integers(0, len(words) - 1))]
    found = []
    with pytest.raises(Damaged):
        found.extend(decoded(cut, batch))  # It has those before the damage.
    whole = [(each.op, each.status, each.sequence, each.words) for each in found]
    assert answers[: len(whole)] == whole


def test_words_of_more_than_64_bits_are_refused():
    with pytest.raises(BadInput, match="STORE: a word that isn't one of 64 bits"):
        encoded([commands.store([(8, 1 << 64)])], 1)
    with pytest.raises(BadInput, match="FILL: a word that isn't one of 64 bits"):
        encoded([commands.fill(-8, 1)], 1)


@pytest.mark.parametrize(
    ("command", "op", "payload"),
    [
        (commands.read(0x1000, 3), Op.READ, [0x1000, 3]),
        (commands.write(0x1000, [7, 8]), Op.WRITE, [0x1000, 7, 8]),
        (commands.fill(0x1000, 3), Op.FILL, [0x1000, 3, 0]),
        (commands.copy(0x1000, 0x2000, 3), Op.COPY, [0x1000, 0x2000, 3]),
        (commands.compare(0x1000, 0x2000, 3, 1), Op.COMPARE, [0x1000, 0x2000, 3, 1]),
        (commands.load([8, 16]), Op.LOAD, [8, 16]),
        (commands.store([(8, 1), (16, 2)]), Op.STORE, [8, 1, 16, 2]),
        (commands.read_msr(0x480, 0x481), Op.READ_MSR, [0x480, 0x481]),
        (commands.write_msr([(0x3A, 5)]), Op.WRITE_MSR, [0x3A, 5]),
        (commands.cpuid((7, 1), (1, 0)), Op.CPUID, [1 << 32 | 7, 1]),
        (commands.handle([10, 55, 10]), Op.HANDLE, [1 << 10 | 1 << 55]),
        (commands.handle([], [range(5)]), Op.HANDLE, [0, 0, 1, 2, 3, 4]),
        (commands.write_fields([(0x681E, 9)]), Op.WRITE_FIELDS, [0x681E, 9]),
        (commands.run([0x4402], commands.RunFlag.INVEPT), Op.RUN, [1, 0x4402]),
        (commands.end(), Op.END, []),
    ],
)
def test_each_command_has_its_payload(command, op, payload):
    assert (op, payload) == (command.op, [int(word) for word in command.payload])
    assert Flag.MAY_FAIL == command.may_fail().flags
    assert Flag(0) == command.flags
