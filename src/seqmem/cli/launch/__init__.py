"""Executes runs: one run, the jobs of a sweep, and the launchers local, slurm and ray. No torch at import."""
