"""The main job on one machine: cluster, versions, operator, trace and report."""
