"""The words and templates of task=pronoun. No torch: ``spaces`` counts its sentences with them."""

HE = "my brother|her uncle|our father|your nephew|my grandfather|her husband|our son|your grandson".split("|")
SHE = "my sister|his aunt|our mother|your niece|my grandmother|his wife|our daughter|your granddaughter".split("|")

# A slot is a list of words, one of which is drawn. A template is a list of slots.
OPEN = {
    "NOUN": "house garden river dog cat train bridge city window letter market island".split(),
    "NOUN2": "table door lamp clock road field tower kitchen station boat forest hill".split(),
    "ADJ": "old small quiet red broken heavy bright empty narrow strange cold green".split(),
    "IS": "was seemed looked became felt stayed".split(),
    "DID": "slept waited moved stopped sang burned shook vanished fell returned".split(),
    "NEAR": "near behind beside under above beyond".split(),
    "THE": "the our every another".split(),
    "THEN": "and but so because while until although when".split(),
    "TOLD": "told warned reminded promised assured convinced".split(),
    "SAID": "said thought knew hoped feared dreamed".split(),
    "TIME": "yesterday again today tonight once sometimes".split(),
    "LAST": "last this one every".split(),
    "WEEK": "week summer morning night evening winter".split(),
}
# Each clause ends with the conjunction that joins it to the next one, so any number of clauses reads as English.
CLAUSES = (
    "the NOUN DID THEN",
    "the NOUN IS ADJ THEN",
    "THE ADJ NOUN DID THEN",
    "the NOUN DID TIME THEN",
    "the ADJ NOUN IS ADJ THEN",
    "THE NOUN DID LAST WEEK THEN",
    "the NOUN NEAR the NOUN2 DID THEN",
    "the NOUN NEAR THE NOUN2 IS ADJ THEN",
)
# Adverbial phrases of every length, to fill the remaining length exactly.
PHRASES = (
    "TIME",
    "LAST WEEK",
    "NEAR the NOUN2",
    "NEAR THE ADJ NOUN2",
    "NEAR the NOUN2 LAST WEEK",
    "NEAR the ADJ NOUN2 LAST WEEK",
    "TIME NEAR the ADJ NOUN2 LAST WEEK",
)

SHORTEST, *_, LONGEST = sorted(len(clause.split()) for clause in CLAUSES)


def phrases(count: int) -> str:
    """Adverbial phrases with ``count`` words in total, longest phrases first."""
    longest, rest = divmod(count, len(PHRASES))
    return " ".join([PHRASES[-1]] * longest + ([PHRASES[rest - 1]] if rest else []))
