"""Memory fusion network (Zadeh et al., AAAI 2018) and its graph form (Zadeh et al., ACL 2018).

Published: one LSTM per modality; at every step an attention over the cells before and after it (MFN), or a graph of
all subsets of the modalities whose edges are weighed by learned efficacies (Graph-MFN), proposes what two gates write
into a memory; the last states and the memory are read out. Ours: equal parts of the utterance in place of aligned
words, one width for all modalities, zeros for an absent one.
"""

from __future__ import annotations

from itertools import chain, combinations
from typing import ClassVar

import torch
from torch import Tensor, nn

from .base import Batch, Fused, Head, HeadInputs
from .configs import GraphMfnConfig, MfnConfig
from .recurrent import AlignedModalities, LstmCell


def relu_mlp(dim: int, hidden: int, out: int, dropout: float) -> nn.Sequential:
    """Linear, ReLU, dropout, Linear."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, out))


def subsets(of: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All non-empty subsets, small ones first."""
    return list(chain.from_iterable(combinations(of, size) for size in range(1, len(of) + 1)))


class FusionGraph(nn.Module):
    """Dynamic fusion graph: every subset of two or more modalities is a node fed by its own proper subsets.

    Edges carry unbounded efficacies, a function of the single modalities; so do the edges into the result.
    """

    def __init__(self, count: int, dim: int, node: int) -> None:
        super().__init__()
        everything = tuple(range(count))
        self.nodes = [subset for subset in subsets(everything) if len(subset) > 1]
        width = {subset: dim if len(subset) == 1 else node for subset in subsets(everything)}
        self.make = nn.ModuleList(
            nn.Sequential(nn.Linear(sum(width[part] for part in subsets(subset)[:-1]), node), nn.Linear(node, node))
            for subset in self.nodes
        )
        edges = sum(len(subsets(subset)) - 1 for subset in self.nodes) + len(width)
        self.efficacy = nn.Sequential(nn.Linear(count * dim, node), nn.Linear(node, node), nn.Linear(node, edges))
        self.result = nn.Sequential(nn.Linear(sum(width.values()), node), nn.Linear(node, node))

    def forward(self, singles: list[Tensor]) -> Tensor:
        """Map M vectors (B, dim) to (B, node)."""
        weight = self.efficacy(torch.cat(singles, -1)).unsqueeze(-2)
        found: dict[tuple[int, ...], Tensor] = {(index,): x for index, x in enumerate(singles)}
        edge = 0

        def gathered(parts: list[tuple[int, ...]]) -> Tensor:
            nonlocal edge
            pieces = [found[part] * weight[..., edge + place] for place, part in enumerate(parts)]
            edge += len(parts)
            return torch.cat(pieces, -1)

        for subset, make in zip(self.nodes, self.make, strict=True):
            found[subset] = make(gathered(subsets(subset)[:-1]))
        return self.result(gathered(list(found)))  # type: ignore[no-any-return]


class MfnHead(Head):
    """Memory fusion network. The cells of an absent modality stay zero."""

    Config: ClassVar[type[MfnConfig]] = MfnConfig
    config: MfnConfig

    def __init__(self, inputs: HeadInputs, config: MfnConfig) -> None:
        super().__init__(inputs, config)
        count = len(inputs.modalities)
        self.width = count * config.hidden + config.memory
        self.aligned = AlignedModalities(inputs, config)
        self.lstm = nn.ModuleDict({m: LstmCell(config.dim, config.hidden) for m in inputs.modalities})
        seen = self.look(count, config)
        self.propose = relu_mlp(seen, config.hidden, config.memory, config.dropout)
        self.keep = relu_mlp(seen + config.memory, config.hidden, config.memory, config.dropout)
        self.write = relu_mlp(seen + config.memory, config.hidden, config.memory, config.dropout)
        self.out = nn.Sequential(nn.Linear(self.width, self.width), nn.ReLU(), nn.Dropout(config.dropout))
        self.classifier = nn.Linear(self.width, inputs.outputs)

    def look(self, count: int, config: MfnConfig) -> int:
        """Build what looks at the states of a step, and return the width of what it sees."""
        both = 2 * count * config.hidden
        self.attend = relu_mlp(both, config.hidden, both, config.dropout)
        return both

    def attended(self, before: list[tuple[Tensor, Tensor]], after: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Weigh the numbers of all cells, before and after the step, by a softmax over them."""
        both = torch.cat([state[1] for state in (*before, *after)], -1)
        return self.attend(both).softmax(-1) * both  # type: ignore[no-any-return]

    def remember(self, steps: list[Tensor], present: Tensor) -> Tensor:
        """Read M sequences (B, T, dim) and return the last states with the memory, (B, width)."""
        cells: list[LstmCell] = list(self.lstm.values())  # type: ignore[arg-type]
        states = [cell.start(x) for cell, x in zip(cells, steps, strict=True)]
        here = [present[..., index : index + 1].to(steps[0].dtype) for index in range(len(steps))]
        memory = steps[0].new_zeros(*steps[0].shape[:-2], self.config.memory)
        for step in zip(*(x.unbind(-2) for x in steps), strict=True):
            before = states
            moved = [cell(x, state) for cell, x, state in zip(cells, step, states, strict=True)]
            states = [(h * there, c * there) for (h, c), there in zip(moved, here, strict=True)]
            seen = self.attended(before, states)
            both = torch.cat([seen, memory], -1)
            memory = self.keep(both).sigmoid() * memory + self.write(both).sigmoid() * self.propose(seen).tanh()
        return torch.cat([*(state[0] for state in states), memory], -1)

    def fuse(self, batch: Batch) -> Fused:
        """Last states and memory through one ReLU layer, (B, width)."""
        steps, present = self.aligned(batch)
        return Fused(self.out(self.remember(steps, present)))

    def classify(self, vector: Tensor) -> Tensor:
        """(..., width) to (..., outputs)."""
        return self.classifier(vector)  # type: ignore[no-any-return]


class GraphMfnHead(MfnHead):
    """Memory fusion with a dynamic fusion graph in place of the attention over cells."""

    Config: ClassVar[type[MfnConfig]] = GraphMfnConfig
    config: GraphMfnConfig

    def look(self, count: int, config: MfnConfig) -> int:
        """Build one map of a modality's states per modality, and the graph."""
        assert isinstance(config, GraphMfnConfig)
        self.single = nn.ModuleList(nn.Linear(2 * config.hidden, config.hidden) for _ in range(count))
        self.graph = FusionGraph(count, config.hidden, config.node)
        return config.node

    def attended(self, before: list[tuple[Tensor, Tensor]], after: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Send the states before and after the step, per modality, through the graph."""
        singles = [
            layer(torch.cat([one[0], two[0]], -1)).relu()
            for layer, one, two in zip(self.single, before, after, strict=True)
        ]
        return self.graph(singles)  # type: ignore[no-any-return]
