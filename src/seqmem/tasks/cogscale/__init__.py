"""The tasks of CogScale, one a module, and what they share (``base``)."""

from .base import CogScale as CogScale
from .simple_copy import SimpleCopy as SimpleCopy

COGSCALE: tuple[type[CogScale], ...] = (SimpleCopy,)
