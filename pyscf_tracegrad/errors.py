"""What this package raises on purpose. All are ValueErrors with one message that says what was wrong."""

from __future__ import annotations


class TracegradError(ValueError):
    """Base of the errors below: a guess cannot be made, and the message says why."""


class OutsideDomain(TracegradError):
    """A calculation that is not covered; the message is the reason."""


class BadInput(OutsideDomain):
    """Something that was asked for and cannot be; raised whether strict or not, because nothing else would do."""


class BadMolecule(BadInput):
    """A molecule that no guess can start from, minao neither."""


class UnsupportedBasis(OutsideDomain):
    """The molecule has an element or a shell that the model does not know; the message names it."""


class CheckpointError(TracegradError):
    """A weights file cannot be used; the message says why and what to do."""
