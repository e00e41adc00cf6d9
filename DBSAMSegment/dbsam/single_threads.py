"""Threads that each compute one image of a small network by themselves.

A small network's operators are done before the threads inside them have woken up: on two cores a slice takes more than
twice as long with both than with one. Whole images in parallel use all cores instead, and give the same values on any
number of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

MOST_THREADS = 4


class SingleThreads:
    """A pool of threads in which PyTorch's operators use one thread.

    Args:
        count: Number of threads; by default as many as PyTorch would use in an operator, up to `MOST_THREADS`.
    """

    def __init__(self, count: int | None = None) -> None:
        outside = torch.get_num_threads()
        count = min(outside, MOST_THREADS) if count is None else count
        self._pool = ThreadPoolExecutor(count, "dbsam", initializer=_use_one_thread)
        # All threads start now: their setting also becomes the default of later threads, which is put back after it.
        started = threading.Barrier(count + 1)
        for _ in range(count):
            self._pool.submit(started.wait)
        started.wait()
        torch.set_num_threads(outside)

    def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function in one of the threads and wait for its result."""
        return self._pool.submit(function, *arguments).result()

    def map(self, function: Callable[..., Result], *arguments: Iterable[Any]) -> list[Result]:
        """Call a function for each of the arguments, in parallel, and wait for all results."""
        return list(self._pool.map(function, *arguments))


def _use_one_thread() -> None:
    torch.get_num_threads()  # A thread's first question or operator takes up the default, and would undo the setting.
    torch.set_num_threads(1)
