"""What a guess saves on a set of molecules: cycles, Fock builds, wall time, and when it fails."""
