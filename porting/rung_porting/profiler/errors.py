"""What ends a measurement without a number."""

from __future__ import annotations


class ProfileError(RuntimeError):
    """A version that can't be profiled; the message says which and why. No number is reported for it."""


class ClientBoundError(ProfileError):
    """The client, not the server, was the limit."""
