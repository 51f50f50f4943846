"""Memory tasks. ``TASKS`` maps the NAME of ``conf/task/NAME.yaml`` to its class, FOLDER_NAME that of a subfolder."""

from .adding import Adding as Adding
from .anbn import Anbn as Anbn
from .associative_recall import AssociativeRecall as AssociativeRecall
from .base import Task as Task
from .cogscale import COGSCALE
from .compression import Compression as Compression
from .copy import Copy as Copy
from .cycle_navigation import CycleNavigation as CycleNavigation
from .delay import Delay as Delay
from .denoise import Denoise as Denoise
from .digits import Digits as Digits
from .dyck import Dyck as Dyck
from .even_pairs import EvenPairs as EvenPairs
from .first_symbol import FirstSymbol as FirstSymbol
from .flip_flop import FlipFlop as FlipFlop
from .fuzzy_recall import FuzzyRecall as FuzzyRecall
from .group import Group as Group
from .induction import Induction as Induction
from .memorization import Memorization as Memorization
from .modular import Modular as Modular
from .mqar import Mqar as Mqar
from .multiplication import Multiplication as Multiplication
from .nback import NBack as NBack
from .noiseless_memorization import NoiselessMemorization as NoiselessMemorization
from .noisy_recall import NoisyRecall as NoisyRecall
from .parity import Parity as Parity
from .phrases import Phrases as Phrases
from .pronoun import Pronoun as Pronoun
from .random_permutation import RandomPermutation as RandomPermutation
from .reber import Reber as Reber
from .reverse import Reverse as Reverse
from .selective_copy import SelectiveCopy as SelectiveCopy
from .sorting import Sorting as Sorting
from .subject import Subject as Subject
from .temporal_order import TemporalOrder as TemporalOrder
from .text import Text as Text
from .two_sequence import TwoSequence as TwoSequence
from .variable_copy import VariableCopy as VariableCopy

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        Adding,
        Anbn,
        AssociativeRecall,
        *COGSCALE,
        Compression,
        Copy,
        CycleNavigation,
        Delay,
        Denoise,
        Digits,
        Dyck,
        EvenPairs,
        FirstSymbol,
        FlipFlop,
        FuzzyRecall,
        Group,
        Induction,
        Memorization,
        Modular,
        Mqar,
        Multiplication,
        NBack,
        NoiselessMemorization,
        NoisyRecall,
        Parity,
        Phrases,
        Pronoun,
        RandomPermutation,
        Reber,
        Reverse,
        SelectiveCopy,
        Sorting,
        Subject,
        TemporalOrder,
        Text,
        TwoSequence,
        VariableCopy,
    )
}
