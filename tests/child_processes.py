"""Processes that a test forks, and what becomes of them."""

import multiprocessing
import os
import signal
import time

import torch


def in_a_child_that_dies(action, after):
    """Run `action` in a forked process that kills itself, or is killed `after` so many seconds.

    Returns whether it was killed before it was done.
    """
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)  # OpenMP does not survive a fork
            action()
        finally:
            os._exit(0)
    end = time.monotonic() + after
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == signal.SIGKILL
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def in_processes(*tasks):
    """Run each task in a forked process; their exit codes, negative for a signal."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=task) for task in tasks]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]
