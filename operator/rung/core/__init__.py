"""The thinking: pure functions of a snapshot and a memory. No I/O, no clock, no threads."""
