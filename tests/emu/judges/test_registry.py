"""Judges by their names on the command line."""

from crosswalk.emu.judges.registry import short_names


def test_lines_call_a_judge_by_its_kind_and_a_log_by_its_file():
    given = {
        "unicorn": "unicorn",
        "qemu:/opt/qemu": "qemu",
        "exec:qemu-system-x86_64 -m 1 {image}": "exec",
        "log:a/pc.log": "log:pc.log",
        "qemu": "qemu-2",
        "exec:b:c": "exec-2",
        "log:b/pc.log": "log:pc.log-2",
        "qemu-mttcg": "qemu-mttcg",
        "log:pc\x1b.log": "log:pc\\x1b.log",
    }
    assert given == short_names(list(given))
