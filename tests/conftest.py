"""Settings of every test: one thread, so that numbers do not depend on the machine's cores."""

import torch

torch.set_num_threads(1)
