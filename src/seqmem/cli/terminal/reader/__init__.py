"""The screen of ``seqmem read``: views, layout of a page, keys and playback, and the terminal itself."""
