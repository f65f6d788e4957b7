"""The network's threads: one for a small molecule, and nobody else's number changed."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from pyscf import lib

from pyscf_tracegrad.threads import network_threads

# The network alone: PySCF and numpy have thread pools of their own. As many threads as there are torch starts by itself
# on a machine of several cores; here it is told to, so that the processor does not matter.
ALONE = """
import os, sys
import numpy as np, torch
from pyscf import gto
from pyscf_tracegrad import pretrained, threads
from pyscf_tracegrad.reference import Reference

torch.set_num_threads(3)
mol = gto.M(atom="C 0 0 -0.53; O 0 0 0.67; H 0 0.94 -1.11; H 0 -0.94 -1.11", basis="def2-svp", verbose=0)
count = lambda: len(os.listdir("/proc/self/task"))
at_first = count()
model = pretrained.load_model()
graph = model.graph(mol)
matrices = np.random.default_rng(0).normal(scale=0.05, size=(1 + model.checkpoint.model.config.reference.steps, 38, 38))
matrices += matrices.swapaxes(1, 2)
reference = Reference(matrices[0], matrices[1:], np.eye(38))
pretrained.correction(model.checkpoint.model, graph, reference)
small = count()
threads._PAYS = 0
pretrained.correction(model.checkpoint.model, graph, reference)
print(small - at_first, count() - small, torch.get_num_threads())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the threads in /proc")
def test_a_small_molecule_starts_no_thread_pool() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", ALONE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    small, large, after = map(int, done.stdout.split())
    assert small == 0
    assert large >= 2  # so the measure does see a pool
    assert after == 3


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads(), lib.num_threads()
    torch.set_num_threads(3)
    lib.num_threads(3)
    yield
    torch.set_num_threads(before[0])
    lib.num_threads(before[1])


@pytest.mark.usefixtures("three_threads")
def test_numbers_are_restored_after_a_result_and_after_an_error() -> None:
    with network_threads(4):
        assert torch.get_num_threads() == 1
        with network_threads(4):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert (torch.get_num_threads(), lib.num_threads()) == (3, 3)
    with pytest.raises(ValueError, match="inside"), network_threads(4):
        raise ValueError("inside")
    assert (torch.get_num_threads(), lib.num_threads()) == (3, 3)
    with network_threads(1000):
        assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_other_python_threads_keep_their_number() -> None:
    """Those that have used torch before, and those that use it first while the network runs."""
    entered, asked = threading.Barrier(3, timeout=60), threading.Barrier(3, timeout=60)
    found: dict[str, list[int]] = {"old": [], "new": []}

    def ask(name: str) -> None:
        if name == "old":
            found[name].append(torch.get_num_threads())
        entered.wait()
        found[name].append(torch.get_num_threads())
        asked.wait()

    others = [threading.Thread(target=ask, args=(name,)) for name in found]
    for other in others:
        other.start()
    with network_threads(4):
        entered.wait()
        asked.wait()
    for other in others:
        other.join()
    assert found == {"old": [3, 3], "new": [3]}
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_overlapping_calls_of_several_threads_leave_each_its_number() -> None:
    """The first to enter leaves first."""
    both, first_left = threading.Barrier(2, timeout=60), threading.Event()
    inside: list[int] = []
    after: list[int] = []

    def call(first: bool) -> None:
        with network_threads(4):
            both.wait()
            if not first:
                assert first_left.wait(60)
            inside.append(torch.get_num_threads())
        after.append(torch.get_num_threads())
        if first:
            first_left.set()

    callers = [threading.Thread(target=call, args=(first,)) for first in (True, False)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert inside == [1, 1]
    assert after == [3, 3]
