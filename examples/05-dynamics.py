"""Single points along a trajectory of glycolaldehyde (8 atoms) from each start: `python examples/05-dynamics.py [FS]`.

Twelve frames, FS femtoseconds apart (2 if not given), of Langevin dynamics at 300 K with GFN2-xTB. Needs the extra
`data`. A few minutes on one core. The closer the frames, the better the last density is; with FS = 50 it is another
molecule's.
"""

from series import compare, each, options

from data.prepare import prepare
from data.settings import Source
from data.structure import Seed


def main() -> None:
    """Print the table."""
    parser = options(__doc__)
    parser.add_argument("fs", metavar="FS", nargs="?", type=float, default=2.0, help="femtoseconds between frames")
    interval = parser.parse_args().fs
    if not interval > 0:
        parser.error("FS must be above 0")
    source = Source(smiles=("OCC=O",), frames=12, interval=interval)
    frames = prepare(Seed("glycolaldehyde", smiles="OCC=O"), source)[1:]

    compare(f"Twelve frames of glycolaldehyde, {interval:g} fs apart, at 300 K", each(frames))


if __name__ == "__main__":
    main()
