"""The tasks of CogScale, one a module, and what they share (``base``)."""

from .adding_problem import AddingProblem as AddingProblem
from .associative_recall import AssociativeRecall as AssociativeRecall
from .base import CogScale as CogScale
from .bracket_matching import BracketMatching as BracketMatching
from .chaotic_forecasting import ChaoticForecasting as ChaoticForecasting
from .continuous_pattern_completion import ContinuousPatternCompletion as ContinuousPatternCompletion
from .continuous_postcasting import ContinuousPostcasting as ContinuousPostcasting
from .cross_situation import CrossSituation as CrossSituation
from .discrete_pattern_completion import DiscretePatternCompletion as DiscretePatternCompletion
from .discrete_postcasting import DiscretePostcasting as DiscretePostcasting
from .induction_heads import InductionHeads as InductionHeads
from .selective_copy import SelectiveCopy as SelectiveCopy
from .simple_copy import SimpleCopy as SimpleCopy
from .sinus_forecasting import SinusForecasting as SinusForecasting
from .sorting_problem import SortingProblem as SortingProblem

COGSCALE: tuple[type[CogScale], ...] = (
    AddingProblem,
    AssociativeRecall,
    BracketMatching,
    ChaoticForecasting,
    ContinuousPatternCompletion,
    ContinuousPostcasting,
    CrossSituation,
    DiscretePatternCompletion,
    DiscretePostcasting,
    InductionHeads,
    SelectiveCopy,
    SimpleCopy,
    SinusForecasting,
    SortingProblem,
)
