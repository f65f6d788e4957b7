"""Can the guess be trusted: hundreds of small hard calculations, each from PySCF's own starts and from ours.

`geometries` and `cases` say what is calculated, `sets` adds structures of two packages; `runs` is one SCF, `pool` gives
each a process and a time limit, `report` compares. `python -m training.bench.survey --help`.
"""
