"""Molecules per second and peak memory of training and inference by batch size, with the floor beside them.

    python -m training.bench.throughput [--config shipped.toml ...] [--batch 1 2 4 8 16 32] [--device cpu] [--out CSV]

No labels are needed: the molecules are straight alkanes with displaced atoms whose matrices are random numbers of the
right shapes. Time and memory of the network do not depend on the values, and no Fock matrix is built. Training is
forward, loss, backward, gradient clipping and AdamW on one batch again and again, without loader and running mean of
the weights; inference is the forward pass to blocks, without reference and diagonalisation. Each line has a process of
its own, so that its peak memory is its own: above what the imports take, on a GPU what torch has allocated. The floor
is the number of floating-point operations of the matrix products (torch's FlopCounterMode) over the rate of a 1024^3
float32 product in the same process: the time they would take at that rate, and all other work none.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import math
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pyscf import lib
from tqdm import tqdm

from training.bench.tables import markdown
from training.command import command, make_parser, positive, worker_pool
from training.rows import append_rows, read_rows

if TYPE_CHECKING:  # torch is loaded by the work, not by the command's help
    import torch

    from pyscf_tracegrad.model import FockModel
    from training.config import RunConfig

Task = TypeVar("Task")
Measured = TypeVar("Measured")
Mode = Literal["training", "inference"]

MODES: tuple[Mode, ...] = ("training", "inference")
CONFIGS = Path(__file__).parents[1] / "configs"
ELEMENTS = (1, 6, 7, 8, 9)
MATRIX = 1024  # rows of the matrices that the rate is measured with


@dataclass(frozen=True)
class Job:
    """One measurement. carbons: n of the molecules C_n H_2n+2. seconds: about how long to measure."""

    config: str
    mode: Mode
    device: str
    threads: int
    carbons: int
    batch: int
    seconds: float


@dataclass(frozen=True)
class Throughput:
    """One measurement. settings: digest of the model's settings, so that a changed config is measured again.

    step: seconds of one batch, median. memory: peak bytes above the imports, with model and batch. operations: floating
    point, of one batch. rate: operations per second of a large matrix product. error: why there are no figures.
    """

    config: str
    settings: str
    backbone: str
    parameters: int
    mode: str
    device: str
    threads: int
    n_atoms: int
    batch: int
    step: float = math.nan
    memory: float = math.nan
    operations: float = math.nan
    rate: float = math.nan
    error: str = ""

    @property
    def floor(self) -> float:
        """Seconds that the matrix products of one batch would take at the full rate."""
        return self.operations / self.rate

    @property
    def key(self) -> tuple[str, ...]:
        """What makes it another measurement."""
        return (self.settings, self.mode, self.device, str(self.threads), str(self.n_atoms), str(self.batch))


def find_config(name: str) -> Path:
    """A config file by its path, or by its name in `training/configs`."""
    return Path(name) if Path(name).exists() else CONFIGS / name


def training_step(model: FockModel, batch: Any, config: RunConfig) -> Callable[[], None]:
    """One update of the weights on a batch, as the training makes it."""
    import torch

    from training.losses import total_loss

    schedule = config.schedule
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-6, betas=schedule.betas, weight_decay=schedule.weight_decay, fused=True
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        total_loss(model, batch, config.loss)[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        optimizer.step()

    return step


def inference_step(model: FockModel, batch: Any) -> Callable[[], None]:
    """One forward pass to the blocks of dF. The model is frozen, without which operations cannot be counted."""
    import torch

    from training.dataset import model_input

    inputs = model_input(batch)
    model.requires_grad_(False)

    def step() -> None:
        with torch.inference_mode():
            model(inputs)

    return step


def median_seconds(step: Callable[[], object], device: torch.device, seconds: float, least: int = 3) -> float:
    """Median wall time of a step, repeated for about so many seconds; what it left on the GPU is waited for."""
    import torch

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    times: list[float] = []
    wait()
    while len(times) < least or sum(times) < seconds:
        start = time.perf_counter()
        step()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def product_rate(device: torch.device, seconds: float) -> float:
    """Floating-point operations per second of a product of two 1024 x 1024 float32 matrices."""
    import torch

    a, b = (torch.rand(MATRIX, MATRIX, device=device) for _ in range(2))
    a @ b
    return 2.0 * MATRIX**3 / median_seconds(lambda: a @ b, device, seconds, least=10)


def count_operations(step: Callable[[], None]) -> float:
    """Floating-point operations of the matrix products of a step, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def memory_bytes(peak: bool) -> int:
    """Memory of this process now, or at its peak.

    Linux: from /proc, since `ru_maxrss` of a new process starts at the peak of the one that started it. Elsewhere the
    peak so far stands for both.
    """
    status = Path("/proc/self/status")
    if status.exists():
        name = "VmHWM:" if peak else "VmRSS:"
        return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name))
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def describe(job: Job) -> Throughput:
    """The row of a job, without figures yet. Raises ValueError for a config that cannot be read."""
    from pyscf_tracegrad.model import FockModel
    from pyscf_tracegrad.orbitals import ShellTable
    from training.bench.synthetic import BASIS
    from training.config import read_config

    config = read_config(find_config(job.config)).model
    model = FockModel(config, ShellTable.from_basis(BASIS, ELEMENTS).degrees, len(ELEMENTS))
    return Throughput(
        config=Path(job.config).stem,
        settings=hashlib.sha256(repr(config).encode()).hexdigest()[:8],
        backbone=config.backbone,
        parameters=sum(p.numel() for p in model.parameters()),
        mode=job.mode,
        device=job.device,
        threads=job.threads,
        n_atoms=3 * job.carbons + 2,
        batch=job.batch,
    )


def measure(job: Job) -> Throughput:
    """Run one job in this process: its memory is right in a fresh one only. The model is as random as it was made."""
    import torch
    from torch_geometric.data import Batch

    from pyscf_tracegrad.model import FockModel
    from pyscf_tracegrad.orbitals import ShellTable
    from training.bench.synthetic import BASIS, synthetic_data
    from training.config import read_config

    config, device = read_config(find_config(job.config)), torch.device(job.device)
    before = memory_bytes(peak=False)
    table = ShellTable.from_basis(BASIS, ELEMENTS)
    torch.manual_seed(0)
    model = FockModel(config.model, table.degrees, len(ELEMENTS)).to(device)
    batch = Batch.from_data_list(synthetic_data(config.model, table, job.carbons, job.batch)).to(device)
    training = job.mode == "training"
    step = training_step(model.train(), batch, config) if training else inference_step(model.eval(), batch)
    for _ in range(2):  # the first steps load kernels and fill caches
        step()
    seconds = median_seconds(step, device, job.seconds)
    on_gpu = device.type == "cuda"
    memory = torch.cuda.max_memory_allocated(device) if on_gpu else memory_bytes(peak=True) - before
    operations, rate = count_operations(step), product_rate(device, job.seconds / 4)
    return dataclasses.replace(describe(job), step=seconds, memory=memory, operations=operations, rate=rate)


def _start(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    lib.num_threads(threads)


def in_own_process(function: Callable[[Task], Measured], task: Task, threads: int) -> Measured:
    """The result of a function in a fresh process. Raises RuntimeError where the process is killed."""
    context = multiprocessing.get_context("spawn")
    with worker_pool(1, context, _start, (threads,)) as pool:
        try:
            return pool.submit(function, task).result()
        except BrokenProcessPool:
            raise RuntimeError("the process was killed; most likely the memory was not enough") from None


def run(job: Job) -> Throughput:
    """Row of a job, in a process of its own; what goes wrong is a row with the message."""
    try:
        return in_own_process(measure, job, job.threads)
    except (RuntimeError, MemoryError) as error:  # torch says RuntimeError where the memory of a GPU is not enough
        return dataclasses.replace(describe(job), error=" ".join(f"{error}".split())[:200])


def summary(rows: Sequence[Throughput]) -> str:
    """Markdown table, one line per measurement, and one on the rates it rests on."""
    lines = []
    for r in rows:
        start = [r.config, r.backbone, f"{r.parameters / 1e6:.1f}", r.mode, f"{r.device} x {r.threads}", str(r.n_atoms)]
        start.append(str(r.batch))
        if r.error:
            lines.append([*start, r.error, *["-"] * 6])
            continue
        each = [r.batch / r.step, 1e3 * r.step / r.batch, r.memory / 1e6, 1e-9 * r.operations / r.batch]
        cells = [f"{value:.4g}" for value in (*each, 1e3 * r.floor / r.batch)]
        lines.append([*start, *cells, f"{r.step / r.floor:.1f}" if r.operations else "-"])
    header = ["config", "backbone", "10^6 parameters", "mode", "device x threads", "atoms", "batch", "molecules/s"]
    header += ["ms/molecule", "peak MB", "10^9 operations/molecule", "floor ms/molecule", "time/floor"]
    rates = [r.rate / 1e9 for r in rows if not r.error]
    note = f"Floor: at {min(rates):.0f} to {max(rates):.0f} 10^9 operations a second, measured beside." if rates else ""
    return f"{markdown(header, lines)}\n\nAlkanes with random matrices; no Fock matrix is built. {note}"


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("training.bench.throughput", __doc__)
    parser.add_argument(
        "--config", nargs="+", default=["shipped.toml"], help="TOML files; names in training/configs do"
    )
    parser.add_argument("--batch", nargs="+", type=positive, default=[1, 2, 4, 8, 16, 32], help="molecules a step")
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES, help="what is timed")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where the network runs")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads")
    parser.add_argument(
        "--carbons", type=positive, default=5, help="n of the molecules C_n H_2n+2, which have 3n+2 atoms"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="how long a measurement takes, at least three steps")
    parser.add_argument("--out", type=Path, help="CSV of the rows; an existing one is continued")
    return parser


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    a = options().parse_args(arguments)
    import torch

    if a.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no GPU; give --device cpu")
    rows = read_rows(a.out, Throughput)
    done = {r.key for r in rows}
    jobs = [
        Job(config, mode, a.device, a.threads, a.carbons, batch, a.seconds)
        for config in a.config
        for mode in a.modes
        for batch in a.batch
    ]
    for job in tqdm([job for job in jobs if describe(job).key not in done], unit="run"):
        rows.append(run(job))
        if a.out:
            append_rows(a.out, rows[-1:])
    print(summary(rows))


if __name__ == "__main__":
    sys.exit(main())
