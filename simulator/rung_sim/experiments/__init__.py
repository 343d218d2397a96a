"""The experiments that compare the policies, each one command: `python -m rung_sim.experiments NAME`."""
