"""What goes wrong in porting and is the user's to mend; the message says how."""

from __future__ import annotations


class PortingError(Exception):
    """A stage, a file or a name that is not as it should be; `rung-port` prints the message and ends with status 1."""


class StoreError(PortingError):
    """The store of stages can't be used (the disk is full, S3 holds something else): nothing is known of the trial."""
