"""What each head is, what of it is published and what is ours, and its settings. Imports no torch."""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from ..registry import find, names
from . import configs


@dataclass(frozen=True)
class HeadEntry:
    """One head of ours."""

    config: type[Any]
    """Its settings."""
    what: str
    """What it is, in a line."""
    published: str
    """What follows a paper or its released code."""
    ours: str
    """What is our reconstruction or choice."""


@dataclass(frozen=True)
class Setting:
    """One setting of a head."""

    name: str
    kind: str
    """`int`, `float`, `bool` or `str`."""
    default: Any
    meaning: str


COST_MS: dict[str, float] = {
    "drkf": 0.50, "fdrl": 0.85, "linear": 0.004, "mlp": 0.009, "concat": 0.04, "late": 0.06, "gated": 0.05,
    "misa": 0.47, "mult": 1.2, "attention": 0.08, "tfn": 0.16, "lmf": 0.40, "ef-lstm": 0.10, "mfn": 0.37,
    "graph-mfn": 0.53,
}  # fmt: skip
"""Milliseconds of one CPU thread for an utterance in training (loss and gradient): three modalities of 8 steps x 32
numbers, batches of 64, default settings, the best of 8 steps. What a head costs beside another; long utterances of wide
features cost every head more."""

CATALOG: dict[str, HeadEntry] = {
    "drkf": HeadEntry(
        configs.DrkfConfig,
        "DRKF: self-attention fusion, emotion discrimination, and losses on each modality's representation",
        "Loss terms, their weights, the residual augmentation cascade, the fusion sequence and the shuffled pairs, "
        "from the released training script of arXiv 2508.01644 (its text was not available).",
        "By default fusion over one vector per modality, weighed by an agreement that emotion discrimination learns "
        "over all pairs of a batch, with the terms on the representations off (`fusion=steps` is the script's way). "
        "Trainable adapters in place of fine-tuned encoders; the sizes; everything about a third modality; in the "
        "corrected variant masks, learned CLS and SEP, modality embeddings, projected augmented views, two-way "
        "InfoNCE, sampled pairs, a true KL and supervised unimodal classifiers. "
        "`variant=faithful` takes the last group back.",
    ),
    "fdrl": HeadEntry(
        configs.FdrlConfig,
        "FDRL-style reconstruction: shared and private vectors with class-wise alignment, disparity and predictor",
        "The abstract of arXiv 2312.13567: shared and private encoders, each modality in both; alignment in the shared "
        "space, disparity in the private ones, a predictor that keeps the labels in their outputs.",
        "Every equation, width and weight: a reconstruction, not a reproduction. Alignment by label-conditional MMD, "
        "disparity by class-conditional CKA, fusion by one attention layer, all after the nearest published relatives.",
    ),
    "linear": HeadEntry(
        configs.LinearConfig,
        "Linear probe on masked means; unimodal with --modalities",
        "The usual probe.",
        "Standardised means; stacked layers side by side; zeros for an absent modality.",
    ),
    "mlp": HeadEntry(
        configs.MlpConfig,
        "Masked means side by side through hidden layers",
        "The usual baseline.",
        "LayerNorm in the hidden layers; the sizes.",
    ),
    "concat": HeadEntry(
        configs.ConcatConfig,
        "Early fusion: a projection and pooling per modality, concatenation, one hidden layer",
        "The usual baseline.",
        "The sizes; noise and modality dropout as in the other heads.",
    ),
    "late": HeadEntry(
        configs.LateConfig,
        "Late fusion: a classifier per modality, outputs averaged with learned weights",
        "The usual baseline.",
        "The weights are shared out over the modalities an utterance has.",
    ),
    "gated": HeadEntry(
        configs.GatedConfig,
        "Gated multimodal unit: a gate weighs the modalities of each utterance",
        "Arevalo et al. 2017: tanh of each modality under a learned gate.",
        "A softmax gate over the modalities present, for any number of them.",
    ),
    "misa": HeadEntry(
        configs.MisaConfig,
        "MISA: modality-invariant and -specific vectors with reconstruction",
        "Hazarika et al. 2020: subspace layers, the three losses and their weights, the fusion.",
        "A transformer layer where MISA runs LSTMs over audio and video; masks for absent modalities.",
    ),
    "mult": HeadEntry(
        configs.MultConfig,
        "Cross-modal transformer in the shape of MulT",
        "Tsai et al. 2019: directed cross-modal attention between all pairs, self-attention on the joined streams.",
        "Masked means where MulT reads the last step, linear projections where it convolves; "
        "fewer layers, wider streams.",
    ),
    "attention": HeadEntry(
        configs.AttentionConfig,
        "Attention fusion, MERBench's default: a weighted sum of the modalities' vectors",
        "Lian et al. 2024 (MERBench): three-layer encoders, weights from the concatenation, without a softmax.",
        "An adapter before each encoder; an absent modality has no part in the sum.",
    ),
    "tfn": HeadEntry(
        configs.TfnConfig,
        "Tensor fusion: the outer product of the modalities' vectors",
        "Zadeh et al. 2017: outer product of vectors with a 1 before each, two ReLU layers.",
        "Adapters and means in place of the subnetworks; no bound on a number that is predicted.",
    ),
    "lmf": HeadEntry(
        configs.LmfConfig,
        "Low-rank fusion: tensor fusion in a few factors per modality",
        "Liu et al. 2018: low-rank factors, a learned mix of the ranks.",
        "Adapters and means in place of the subnetworks; a linear classifier after the product.",
    ),
    "ef-lstm": HeadEntry(
        configs.EfLstmConfig,
        "Early fusion by one LSTM over the modalities side by side",
        "As in MMSA: LSTM, one ReLU layer, dropout.",
        "Equal parts of the utterance in place of aligned words; adapters in place of batch norm.",
    ),
    "mfn": HeadEntry(
        configs.MfnConfig,
        "Memory fusion network: an LSTM per modality, attention over their cells, a gated memory",
        "Zadeh et al. 2018: the attention over cells before and after a step, both gates, the read-out.",
        "Equal parts of the utterance in place of aligned words; one width for all modalities.",
    ),
    "graph-mfn": HeadEntry(
        configs.GraphMfnConfig,
        "Memory fusion with a dynamic fusion graph over all subsets of the modalities",
        "Zadeh et al. 2018 (CMU-MOSEI): nodes for all subsets, efficacies, both gates, the read-out.",
        "Equal parts of the utterance in place of aligned words; one width for all modalities.",
    ),
}


def known() -> list[str]:
    """Names of all heads, ours first, then those of plug-ins."""
    return sorted(
        names("head"), key=lambda name: (name not in CATALOG, list(CATALOG).index(name) if name in CATALOG else 0)
    )


def config_of(name: str) -> type[Any]:
    """Config class of a head by name or `module:Attr` path; a head that is not ours is imported for it.

    Raises
    ------
    MerError
        If nothing has that name.
    """
    entry = CATALOG.get(name)
    config: type[Any] = entry.config if entry else find("head", name).Config
    return config


def recipe_of(config: type[Any]) -> dict[str, Any]:
    """Settings of `[train]` that a head has defaults of its own for; found on validation (docs/results.md)."""
    return dict(getattr(config, "recipe", {}))


def settings(config: type[Any]) -> list[Setting]:
    """Settings of a config dataclass; meanings are the docstrings beneath its fields and its bases' fields."""
    meanings: dict[str, str] = {}
    for base in reversed(config.__mro__[:-1]):
        meanings.update(_field_docs(base))
    made = config()
    return [
        Setting(
            field.name,
            getattr(field.type, "__name__", str(field.type)),
            getattr(made, field.name),
            meanings.get(field.name, ""),
        )
        for field in fields(config)
    ]


def _field_docs(config: type[Any]) -> Iterator[tuple[str, str]]:
    tree = ast.parse(inspect.cleandoc(inspect.getsource(config)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    for field, text in itertools.pairwise(body):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr)):
            continue
        if isinstance(text.value, ast.Constant) and isinstance(text.value.value, str):
            yield field.target.id, inspect.cleandoc(text.value.value).replace("\n", " ")
