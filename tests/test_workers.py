"""Sums over blocks on several threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from pyscf import lib

from pyscf_tracegrad.workers import sum_over_workers


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("n_blocks", [1, 2, 7])
def test_every_block_once(threads: int, n_blocks: int) -> None:
    names = set()

    def part(first: int, step: int) -> np.ndarray:
        names.add(threading.get_ident())
        total = np.zeros(n_blocks)
        total[first::step] += 1.0 + np.arange(first, n_blocks, step)
        return total

    with lib.with_omp_threads(threads):
        assert np.array_equal(sum_over_workers(part, n_blocks), 1.0 + np.arange(n_blocks))
    assert len(names) <= threads


def test_workers_run_beside_each_other_with_one_openmp_thread_each() -> None:
    both = threading.Barrier(2, timeout=300)
    inside: list[int] = []

    def part(*_: int) -> np.ndarray:
        both.wait()
        inside.append(lib.num_threads())
        return np.ones(1)

    with lib.with_omp_threads(2):
        assert sum_over_workers(part, 2) == pytest.approx(2.0)
        assert lib.num_threads() == 2
    assert inside == [1, 1]


def test_an_error_of_a_worker_is_that_of_the_caller() -> None:
    def part(first: int, _: int) -> np.ndarray:
        raise ValueError(f"block {first}")

    before = lib.num_threads()
    with lib.with_omp_threads(2), pytest.raises(ValueError, match="block"):
        sum_over_workers(part, 2)
    assert lib.num_threads() == before
