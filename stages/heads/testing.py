"""The conformance suite a head must pass. Subclass `HeadTests` in a test file and name the head.

class TestMine(HeadTests):
    head = MyHead
    settings = {"dim": 16}
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .base import Batch, Head, HeadInputs, ModalityShape
from .losses import prediction_loss

SHAPES = {"text": ModalityShape(10), "audio": ModalityShape(6), "face": ModalityShape(5)}
LENGTHS = {"text": 6, "audio": 13, "face": 4}
CLASSES = ("angry", "happy", "neutral")
KINDS = ("class", "multi", "real")


def make_inputs(count: int = 3, kind: str = "class", stack: int = 1) -> HeadInputs:
    """Inputs of the first `count` modalities, each with `stack` layers."""
    shapes = {name: ModalityShape(shape.dim, stack) for name, shape in list(SHAPES.items())[:count]}
    return HeadInputs(shapes, kind, () if kind == "real" else CLASSES)


def make_labels(kind: str, size: int) -> Tensor:
    """Labels of every class, the last row unlabelled."""
    index = torch.arange(size) % len(CLASSES)
    if kind == "class":
        index[-1] = -1
        return index
    labels = torch.eye(len(CLASSES))[index] if kind == "multi" else index.float() - 1 + 0.1 * torch.randn(size)
    labels[-1] = float("nan")
    return labels


def make_batch(inputs: HeadInputs, size: int = 12, missing: bool = True) -> Batch:
    """A batch of random features and lengths; with `missing`, some modalities are absent and row 1 has none at all."""
    values, valid, present = {}, {}, {}
    for name, shape in inputs.modalities.items():
        steps = LENGTHS[name]
        lengths = torch.randint(1, steps + 1, (size,))
        valid[name] = torch.arange(steps) < lengths.unsqueeze(1)
        present[name] = torch.rand(size) < 0.7 if missing else torch.ones(size, dtype=torch.bool)
        if missing:
            present[name][:2] = torch.tensor([True, False])
            valid[name] = valid[name] & present[name].unsqueeze(1)
        values[name] = torch.randn(size, steps, shape.stack * shape.dim) * valid[name].unsqueeze(-1)
    return Batch(values, valid, present, make_labels(inputs.kind, size))


def take(batch: Batch, rows: slice) -> Batch:
    """Some rows of a batch."""
    return Batch(
        {name: x[rows] for name, x in batch.values.items()},
        {name: x[rows] for name, x in batch.valid.items()},
        {name: x[rows] for name, x in batch.present.items()},
        None if batch.labels is None else batch.labels[rows],
    )


def moved(batch: Batch, device: str) -> Batch:
    """Copy a batch to a device."""
    values, valid, present = (
        {name: x.to(device) for name, x in part.items()} for part in (batch.values, batch.valid, batch.present)
    )
    return Batch(values, valid, present, None if batch.labels is None else batch.labels.to(device))


class OneDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operations that mix devices or run on the CPU; single numbers may come from anywhere."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at the tensors of one operation before it runs."""
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.dim()]
        devices = sorted({x.device.type for x in tensors})
        if len(devices) > 1 or "cpu" in devices:
            raise AssertionError(f"{func} runs on tensors of {' and '.join(devices)}")
        return func(*args, **(kwargs or {}))


def total_loss(head: Head, batch: Batch, progress: float = 0.5) -> Tensor:
    """What the training engine minimises."""
    fused = head.fuse(batch)
    terms = head.auxiliary(batch, fused, progress)
    assert batch.labels is not None
    task = prediction_loss(head.classify(fused.vector), batch.labels, head.inputs.kind)
    return torch.stack([task, *terms.values()]).sum()


class TrainingStep(nn.Module):
    """A head's total loss as a module's forward, as `functional_call` wants it."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, batch: Batch) -> Tensor:
        return total_loss(self.head, batch)


def stacked(heads: list[nn.Module], batches: list[Batch]) -> Tensor:
    """Run several modules of the same shape side by side, each on its own batch; differentiable in their parameters."""
    parameters, buffers = stack_module_state(heads)
    skeleton = copy.deepcopy(heads[0]).to("meta")

    def run(parameters: Any, buffers: Any, values: Any, valid: Any, present: Any, labels: Tensor) -> Any:
        return functional_call(skeleton, (parameters, buffers), (Batch(values, valid, present, labels),))

    def join(field: str) -> dict[str, Tensor]:
        return {name: torch.stack([getattr(b, field)[name] for b in batches]) for name in batches[0].values}

    labels = torch.stack([b.labels for b in batches if b.labels is not None])
    outputs: Tensor = vmap(run, randomness="different")(
        parameters, buffers, join("values"), join("valid"), join("present"), labels
    )
    if any(p.requires_grad for p in parameters.values()) and outputs.requires_grad:
        outputs.sum().backward()  # type: ignore[no-untyped-call]
        for name, p in parameters.items():
            for head, grad in zip(heads, torch.zeros_like(p) if p.grad is None else p.grad, strict=True):
                head.get_parameter(name).grad = grad.clone()
    return outputs.detach()


class HeadTests:
    """Every promise the training engine relies on."""

    head: ClassVar[type[Head]]
    settings: ClassVar[Mapping[str, Any]] = {}
    """Settings of the head under test, usually small widths."""
    modality_counts: ClassVar[tuple[int, ...]] = (1, 2, 3)
    padding_invariant: ClassVar[bool] = True
    """False only for a head that reproduces a published one's dependence on padding."""
    idle: ClassVar[tuple[str, ...]] = ()
    """Prefixes of parameters that get no gradient by design."""
    learning_rate: ClassVar[float] = 3e-3

    def build(self, inputs: HeadInputs, seed: int = 0) -> Head:
        """A fresh head."""
        torch.manual_seed(seed)
        return self.head(inputs, self.head.Config(**self.settings))

    def test_config_is_a_frozen_dataclass_with_documented_defaults(self) -> None:
        config = self.head.Config()
        assert dataclasses.is_dataclass(config)
        field = dataclasses.fields(config)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field, getattr(config, field))

    @pytest.mark.parametrize("kind", KINDS)
    def test_outputs_have_the_promised_shapes(self, kind: str) -> None:
        for count in self.modality_counts:
            inputs = make_inputs(count, kind, stack=2)
            head, batch = self.build(inputs).eval(), make_batch(inputs)
            vector = head.fuse(batch).vector
            assert vector.shape == (12, head.width)
            assert head(batch).shape == (12, inputs.outputs)
            assert head.classify(vector.view(3, 4, -1)).shape == (3, 4, inputs.outputs)

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_parameter_learns(self, kind: str) -> None:
        for count in self.modality_counts:
            inputs = make_inputs(count, kind, stack=2)
            head = self.build(inputs).train()
            loss = total_loss(head, make_batch(inputs, 32))
            loss.backward()  # type: ignore[no-untyped-call]
            for name, parameter in head.named_parameters():
                if name.startswith(self.idle):
                    continue
                assert parameter.grad is not None, f"{name} is not in the graph"
                assert torch.isfinite(parameter.grad).all(), name
                assert parameter.grad.abs().sum() > 0, f"{name} gets no gradient"

    def test_appended_padding_changes_nothing(self) -> None:
        inputs = make_inputs()
        head, batch = self.build(inputs).eval(), make_batch(inputs)
        longer = copy.deepcopy(batch)
        for name, x in batch.values.items():
            garbage = 1e3 * torch.randn(x.shape[0], 7, x.shape[2])
            longer.values[name] = torch.cat([x, garbage], 1)
            longer.valid[name] = torch.nn.functional.pad(batch.valid[name], (0, 7))
        if not self.padding_invariant:
            assert not torch.allclose(head(batch), head(longer), atol=1e-5)
            longer = copy.deepcopy(batch)
        for name, mask in longer.valid.items():
            longer.values[name] = torch.where(mask.unsqueeze(-1), longer.values[name], 1e3)
        assert torch.allclose(head(batch), head(longer), atol=1e-5)

    def test_a_missing_modality_cannot_matter(self) -> None:
        inputs = make_inputs()
        head, batch = self.build(inputs).eval(), make_batch(inputs)
        other = copy.deepcopy(batch)
        for name, here in batch.present.items():
            other.values[name][~here] = 50 * torch.randn_like(other.values[name][~here])
            other.valid[name][~here] = True
        assert torch.allclose(head(batch), head(other), atol=1e-5)
        head.train()
        torch.manual_seed(1)
        loss = total_loss(head, batch)
        torch.manual_seed(1)
        assert torch.allclose(loss, total_loss(head, other), rtol=1e-4), "a loss term counts a missing modality"

    def test_a_modality_that_no_row_brings_teaches_its_parts_nothing(self) -> None:
        if not self.padding_invariant:
            pytest.skip("a head without masks counts absent modalities")
        inputs = make_inputs(max(self.modality_counts))
        *_, absent = inputs.modalities
        head, batch = self.build(inputs).train(), make_batch(inputs, missing=False)
        batch.present[absent] = torch.zeros_like(batch.present[absent])
        total_loss(head, batch).backward()  # type: ignore[no-untyped-call]
        for name, parameter in head.named_parameters():
            if absent in name.split(".") and parameter.grad is not None:
                assert parameter.grad.abs().max() <= 1e-7, f"{name} learns from rows without {absent}"

    def test_present_modalities_do_matter(self) -> None:
        inputs = make_inputs()
        head, batch = self.build(inputs).eval(), make_batch(inputs, missing=False)
        for name in inputs.modalities:
            other = copy.deepcopy(batch)
            other.values[name] = other.values[name] + torch.randn_like(other.values[name])
            assert not torch.allclose(head(batch), head(other), atol=1e-5), name

    def test_an_utterance_does_not_depend_on_its_batch(self) -> None:
        inputs = make_inputs()
        head, batch = self.build(inputs).eval(), make_batch(inputs)
        singles = torch.cat([head(take(batch, slice(row, row + 1))) for row in range(batch.size)])
        assert torch.allclose(head(batch), singles, atol=1e-5)

    def test_evaluation_needs_no_labels(self) -> None:
        inputs = make_inputs()
        head, batch = self.build(inputs).eval(), make_batch(inputs)
        expected = head(batch)
        batch.labels = None
        assert torch.equal(head(batch), expected)
        head.train()
        fused = head.fuse(batch)
        assert all(torch.isfinite(term) for term in head.auxiliary(batch, fused, 1.0).values())

    @pytest.mark.parametrize("kind", KINDS)
    def test_odd_batches_give_finite_losses(self, kind: str) -> None:
        inputs = make_inputs(kind=kind)
        head = self.build(inputs).train()
        for size, rows in ((1, "one"), (2, "two"), (12, "same"), (12, "none labelled"), (12, "all missing")):
            batch = make_batch(inputs, size, missing=rows == "two")
            assert batch.labels is not None
            if rows in ("one", "same"):
                batch.labels = batch.labels[:1].expand(size, *batch.labels.shape[1:]).nan_to_num().clamp(min=0)
            if rows == "none labelled":
                batch.labels = torch.full_like(batch.labels, -1 if kind == "class" else float("nan"))
            if rows == "all missing":
                batch.present = {name: torch.zeros_like(here) for name, here in batch.present.items()}
            head.zero_grad()
            loss = total_loss(head, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            grads = [p.grad for p in head.parameters() if p.grad is not None]
            assert torch.isfinite(loss), rows
            assert all(torch.isfinite(grad).all() for grad in grads), rows

    @pytest.mark.parametrize("kind", KINDS)
    def test_unlabelled_rows_teach_nothing(self, kind: str) -> None:
        """They ride along in dialogues: the loss is that of the labelled rows, and without any there is none."""
        inputs = make_inputs(kind=kind)
        head, batch = self.build(inputs).eval(), make_batch(inputs, missing=False)
        assert batch.labels is not None
        batch.labels[8:] = -1 if kind == "class" else float("nan")
        assert torch.allclose(total_loss(head, batch), total_loss(head, take(batch, slice(8))), atol=1e-4)
        none = take(batch, slice(8, 12))
        assert total_loss(head.train(), none).item() == pytest.approx(0, abs=1e-5)

    def test_half_precision_features_are_accepted(self) -> None:
        inputs = make_inputs()
        head, batch = self.build(inputs).eval(), make_batch(inputs)
        expected = head(batch)
        batch.values = {name: x.half() for name, x in batch.values.items()}
        assert torch.allclose(head(batch), expected, atol=2e-2)

    def test_bf16_autocast_keeps_losses_in_float32(self) -> None:
        inputs = make_inputs()
        head, batch = self.build(inputs).train(), make_batch(inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            fused = head.fuse(batch)
            terms = head.auxiliary(batch, fused, 0.5)
            loss = total_loss(head, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        assert torch.isfinite(loss)
        assert all(term.dtype == torch.float32 for term in terms.values())

    def test_a_seed_fixes_everything(self) -> None:
        inputs = make_inputs()

        def losses() -> list[float]:
            head, batch = self.build(inputs).train(), make_batch(inputs)
            torch.manual_seed(1)
            optimizer = torch.optim.Adam(head.parameters())
            values = []
            for _ in range(3):
                optimizer.zero_grad()
                loss = total_loss(head, batch)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                values.append(loss.item())
            return values

        assert losses() == losses()

    def test_stacked_heads_equal_single_ones(self) -> None:
        inputs = make_inputs(stack=2)
        heads = [self.build(inputs, seed) for seed in range(3)]
        batches = [make_batch(inputs) for _ in heads]
        together = stacked([head.eval() for head in heads], batches)
        apart = torch.stack([head(batch) for head, batch in zip(heads, batches, strict=True)])
        assert torch.allclose(together, apart, atol=1e-5)

    def test_stacked_heads_train(self) -> None:
        inputs = make_inputs()
        heads = [TrainingStep(self.build(inputs, seed)).train() for seed in range(3)]
        loss = stacked(list(heads), [make_batch(inputs, missing=False) for _ in heads])
        assert torch.isfinite(loss).all()
        for name, parameter in _named(heads):
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all(), name
            assert name.removeprefix("head.").startswith(self.idle or ("\0",)) or parameter.grad.abs().sum() > 0, name

    def test_stacked_gradients_equal_single_ones(self) -> None:
        inputs = make_inputs()
        heads = [self.build(inputs, seed).eval() for seed in range(2)]
        batches = [make_batch(inputs) for _ in heads]
        steps = [TrainingStep(head) for head in heads]
        stacked(list(steps), batches)
        together = [{n: p.grad for n, p in head.named_parameters()} for head in heads]
        for head, step, batch, expected in zip(heads, steps, batches, together, strict=True):
            head.zero_grad()
            step(batch).backward()
            for name, parameter in head.named_parameters():
                grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                assert torch.allclose(grad, expected[name], atol=1e-5), name  # type: ignore[arg-type]

    def test_a_training_step_is_one_graph(self) -> None:
        """No Python branch on data: the step can be captured whole (dynamo, no code generation)."""
        inputs = make_inputs()
        head, batch = self.build(inputs).train(), make_batch(inputs)
        torch._dynamo.reset()
        captured = torch.compile(TrainingStep(head), backend="eager", fullgraph=True)
        torch.manual_seed(3)
        expected = TrainingStep(head)(batch)
        torch.manual_seed(3)
        assert torch.allclose(captured(batch), expected, atol=1e-5)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_training_step_stays_on_its_device(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing is made on another device and no value is read back. `meta` stands for a GPU: it has no values."""
        monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # does not know `meta`
        inputs = make_inputs(kind=kind)
        head, batch = self.build(inputs).to("meta"), moved(make_batch(inputs), "meta")
        with OneDevice():  # type: ignore[no-untyped-call]
            total_loss(head.train(), batch).backward()  # type: ignore[no-untyped-call]
            head.eval()(batch)

    def test_overfits_64_utterances(self) -> None:
        inputs = make_inputs()
        head, batch = self.build(inputs).train(), make_batch(inputs, 64, missing=False)
        batch.labels = torch.randint(len(CLASSES), (64,))
        optimizer = torch.optim.AdamW(head.parameters(), self.learning_rate, weight_decay=0.0)
        for step in range(200):
            optimizer.zero_grad()
            total_loss(head, batch, step / 200).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if step % 10 == 9:
                right = (head.eval()(batch).argmax(-1) == batch.labels).float().mean()
                head.train()
                if right > 0.95:
                    return
        pytest.fail(f"{right:.0%} of the training utterances right after 200 steps")


def _named(modules: Iterable[nn.Module]) -> Iterable[tuple[str, nn.Parameter]]:
    return (pair for module in modules for pair in module.named_parameters())
