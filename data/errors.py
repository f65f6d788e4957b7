"""What goes wrong on the way to a label, by what the caller does about it."""

from __future__ import annotations


class SetFileError(ValueError):
    """A set file, or something that it names, cannot be used; nothing was started."""


class MoleculeError(ValueError):
    """One molecule cannot be labelled; the others go on. The message is its recorded reason."""


class JournalError(RuntimeError):
    """Results cannot be kept (full disk, another run's journal); what was kept before is safe."""
