"""The library: the command line's verbs as functions, for notebooks and scripts. Module == function.

What they return shows itself: as HTML in a notebook, as text at a prompt. Nothing is written unless it is asked for.
"""
