"""A job without a collector in it, for test_collect.py; ends with the code it is given."""

from __future__ import annotations

import sys

import torch
from torch import nn

model = nn.Linear(8, 8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(12):
    model(torch.randn(4, 8)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
sys.exit(int(sys.argv[1]))
