"""A better guess for molecules of your own: label them, fine-tune the shipped model, count cycles before and after.

    python examples/02-finetune.py [SET.toml] [--others LABELS.h5] [--alone] [--workers 2] [--out runs/finetune]

SET.toml names your XYZ files (`finetune/mine.toml`: one molecule and thirty snapshots of it at 300 K). Each step is a
command that is printed before it runs; every one goes on where it stopped when this is run again. About fifteen minutes
on two cores. Other molecules (`finetune/others.toml`, or --others) are trained on along with yours, and held-out ones
of them tell what is forgotten; --alone trains on yours only. Cycles are those without refinement, with fitted integrals
and a coarse grid, of held-out molecules.
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent


def run(module: str, *arguments: object) -> None:
    """Run a module of this checkout as a command; its output goes to the terminal."""
    words = [str(a) for a in arguments]
    print(f"\n$ python -m {module} {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", module, *words], cwd=ROOT, check=True)


def compare(labels: Path, tuned: Path, out: Path, workers: int) -> None:
    """Errors and cycles of both models and of F_ref on the validation molecules of a label file."""
    common = ("--labels", labels, "--scf", "fitted", "--workers", workers)
    run("training.evaluate", *common, "--routes", "network", "reference", "--out", out.with_suffix(".before.csv"))
    run("training.evaluate", *common, "--routes", "network", "--model", tuned, "--out", out.with_suffix(".after.csv"))


def main() -> None:
    """The whole way."""
    parser = argparse.ArgumentParser(
        prog="python examples/02-finetune.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("set", nargs="?", type=Path, default=HERE / "finetune" / "mine.toml", help="set file (TOML)")
    parser.add_argument("--others", type=Path, help="label file of other molecules, training and validation")
    parser.add_argument("--alone", action="store_true", help="train on your molecules only")
    parser.add_argument("--workers", type=int, default=2, help="processes for labels and SCFs (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/finetune"), help="folder (%(default)s)")
    a = parser.parse_args()
    out = a.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    mine, others = out / "mine.h5", a.others and a.others.absolute()

    run("data.generate", a.set.absolute(), "-o", mine, "--workers", a.workers)
    if others is None:
        others = out / "others.h5"
        run("data.generate", HERE.absolute() / "finetune" / "others.toml", "-o", others, "--workers", a.workers)

    config = ROOT / "training" / "configs" / "finetune.toml"
    run_folder = out / ("alone" if a.alone else "run")
    resume = ["--resume"] if (run_folder / "state.pt").exists() else []
    labels = [mine] if a.alone else [mine, others]
    named = (f"mine={mine}", f"others={others}")
    run("training.train", config, "--labels", *labels, "--validation", *named, "--out", run_folder, *resume)

    tuned = run_folder / "model.pt"
    print("\n== your molecules: the shipped model, then the fine-tuned one")
    compare(mine, tuned, run_folder / "mine", a.workers)
    print("\n== other molecules: what is forgotten")
    compare(others, tuned, run_folder / "others", a.workers)
    print(f"\nTo use it: tracegrad_guess(mf, model=pyscf_tracegrad.load_model({str(tuned)!r}))")


if __name__ == "__main__":
    main()
