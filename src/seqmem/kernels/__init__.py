"""Native CPU kernels: optional, compiled ahead of time, loaded with ctypes. They do not link against torch or Python.

``build`` compiles them, ``loading`` loads them, ``functions`` calls them. Importing this package has no effect.
"""
