"""One forward pass of a run's models over features that were made just now."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from mer.cache import FeatureBlock

from ..training.batches import DialogueBatch, dialogues_of
from ..training.model import DialogueLayout, probabilities
from ..training.run_folder import LoadedModel, Run
from ..training.shared import WINDOW_TURNS
from ..training.tensors import Flat


def flat_of(run: Run, block: FeatureBlock, modality: str, pooling: Mapping[str, int]) -> Flat:
    """Features of all clips, in the form training gathers from."""
    some = np.array([bool(block.valid[a:b].any()) for a, b in pairwise(block.offsets)])
    lengths = np.where(some, np.diff(block.offsets), 0).astype(np.int64)
    return Flat.of(block, lengths, run.recipe.steps(modality), pooling.get(modality, 1), torch.device("cpu"))


def outputs_of(
    run: Run, member: LoadedModel, flats: Mapping[str, Flat], present: Mapping[str, npt.NDArray[np.bool_]]
) -> npt.NDArray[np.float64]:
    """Probabilities of one model, shape (clips, outputs); the training prior where a clip has nothing.

    `present`, shape (clips,) per modality, may leave out what a clip has, to see what the rest says alone.
    """
    some = np.any(np.stack(list(present.values())), axis=0)
    outputs = np.repeat(member.prior[None].astype(np.float64), len(some), axis=0)
    if not some.any():
        return outputs
    rows = torch.from_numpy(np.flatnonzero(some))
    values, valid, there = {}, {}, {}
    for modality, flat in flats.items():
        longest = int(flat.lengths[rows].max())
        most = run.recipe.steps(modality) or longest
        steps = max(1, min(longest, most))
        given = torch.from_numpy(present[modality])[rows]
        gathered, mask = flat.gather(rows, steps, member.normalisers[modality])
        values[modality] = gathered.masked_fill_(~given[:, None, None], 0.0)
        valid[modality] = mask & given[:, None]
        there[modality] = (flat.lengths[rows] > 0) & given
    layout = None
    if run.facts["context"] != "none":
        turns = np.arange(len(rows))
        windows = dialogues_of(turns, ["clips"] * len(rows), turns, WINDOW_TURNS)
        layout = DialogueLayout.of(DialogueBatch.of(windows), torch.device("cpu"))
    with torch.inference_mode():
        raw, _ = member.model((values, valid, there, torch.zeros(len(rows))), layout)
    outputs[some] = probabilities(run.kind, raw).numpy()
    return outputs
