"""What a set of runs says together: collected, compared over seeds, as tables and as a page.

``collect`` reads the runs, ``statistics`` counts and compares, ``tables`` and ``page`` write. On top of ``runs`` alone.
"""
