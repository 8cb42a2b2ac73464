"""Hostile images, in a process that may not have more than a stated amount of memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT = 640 << 20
"""Bytes of address space, Python and numpy included, which take some 250 MiB by themselves."""

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import resource
from itertools import islice
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
import numpy as np
from crosswalk.walker import *
from crosswalk.walker.states import distinct_states

def tables(tables):
    chance = np.random.default_rng(1)
    words = chance.integers(0, tables, tables * 512).astype(np.uint64) << np.uint64(12)
    words |= chance.integers(0, 4, tables * 512).astype(np.uint64) << np.uint64(1)
    words |= chance.integers(0, 2, tables * 512).astype(np.uint64) << np.uint64(63)
    return words | np.uint64(1)

def bomb(tables):
    following = (np.arange(tables, dtype=np.uint64) + np.uint64(1)) % np.uint64(tables)
    return np.repeat(following << np.uint64(12) | np.uint64(7), 512)

words = {image}
memory = Segments([(0, words.view(np.uint8))])
context = PagingContext(cr3=0)
{work}
"""
IMAGES = {
    "all-self-map": ("bomb(1)", 1),
    "four-table bomb": ("bomb(4)", 4),
    "tables of a thousand tables": ("tables(1024)", 1024),
}


def run(image, work, limit=LIMIT):
    code = CHILD.format(limit=limit, image=IMAGES[image][0], work=work)
    # One thread: the others' stacks would count as well.
    environment = dict(os.environ, OPENBLAS_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize("image", IMAGES)
def test_counting_and_collective_rights_stay_within_the_limit(image):
    done = run(
        image,
        "print(count_mappings(memory, context)[1], len(collective_rights(memory, context)) > 0)",
    )

    assert "" == done.stderr
    assert f"{512**4} True\n" == done.stdout


@pytest.mark.parametrize("image", IMAGES)
def test_states_are_at_most_eight_a_table_and_level(image):
    done = run(image, "print(sum(len(block.key) for block in distinct_states(memory, context)))")

    assert "" == done.stderr
    assert 4 <= int(done.stdout) <= 4 * 8 * IMAGES[image][1]


@pytest.mark.parametrize("image", IMAGES)
def test_a_listing_can_be_begun_and_left_within_the_limit(image):
    done = run(image, "print(sum(1 for _ in islice(mappings(memory, context), 100_000)))")

    assert "" == done.stderr
    assert "100000\n" == done.stdout


@pytest.mark.parametrize("image", IMAGES)
def test_naming_aliases_stays_within_the_limit(image):
    done = run(image, "print(len(list(islice(mappings_of(memory, context, 0, 4096), 10))))")

    assert "" == done.stderr
    assert "10\n" == done.stdout


@pytest.mark.parametrize("image", IMAGES)
def test_what_can_not_be_followed_is_counted_within_the_limit(image):
    done = run(image, "found = unfollowed(memory, context); print(found.entries, len(found))")

    assert "" == done.stderr
    entries, found = map(int, done.stdout.split())
    assert 0 == found
    assert 4 * 512 <= entries <= 4 * 512 * IMAGES[image][1]


def test_the_limit_is_one_that_can_be_passed():
    done = run("all-self-map", "np.ones(LIMIT // 8, np.uint64)".replace("LIMIT", str(LIMIT)))

    assert done.returncode != 0
    assert "MemoryError" in done.stderr
