"""Where the jobs of a sweep run: on this machine's cores (local), on Slurm, on Ray. No torch at import."""
