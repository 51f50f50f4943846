"""Published results, and what repeating them gives. No torch, no Hydra: the command line reads files, starts runs."""

from .comparison import Comparison as Comparison
from .comparison import OrderComparison as OrderComparison
from .comparison import compared as compared
from .comparison import ordered as ordered
from .definition import Paper as Paper
from .definition import Published as Published
from .definition import Row as Row
from .definition import paper_of as paper_of
