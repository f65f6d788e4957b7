"""Training and evaluation of models; run from a checkout, not part of the wheel."""
