"""``seqmem read``: what is drawn of a sentence that models read, and who turns its pages."""
