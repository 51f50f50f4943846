"""Many runs together: read and grouped, compared over seeds, written as tables and as a page with figures.

``collect`` reads the runs, ``statistics`` counts and compares, ``tables`` and ``page`` write. No torch.
"""
