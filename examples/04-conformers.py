"""Single points of conformers of ethylene glycol (10 atoms) from each start: `python examples/04-conformers.py`.

Eight embeddings by RDKit, relaxed with GFN2-xTB, those of the same energy once. Needs the extra `data`. A few minutes
on one core. The last density is that of another conformer here.
"""

from series import compare, each, options

from data.prepare import prepare
from data.settings import Source
from data.structure import Seed
from data.xtb import energy

SMILES = "OCCO"


def main() -> None:
    """Print the table."""
    options(__doc__).parse_args()
    source = Source(smiles=(SMILES,))
    found = [prepare(Seed(f"conformer{k}", smiles=SMILES), source)[0] for k in range(8)]
    conformers = list({round(energy(structure), 4): structure for structure in found}.values())

    compare(f"{len(conformers)} conformers of ethylene glycol", each(conformers))


if __name__ == "__main__":
    main()
