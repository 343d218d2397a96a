"""Every policy, as a pure function of a snapshot and a memory."""
