"""Measure the guess where it was not trained: other molecules, levels of theory, SCF classes, and wall time."""
