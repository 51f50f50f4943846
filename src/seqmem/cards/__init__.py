"""Memory cards: what a battery of tasks says of one cell, as a page and as numbers that another machine can check.

``content`` makes a card's numbers of its runs, ``differences`` compares two, ``page`` writes it. No torch.
"""
