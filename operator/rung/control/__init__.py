"""The loop: observe, decide, re-check, act, status; and the swap executor."""
