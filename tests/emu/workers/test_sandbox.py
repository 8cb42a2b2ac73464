import gc
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from itertools import count
from pathlib import Path

import pytest

from crosswalk.emu.workers.gauges import Gauges
from crosswalk.emu.workers.process import Ending, ProcessEnded, ProcessLost
from crosswalk.emu.workers.sandbox import Failure, Limits, NoAnswer, Process, Restarted
from tests.emu.targets.walkers import ROOT
from tests.processes import alive, until

QUICK = Limits(seconds=0.4, output=1 << 16, patience=1)
PATIENT = Limits(seconds=20)


def lines(count):
    """Tell when so many lines are there."""
    left = [count]

    def whole(part):
        left[0] -= part.count(b"\n")
        return left[0] <= 0

    return whole


def ran(code, limits=PATIENT):
    """A process that runs this Python."""
    return Process(limits, lambda: None, [sys.executable, "-c", textwrap.dedent(code)])


def failure(process, question=b"", allowed=1 << 16):
    with pytest.raises(NoAnswer) as caught:
        process.talk(question, lines(1), allowed)
    return caught.value


def test_a_command_answers_what_it_is_asked():
    process = ran("import sys\nfor line in sys.stdin: print(line[::-1].strip(), flush=True)")
    assert b"\nba"[1:] + b"\n" == process.talk(b"ab\n", lines(1), 100)
    assert b"dc\nfe\n" == process.talk(b"cd\nef\n", lines(2), 100)
    process.close()


def test_a_function_answers_on_its_own_descriptors():
    def body():
        while question := os.read(3, 100):
            os.write(4, question.upper())

    process = Process(PATIENT, body)
    assert b"A\n" == process.talk(b"a\n", lines(1), 100)
    process.close()


def test_a_question_larger_than_a_pipe_and_an_answer_as_large_go_both_ways_at_once():
    process = ran("import sys\nfor line in sys.stdin: print(line, end='', flush=True)")
    question = b"".join(b"%090d\n" % at for at in range(10_000))
    assert question == process.talk(question, lines(10_000), 1 << 20)
    process.close()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("import os; os.abort()", "died of SIGABRT"),
        ("import os; os.kill(os.getpid(), 11)", "died of SIGSEGV"),
        ("raise SystemExit(3)", "ended with status 3"),
        ("", "ended with status 0"),
    ],
    ids=["abort", "segmentation fault", "exit", "nothing"],
)
def test_a_process_that_ends_is_a_crash_and_says_how(code, kind):
    found = failure(ran(code))
    assert (Failure.CRASH, kind) == (found.failure, found.kind)


def test_the_last_line_that_it_printed_is_part_of_the_message():
    found = failure(ran("import sys\nprint('one\\ntwo', file=sys.stderr)\nsys.exit(1)"))
    assert "ended with status 1: two" == str(found)


def test_an_end_is_seen_though_something_it_started_keeps_its_output_open():
    began = time.monotonic()
    found = failure(ran("import subprocess\nsubprocess.Popen(['sleep', '60'])\nexit(4)"))
    assert "ended with status 4" == found.kind
    assert time.monotonic() - began < 15


def test_output_that_is_closed_is_a_failure_of_its_own():
    found = failure(ran("import os, time\nos.close(1)\ntime.sleep(60)", Limits(seconds=1.5)))
    assert (Failure.CRASH, "closed its output") == (found.failure, found.kind)


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)",
    ],
    ids=["a loop", "deaf to SIGTERM"],
)
def test_a_process_that_does_not_answer_in_time_is_killed(code):
    process = ran(f"import os\nprint(os.getpid(), flush=True)\n{code}")
    child = int(process.talk(b"", lines(1), 100))
    process._limits = QUICK
    found = failure(process)
    assert (Failure.HANG, "no answer in 0.4 s") == (found.failure, str(found))
    assert not alive(child)


def test_a_process_that_does_not_read_its_question_is_no_deadlock():
    found = failure(ran("import time; time.sleep(60)", QUICK), b"x" * (1 << 20))
    assert Failure.HANG == found.failure


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_endless_output_is_a_flood(stream):
    endless = f"import sys\nwhile True: sys.{stream}.write('x' * 4096)"
    process = ran(endless, Limits(seconds=20, output=1 << 16))
    found = failure(process)
    assert (Failure.FLOOD, "more than 65,536 bytes") == (found.failure, str(found))


def test_what_is_said_before_it_is_asked_is_nonsense():
    process = ran("""
        import time
        print("a", flush=True)
        time.sleep(0.3)
        print("b", flush=True)
        time.sleep(60)
        """)
    assert b"a\n" == process.talk(b"", lines(1), 100)
    assert select.select([process._answers], [], [], 10)[0]
    found = failure(process, b"?\n")
    assert (Failure.NONSENSE, "answers before it is asked") == (found.failure, found.kind)


def test_memory_is_limited():
    process = ran("x = bytearray(1 << 28)", Limits(seconds=20, memory=1 << 27))
    assert "MemoryError" in str(failure(process))
    enough = ran("x = bytearray(1 << 28)\nprint()", Limits(seconds=20, memory=1 << 31))
    assert b"\n" == enough.talk(b"", lines(1), 100)
    enough.close()


def test_memory_of_a_function_is_limited_beyond_what_the_process_has():
    def body():
        os.write(4, b"%d\n" % len(bytearray(1 << 26)))
        os.write(4, b"%d\n" % len(bytearray(1 << 28)))
        os.read(3, 1)

    gc.collect()  # What this process gives back after the fork would be the function's.
    process = Process(Limits(seconds=20, memory=1 << 27), body)
    assert b"67108864\n" == process.talk(b"", lines(1), 100)
    assert "MemoryError" in str(failure(process))


def test_what_a_process_started_ends_with_it():
    process = ran(
        "import subprocess\nprint(subprocess.Popen(['sleep', '60']).pid, flush=True)\nimport time\n"
        "time.sleep(60)"
    )
    grandchild = int(process.talk(b"", lines(1), 100))
    assert alive(grandchild)
    process.close()
    until(lambda: not alive(grandchild), 10)


def test_what_a_process_started_ends_with_it_when_it_hangs():
    process = ran(
        "import subprocess\nprint(subprocess.Popen(['sleep', '60']).pid, flush=True)\n"
        "while True: pass",
        Limits(seconds=5),
    )
    grandchild = int(process.talk(b"", lines(1), 100))
    process._limits = QUICK
    failure(process, b"?\n")
    until(lambda: not alive(grandchild), 10)


ORPHANS = """
import os, sys
from crosswalk.emu.workers.sandbox import Limits
from crosswalk.emu.workers.sandbox import Process

command = [sys.executable, "-c", '''
import os, subprocess, time
print(os.getpid(), subprocess.Popen(["sleep", "60"]).pid, flush=True)
time.sleep(60)
''']
process = Process(Limits(), lambda: None, command)
left = [1]
print(process.talk(b"", lambda part: b"\\n" in part, 100).decode(), end="", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["KILL", "TERM"])
def test_nobody_is_left_when_the_parent_dies(number):
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    ) as parent:
        child, grandchild = map(int, parent.stdout.readline().split())
        assert alive(child)
        assert alive(grandchild)
        parent.send_signal(number)
        parent.wait()
        until(lambda: not alive(child), 10)
        until(lambda: not alive(grandchild), 10)


def test_closing_twice_does_nothing_and_leaves_no_child():
    process = ran("import os, time\nprint(os.getpid(), os.getppid(), flush=True)\ntime.sleep(60)")
    pids = process.talk(b"", lines(1), 100).split()
    process.close()
    process.close()
    assert 2 == len(pids)
    for pid in map(int, pids):
        assert not Path(f"/proc/{pid}").exists()


def test_descriptors_are_all_given_back():
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        ran("import time; time.sleep(60)").close()
        failure(ran("raise SystemExit(3)"))
    assert before == len(list(Path("/proc/self/fd").iterdir()))


def test_a_child_keeps_nothing_that_is_open_here():
    with Path(os.devnull).open(encoding="ascii") as file:
        os.set_inheritable(file.fileno(), True)
        process = ran("import os\nprint(sorted(map(int, os.listdir('/proc/self/fd'))), flush=True)")
        # The last is that of the listing itself.
        assert b"[0, 1, 2, 3]\n" == process.talk(b"", lines(1), 100)
        process.close()


def test_interrupts_of_the_terminal_do_not_reach_it():
    process = ran("import os\nprint(os.getpgid(0) == os.getpid(), flush=True)\ninput()")
    assert b"True\n" == process.talk(b"", lines(1), 100)
    process.close()


ESCAPES = {
    "into the parent's group": "os.setpgid(0, os.getpgid(os.getppid()))",
    "into a session of its own": "os.fork() and time.sleep(60); os.setsid()",
    "out of the family, by two forks": "gone(); os.setsid(); gone()",
    "without SIGTERM, SIGHUP and SIGINT": "[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]",
    "from the signal of its parent's death": "ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)",
    "by stopping itself": "os.fork() and os.kill(os.getpid(), signal.SIGSTOP)",
}


@pytest.mark.parametrize("act", ESCAPES.values(), ids=ESCAPES)
@pytest.mark.parametrize("closed", [True, False], ids=["it is closed", "it hangs"])
def test_a_process_that_escapes_ends_with_all_that_came_of_it(act, closed, tmp_path):
    process = ran(f"""
        import ctypes, os, signal, time
        def gone():
            os.fork() and os._exit(0)
        print("here", flush=True)
        open({str(tmp_path)!r} + f"/{{os.getpid()}}", "w").close()
        {act}
        open({str(tmp_path)!r} + f"/{{os.getpid()}}", "w").close()
        time.sleep(60)
        """)
    assert b"here\n" == process.talk(b"", lines(1), 100)
    wanted = 2 if "fork" in act or "gone" in act else 1
    until(lambda: len(list(tmp_path.iterdir())) >= wanted)
    if closed:
        process.close()
    else:
        process._limits = QUICK
        failure(process, b"?\n")
    until(lambda: not any(alive(int(path.name)) for path in tmp_path.iterdir()))


def test_a_tree_of_processes_ends_with_its_root(tmp_path):
    process = ran(f"""
        import os, time
        for _ in range(4):
            if not os.fork():
                os.setsid()
        open({str(tmp_path)!r} + f"/{{os.getpid()}}", "w").close()
        if len(os.listdir({str(tmp_path)!r})) == 16:
            os.write(1, b"here\\n")  # Two may see them all.
        time.sleep(60)
        """)
    assert b"here" == process.talk(b"", lines(1), 1 << 10).split()[0]
    process.close()
    assert 16 == len(list(tmp_path.iterdir()))
    assert not any(alive(int(path.name)) for path in tmp_path.iterdir())


def test_a_keeper_that_is_killed_takes_the_process_with_it_and_is_no_crash():
    process = ran("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)")
    child = int(process.talk(b"", lines(1), 100))
    os.kill(process._keeper, signal.SIGKILL)
    with pytest.raises(ProcessEnded) as caught:
        process.talk(b"?\n", lines(1), 100)
    assert Ending.KILLED is caught.value.ending
    until(lambda: not alive(child), 10)


def asked(start):
    """What a process says that is started again and again, and how often it was."""
    started = []

    def counted():
        started.append(start(len(started)))
        return started[-1]

    walker = Restarted("its", counted)
    try:
        return walker.ask(lambda process: process.talk(b"a\n", lines(1), 100)), len(started)
    except (NoAnswer, ProcessLost) as error:
        return error, len(started)
    finally:
        walker.close()


def without_keeper(code):
    """A process whose keeper others kill."""
    process = ran(code)
    os.kill(process._keeper, signal.SIGKILL)
    return process


ECHO = "print(input(), flush=True)"
KILLS_ITSELF = "import os\ninput()\nos.kill(os.getpid(), 9)"


def test_who_is_killed_is_asked_again_and_lost_when_others_go_on():
    assert (b"a\n", 3) == asked(lambda at: without_keeper(ECHO) if at < 2 else ran(ECHO))
    lost, count = asked(lambda _: without_keeper(ECHO))
    assert (ProcessLost, 5) == (type(lost), count)
    message = "its was killed (SIGKILL), by another program or for want of memory, 5 times"
    assert message == str(lost)


@pytest.mark.parametrize(
    ("target", "word"),
    [("getpid", "SIGKILL"), ("getppid", "SIGKILL of its parent process")],
    ids=["itself", "its parent"],
)
def test_who_kills_itself_is_asked_again_and_has_crashed_when_it_goes_on(target, word):
    code = KILLS_ITSELF.replace("getpid", target)
    assert (b"a\n", 3) == asked(lambda at: ran(code if at < 2 else ECHO))
    crash, count = asked(lambda _: ran(code))
    kind = f"killed itself, or was killed each time ({word})"
    assert (Failure.CRASH, kind, 5) == (crash.failure, crash.kind, count)
    assert kind == str(crash)


def test_who_killed_itself_each_time_is_asked_fewer_times_the_next_time():
    started = []

    def start():
        started.append(ran(KILLS_ITSELF))
        return started[-1]

    walker = Restarted("its", start)
    for times in (5, 7, 9):
        with pytest.raises(NoAnswer, match="killed itself"):
            walker.ask(lambda process: process.talk(b"a\n", lines(1), 100))
        assert times == len(started)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1])
def test_an_answer_does_not_count_of_whom_killed_its_parent_before_it(number):
    code = f"import os\ninput()\nos.kill(os.getppid(), {int(number)})\n" + "print(1, flush=True)"
    for _ in range(20):
        with pytest.raises(ProcessEnded, match="of its parent process") as caught:
            ran(code).talk(b"a\n", lines(1), 100)
        assert Ending.ITSELF is caught.value.ending


def test_one_kill_by_others_among_its_own_is_no_crash():
    crash, _ = asked(lambda at: without_keeper(ECHO) if at == 2 else ran(KILLS_ITSELF))
    assert ProcessLost is type(crash)


@pytest.mark.parametrize("kills", [count().__next__, lambda: None], ids=["it kills", "unknown"])
def test_who_may_have_been_killed_for_want_of_memory_has_not_crashed(kills):
    gauges = Gauges(memory_kills=kills)
    command = [sys.executable, "-c", KILLS_ITSELF]
    lost, _ = asked(lambda _: Process(PATIENT, lambda: None, command, gauges))
    assert ProcessLost is type(lost)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV])
def test_who_kills_or_stops_its_parent_leaves_nobody(number, tmp_path):
    process = ran(f"""
        import os, time
        folder = {str(tmp_path)!r}
        for _ in range(2):
            os.fork()
        os.setsid() if os.getpgid(0) != os.getpid() else None
        open(f"{{folder}}/{{os.getpid()}}", "w").close()
        while len(os.listdir(folder)) < 4:
            time.sleep(0.01)
        if os.getpgid(0) == os.getpid() and os.getsid(0) != os.getpid():
            print("here", flush=True)
            input()
            os.kill(os.getppid(), {int(number)})
            print("still here", flush=True)
        time.sleep(60)
        """)
    assert b"here\n" == process.talk(b"", lines(1), 100)
    if number is signal.SIGSTOP:
        assert b"still here\n" == process.talk(b"?\n", lines(1), 100)
        process.close()
    else:
        with pytest.raises(ProcessEnded, match="of its parent process") as caught:
            process.talk(b"?\n", lambda _: False, 100)
        assert Ending.ITSELF is caught.value.ending
    assert not any(alive(int(path.name)) for path in tmp_path.iterdir())
