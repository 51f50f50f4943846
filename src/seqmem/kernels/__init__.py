"""Native CPU kernels: optional, compiled ahead of time, loaded with ctypes. They link nothing of torch or Python.

``build`` compiles them, ``loading`` loads them, ``functions`` calls them. Importing this does nothing.
"""
