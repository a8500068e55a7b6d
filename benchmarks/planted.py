"""Heads on planted data: where does a head, or one of its terms, act, and what does each term weigh in the gradient?

    python benchmarks/planted.py table --heads concat drkf fdrl --sets xor conflict agree --seeds 3
    python benchmarks/planted.py terms --head drkf --sets conflict agree       every term switched off in turn
    python benchmarks/planted.py gradients --head drkf --sets conflict         each term's gradient beside the task's
    python benchmarks/planted.py parts --head fdrl                             what shared and private vectors hold
    python benchmarks/planted.py missing --heads concat drkf                   modalities missing at training and test

The sets are described in `planted_sets.py`. Training is that of `mer train` (AdamW, rate 3e-4 with warm-up and cosine,
clip 1, batches of 64, every dimension normalised on the training rows, the epoch chosen on validation), 25 epochs. The
test has 3,000 utterances, so that one accuracy is known to within 0.9 points; ± is the spread over seeds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from planted_sets import MODALITIES, SETS, SIZES, Planted, make_set
from torch import Tensor

from mer.pipeline.training.engine import rate_at
from mer.stages.heads.base import Batch, Head, HeadInputs, ModalityShape
from mer.stages.heads.losses import prediction_loss
from mer.stages.registry import find

LR, WEIGHT_DECAY, WARMUP, BATCH = 3e-4, 0.01, 0.05, 64
TERMS = {
    "drkf": ("ed", "intra", "cross", "mse", "kl", "unimodal"),
    "fdrl": ("predict_weight", "align_weight", "disparity_weight"),
    "late": ("unimodal",),
    "misa": ("similarity", "difference", "reconstruction"),
}


@dataclass
class Outcome:
    """One trained head."""

    head: Head
    data: Tensors
    test: float
    """Test accuracy of the chosen epoch, per cent."""
    epoch: int
    seconds: float
    gradients: list[dict[str, float]] = field(default_factory=list)
    """Per epoch: norm of each term's gradient in the modalities' encoders."""


class Tensors:
    """A set as a head is given it: normalised, averaged over the steps that its pooling asks for."""

    def __init__(self, planted: Planted, pooling: Mapping[str, int], missing: float = 0.0, seed: int = 0) -> None:
        train = planted.rows("train")
        self.labels = torch.from_numpy(planted.labels)
        self.values: dict[str, Tensor] = {}
        rng = np.random.default_rng(seed)
        for modality, array in planted.values.items():
            x = torch.from_numpy(array)
            flat = x[train].flatten(0, 1)
            x = (x - flat.mean(0)) / flat.std(0)
            each = min(pooling.get(modality, 1), x.shape[1])
            self.values[modality] = x.unflatten(1, (-1, each)).mean(2)
        here = rng.random((len(planted.labels), len(self.values))) >= missing
        here[~here.any(1), 0] = True  # never all of an utterance
        self.present = {m: torch.from_numpy(here[:, i]) for i, m in enumerate(self.values)}

    def batch(self, rows: Tensor, everything: bool = False) -> Batch:
        """Gather rows; with `everything`, no modality is missing."""
        values = {m: x[rows] for m, x in self.values.items()}
        present = {m: torch.ones_like(x[rows]) if everything else x[rows] for m, x in self.present.items()}
        valid = {m: present[m].unsqueeze(1).expand(-1, x.shape[1]) for m, x in values.items()}
        return Batch(values, valid, present, self.labels[rows])


def inputs_of(planted: Planted) -> HeadInputs:
    """What a head is built for."""
    shapes = {m: ModalityShape(x.shape[-1]) for m, x in planted.values.items()}
    return HeadInputs(shapes, "class", tuple(f"c{value}" for value in np.unique(planted.labels)))


def losses(head: Head, batch: Batch, progress: float) -> dict[str, Tensor]:
    """Task loss and the head's terms."""
    assert batch.labels is not None
    fused = head.fuse(batch)
    task = prediction_loss(head.classify(fused.vector), batch.labels, head.inputs.kind)
    return {"task": task, **head.auxiliary(batch, fused, progress)}


def encoder_gradients(head: Head, terms: Mapping[str, Tensor]) -> dict[str, float]:
    """Norm of each term's gradient in the parameters that lead from the features to the fusion."""
    shared = [p for name, p in head.named_parameters() if "encoders." in name]
    norms = {}
    for name, term in terms.items():
        found = torch.autograd.grad(term, shared, retain_graph=True, allow_unused=True)
        norms[name] = float(
            torch.stack([g.square().sum() for g in found if g is not None] or [torch.zeros(())]).sum() ** 0.5
        )
    return norms


def accuracy(head: Head, data: Tensors, rows: Tensor, everything: bool = False) -> float:
    """Accuracy on some rows, per cent."""
    head.eval()
    with torch.no_grad():
        right = [head(data.batch(part, everything)).argmax(-1) == data.labels[part] for part in rows.split(500)]
    return 100 * float(torch.cat(right).float().mean())


def train(
    name: str, settings: Mapping[str, Any], planted: Planted, seed: int = 0, epochs: int = 25,
    *, missing: float = 0.0, gradients: bool = False,
) -> Outcome:  # fmt: skip
    """Train one head; `missing` is the share of modalities missing from the training and validation utterances."""
    made = find("head", name)
    torch.manual_seed(seed)
    head: Head = made(inputs_of(planted), made.Config(**settings))
    data = Tensors(planted, head.pooling, missing, seed)
    parameters = list(head.parameters())
    decayed = [p for p in parameters if p.dim() >= 2]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}]
    groups += [{"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, LR, fused=True)
    rows = {part: torch.from_numpy(planted.rows(part)) for part in ("train", "val", "test")}
    order = torch.Generator().manual_seed(seed)
    best, chosen, norms, started = -1.0, Outcome(head, data, 0.0, 0, 0.0), [], time.perf_counter()
    for epoch in range(epochs):
        head.train()
        batches = rows["train"][torch.randperm(len(rows["train"]), generator=order)].split(BATCH)
        for index, part in enumerate(batches):
            progress = (epoch + index / len(batches)) / epochs
            terms = losses(head, data.batch(part), progress)
            if gradients and index == 0:
                norms.append(encoder_gradients(head, terms))
            optimiser.zero_grad()
            torch.stack(list(terms.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for group in optimiser.param_groups:
                group["lr"] = LR * rate_at(progress, WARMUP)
            optimiser.step()
        found = accuracy(head, data, rows["val"])
        if found > best:
            best = found
            kept = {key: value.clone() for key, value in head.state_dict().items()}
            chosen.epoch = epoch + 1
    chosen.seconds = time.perf_counter() - started
    head.load_state_dict(kept)
    chosen.test, chosen.gradients = accuracy(head, data, rows["test"], everything=True), norms
    return chosen


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def row(*cells: object) -> None:
    """Print a row of a Markdown table, at once."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def table(args: argparse.Namespace) -> None:
    """Test accuracy of heads on sets."""
    row("head", *args.sets, "seconds a run")
    row(*["---"] * (len(args.sets) + 2))
    for name in args.heads:
        cells, seconds = [], []
        for which in args.sets:
            planted = make_set(which, args.sizes)
            runs = [train(name, args.settings, planted, seed, args.epochs) for seed in range(args.seeds)]
            cells.append(spread([run.test for run in runs]))
            seconds += [run.seconds for run in runs]
        row(name, *cells, f"{np.mean(seconds):.0f}")


def terms(args: argparse.Namespace) -> None:
    """Test accuracy with every term that is on switched off in turn, and paired differences over seeds."""
    config = find("head", args.head).Config(**args.settings)
    on = [term for term in TERMS[args.head] if getattr(config, term)]
    row(args.head, *args.sets)
    row(*["---"] * (len(args.sets) + 1))
    whole: dict[str, list[float]] = {}
    for off in ("", *on):
        cells = []
        for which in args.sets:
            settings = {**args.settings, **({off: 0.0} if off else {})}
            planted = make_set(which, args.sizes)
            found = [train(args.head, settings, planted, seed, args.epochs).test for seed in range(args.seeds)]
            whole.setdefault(which, found)
            gap = np.subtract(found, whole[which])
            cells.append(
                spread(found) + (f" ({gap.mean():+.1f} ± {gap.std(ddof=1):.1f})" if off and len(gap) > 1 else "")
            )
        row(f"without {off}" if off else "as it is", *cells)


def gradients(args: argparse.Namespace) -> None:
    """Norm of each term's gradient in the encoders over the task's, in the first, a middle and the last epoch."""
    for which in args.sets:
        run = train(args.head, args.settings, make_set(which, args.sizes), 0, args.epochs, gradients=True)
        at = [0, len(run.gradients) // 2, len(run.gradients) - 1]
        row(which, *(f"epoch {epoch + 1}" for epoch in at))
        row(*["---"] * 4)
        row("task (norm)", *(f"{run.gradients[epoch]['task']:.3f}" for epoch in at))
        for name in list(run.gradients[0])[1:]:
            row(f"{name} over task", *(f"{run.gradients[e][name] / run.gradients[e]['task']:.3f}" for e in at))


def parts(args: argparse.Namespace) -> None:
    """Linear probes on FDRL's vectors: which hold the class, the modality's own factor, and the modality."""
    from sklearn.linear_model import LogisticRegression

    planted = make_set("parts", args.sizes)
    run = train(args.head, args.settings, planted, 0, args.epochs)
    run.head.eval()
    held = {}
    for part in ("train", "test"):
        rows = torch.from_numpy(planted.rows(part))
        with torch.no_grad():
            held[part] = (run.head.fuse(run.data.batch(rows, everything=True)).parts, rows.numpy())

    def probe(which: str, targets: Mapping[str, Sequence[Any]]) -> float:
        found = {p: held[p][0][which].flatten(0, 1).numpy() for p in held}
        return 100 * float(
            LogisticRegression(max_iter=300).fit(found["train"], targets["train"]).score(found["test"], targets["test"])
        )

    row("vectors", "class", "own factor", "which modality")
    row(*["---"] * 4)
    for which in ("shared", "private"):
        label = {p: np.tile(planted.labels[held[p][1]], len(MODALITIES)) for p in held}
        names = {p: np.repeat(np.arange(len(MODALITIES)), len(held[p][1])) for p in held}
        own = []
        for index, modality in enumerate(MODALITIES):
            x = {p: held[p][0][which][index].numpy() for p in held}
            y = {p: planted.factors[modality][held[p][1]] for p in held}
            own.append(100 * LogisticRegression(max_iter=300).fit(x["train"], y["train"]).score(x["test"], y["test"]))
        row(which, f"{probe(which, label):.1f}", f"{np.mean(own):.1f}", f"{probe(which, names):.1f}")
    row("chance", "25.0", "25.0", "33.3")


def missing(args: argparse.Namespace) -> None:
    """Test accuracy where each modality is missing at random, by its rate in training (rows) and test (columns)."""
    rates = (0.0, 0.2, 0.5, 0.8)
    row("head", "in training", *(f"{rate:.0%} in test" for rate in rates))
    row(*["---"] * (len(rates) + 2))
    planted = make_set("gaps", args.sizes)
    rows = torch.from_numpy(planted.rows("test"))
    for name in args.heads:
        for trained in rates:
            cells: list[list[float]] = [[] for _ in rates]
            for seed in range(args.seeds):
                run = train(name, args.settings, planted, seed, args.epochs, missing=trained)
                for cell, rate in zip(cells, rates, strict=True):
                    cell.append(accuracy(run.head, Tensors(planted, run.head.pooling, rate, 1000 + seed), rows))
            row(name, f"{trained:.0%}", *(spread(cell) for cell in cells))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = {each.__name__: each for each in (table, terms, gradients, parts, missing)}
    parser.add_argument("task", choices=tasks)
    parser.add_argument("--head", default="drkf", help="for terms, gradients and parts")
    parser.add_argument("--heads", nargs="+", default=["concat", "drkf", "fdrl"], help="for table and missing")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["xor", "conflict", "agree"])
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the head, as JSON values"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--train", type=int, default=SIZES[0], help="training utterances")
    args = parser.parse_args()
    args.sizes = (args.train, *SIZES[1:])
    args.settings = {}
    for item in args.set:
        name, _, value = item.partition("=")
        args.settings[name] = json.loads(value) if value[:1] in "0123456789-tf[" else value
    torch.set_num_threads(1)
    tasks[args.task](args)


if __name__ == "__main__":
    main()
