"""The gradient at every timestep of any PyTorch model.

``recorder.Tap`` watches a model's recurrent modules during a forward and a backward pass; a module of ``readers`` knows
one kind of them, and computes what each timestep received. ``copied`` does it all on a float64 copy.
"""
