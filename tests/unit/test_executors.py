import os
import signal
import subprocess
import sys
import time

import pytest

from spikeproof.experiments.run.executors import Failure, Processes, Progress, Serial

EXECUTORS = [Serial(), Processes(1), Processes(2)]


def work(task, tell):
    tell(Progress(1, 2, f"at {task}"))
    if task == 13:
        raise ValueError("unlucky")
    if task == "die":
        os._exit(3)
    if task == "slow":
        time.sleep(60)
    return task * 2


def halves(task, outcome):
    return [task // 2] if not isinstance(outcome, Failure) and task > 1 else []


def brief(outcome):
    return outcome.error if isinstance(outcome, Failure) else outcome


@pytest.mark.parametrize("executor", EXECUTORS, ids=lambda e: f"{type(e).__name__}{vars(e) or ''}")
def test_every_executor_has_the_same_outcomes(executor):
    heard = []
    outcomes = executor.run(work, [8, 13, 3], then=halves, heard=lambda *event: heard.append(event))
    assert sorted((task, brief(outcome)) for task, outcome in outcomes) == [
        (1, 2),
        (1, 2),
        (2, 4),
        (3, 6),
        (4, 8),
        (8, 16),
        (13, "ValueError: unlucky"),
    ]
    assert (13, Progress(1, 2, "at 13")) in heard
    assert len(heard) == 7


def test_a_failure_carries_its_traceback():
    ((_, failure),) = Serial().run(work, [13])
    assert "raise ValueError" in failure.trace


def test_tasks_made_by_a_result_run_before_tasks_that_wait():
    assert [task for task, _ in Serial().run(work, [4, 7], then=halves)] == [4, 2, 1, 7, 3, 1]


def test_a_worker_that_dies_takes_only_its_task_with_it():
    outcomes = dict(Processes(1).run(work, [5, "die", 6]))
    assert outcomes[5] == 10
    assert outcomes[6] == 12
    assert outcomes["die"].error == "the worker process died (exit code 3)"


def test_stopping_early_ends_the_workers():
    start = time.monotonic()
    outcomes = Processes(2).run(work, ["slow", 1])
    assert next(outcomes) == (1, 2)
    outcomes.close()
    assert time.monotonic() - start < 30


def test_workers_end_when_the_driver_is_killed(tmp_path):
    module = tmp_path / "forever.py"
    module.write_text(
        "import os, time\n"
        "from spikeproof.experiments.run.executors import Processes\n"
        "def work(task, tell):\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    list(Processes(1).run(work, [1]))\n"
    )
    driver = subprocess.Popen([sys.executable, str(module)], stdout=subprocess.PIPE)
    assert int(driver.stdout.readline()) != driver.pid
    driver.send_signal(signal.SIGKILL)
    driver.communicate(timeout=20)  # the pipe closes only when the worker is gone too
    assert driver.returncode == -signal.SIGKILL


def test_a_script_without_a_main_guard_gets_a_message_that_asks_for_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from operator import add\n"
        "from spikeproof.errors import InputError\n"
        "from spikeproof.experiments.run.executors import Processes\n"
        "try:\n    list(Processes(2).run(add, [1]))\n"
        "except InputError as error:\n    print(error)\n"
    )
    shown = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert "if __name__ == '__main__'" in shown.stdout


def test_a_worker_never_hears_an_interrupt():
    """The signal is blocked before its process begins, so Ctrl-C while it imports shows no traceback."""
    mask = [outcome for _, outcome in Processes(1).run(blocked, [0])]
    assert mask == [True]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def blocked(task, tell):
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
