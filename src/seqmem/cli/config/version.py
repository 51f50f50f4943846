"""The version, where looking it up among the installed packages would cost a sixth of ``seqmem --help``."""

VERSION = "0.2.0"
