"""Equivariant parts of the network: torch and e3nn only, no PySCF, no files."""
