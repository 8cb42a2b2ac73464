"""What README and docs show of commands is what they print, and a difference is told."""

import pytest

from scripts.upkeep.transcripts import (
    SLOW,
    differences,
    documents,
    main,
    run_all,
    shown_anew,
    transcripts_of,
    unrun,
)

PRINTED = ["a", "b in 0.2 s (13 a second)", "c", "b in 0.2 s (13 a second)", "d"]
PAGE = """\
Words.

```console
$ echo one; echo two >&2
one
two
$ echo three > file
```

<!-- transcript: slow -->
```console
$ cat file
three
```

<!-- transcript: not run, it takes a kernel -->
```console
$ false
```

```python
one = 1
```
"""


def of_documents(*, slow):
    found_in = []
    for path in documents():
        found = transcripts_of(path.read_text(encoding="utf-8"))
        chosen = [each for each in found if unrun(each) is None and (slow or each.mark != SLOW)]
        # A document's slow ones may need what the others make, and these are run along.
        if any(each.mark == SLOW for each in chosen) or (chosen and not slow):
            found_in.append(pytest.param(chosen, id=path.name))
    return found_in


def wrong(chosen):
    return {
        command: lines
        for transcript, printed in run_all(chosen)
        for (command, shown), out in zip(transcript.parts, printed, strict=True)
        if (lines := differences(shown, out))
    }


@pytest.mark.parametrize("chosen", of_documents(slow=False))
def test_documents_show_what_is_printed(chosen):
    assert {} == wrong(chosen)


@pytest.mark.slow
@pytest.mark.parametrize("chosen", of_documents(slow=True))
def test_documents_show_what_is_printed_by_commands_that_take_long(chosen):
    assert {} == wrong(chosen)


def test_a_pages_transcripts_are_found_with_their_marks_and_commands():
    first, slow, never = transcripts_of(PAGE)
    assert (
        ("echo one; echo two >&2", ("one", "two")),
        ("echo three > file", ()),
    ) == first.parts
    assert [None, SLOW] == [first.mark, slow.mark]
    assert [None, None, "it takes a kernel"] == [unrun(each) for each in (first, slow, never)]
    lines = PAGE.splitlines()
    assert ["```console", "```"] == [lines[first.start - 1], lines[first.end]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```\n$ ls\n```\n", "line 1: a command in a block that isn't ```console"),
        ("```console\none\n$ ls\n```\n", "line 2: a transcript that doesn't begin with a command"),
        ("<!-- transcript: not run, -->\n```console\n$ ls\n```\n", "line 1: no mark"),
        ("<!-- transcript: fast -->\n```console\n$ ls\n```\n", "line 1: no mark"),
    ],
    ids=["another language", "no command", "no reason", "another mark"],
)
def test_a_transcript_that_would_not_be_run_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        transcripts_of(text)


@pytest.mark.parametrize(
    "shown",
    [
        ["a", "b in 0.7 s (99 a second)", "c", "b in 1,000.1 s (1,300 a second)", "d"],
        ["…"],
        ["…", "d"],
        ["a", "…", "c", "…"],
        ["…", "c", "b in 9 s (1 a second)", "d"],
        ["…", "b in 9 s (1 a second)", "d"],
        ["a", "  …", "d"],
    ],
)
def test_what_is_shown_may_leave_lines_out_and_have_other_seconds(shown):
    assert [] == differences(shown, PRINTED)
    assert shown == shown_anew(shown, PRINTED)


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        (["a", "…", "x", "…"], ["x"]),
        (["…", "b in 9 ms (1 a second)", "…"], ["b in 9 ms (0 a second)"]),
        (["…", "c"], ["c (in another place, or with more around it)"]),
        (["c", "…"], ["c (in another place, or with more around it)"]),
        (["…", "c", "d"], ["c (in another place, or with more around it)"]),
        (["a"], ["a (in another place, or with more around it)"]),
        ([], [" (in another place, or with more around it)"]),
        (["a", "…", "d", "e"], ["e"]),
    ],
)
def test_what_is_shown_and_not_printed_is_told(shown, told):
    assert told == differences(shown, PRINTED)
    assert [] == differences(shown_anew(shown, PRINTED), PRINTED)


def test_a_line_that_has_changed_is_shown_as_it_is_now_and_others_stay_left_out():
    shown = ["…", "beginning: 1 of 20", "…", "end: 7 s"]
    printed = ["x", "beginning: 3 of 20", "y", "z", "end: 9 s"]
    assert ["…", "beginning: 3 of 20", "…", "end: 7 s"] == shown_anew(shown, printed)


def test_commands_run_in_order_in_one_folder_and_are_compared(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("three\n```", "four\n```"))
    assert 0 == main([str(page)])
    assert "page.md: 1 of 3 transcripts run" in capsys.readouterr().out
    assert 1 == main([str(page), "--slow"])
    out = capsys.readouterr().out
    assert "page.md:12: not printed: four\n" in out
    assert "page.md:18: not run: it takes a kernel\n" in out
    assert 0 == main([str(page), "--slow", "--write"])
    assert PAGE == page.read_text()
