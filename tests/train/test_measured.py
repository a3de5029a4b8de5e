"""Losses and gradients that are looked at now and then: what fp16 leaves out is no fault."""

import math

import numpy as np
import torch
from torch import nn

from hpc_kit.ranks import Ranks
from hpc_kit.train import written
from hpc_kit.train.distributed import Group
from hpc_kit.train.measured import Measured
from hpc_kit.train.state import State


class Sizes:
    atoms_per_graph = edges_per_graph = np.ones(8, int)


def test_gradients_beyond_fp16_are_no_fault_and_not_in_the_mean():
    model = nn.Linear(1, 1)
    state = State(model, torch.optim.SGD(model.parameters()), torch.amp.GradScaler("cpu"), None)
    group = Group(Ranks(), torch.device("cpu"))
    measured = Measured(np.split(np.arange(8), 4), 1, state, group)
    measured.losses += torch.tensor([2.0, 4.0, 6.0, 8.0])
    measured.norms += torch.tensor([1.0, math.inf, math.nan, 3.0])
    state.progress.batch = 4
    measured.look(None, None)
    assert state.progress.losses == [2.0, 4.0, 6.0, 8.0]
    state.progress.spent.compute_s = 1.0
    record = written.epoch(state.progress, np.arange(8), Sizes, {}, 1e-3, group, "")
    assert (record["grad_norm"], record["train_loss"]) == (2.0, 2.5)
