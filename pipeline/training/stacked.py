"""Runs that are trained together: one model as it is, or several with their parameters stacked under `torch.func.vmap`.

Both kinds answer the same calls, with a leading axis of R runs on losses and outputs; R is 1 for a single model.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state

from .model import DialogueLayout, Model, Parts

State = dict[str, Tensor]


class ModelStack(ABC):
    """R models of one shape and their gradients."""

    size: int
    parameters: dict[str, Tensor]
    """Trainable leaf tensors; stacked ones have a leading axis of R."""

    @abstractmethod
    def losses(self, parts: Parts, layout: DialogueLayout | None, progress: float) -> dict[str, Tensor]:
        """Loss terms of one batch per run, each of shape (R,)."""

    @abstractmethod
    def outputs(self, parts: Parts, layout: DialogueLayout | None) -> tuple[Tensor, Tensor]:
        """Outputs (R, B, C) and fused vectors (R, B, width), in evaluation mode and without gradients."""

    @abstractmethod
    def clip(self, largest: float) -> None:
        """Scale each run's gradient down to the norm `largest`."""

    @abstractmethod
    def state(self) -> State:
        """Parameters and persistent buffers by name, with a leading axis of R; they share memory with the model."""

    def decayed(self) -> tuple[list[Tensor], list[Tensor]]:
        """Parameters that weight decay applies to, and those it does not: norms, biases and other vectors."""
        lead = self.lead
        matrices = [p for p in self.parameters.values() if p.dim() - lead >= 2]
        return matrices, [p for p in self.parameters.values() if p.dim() - lead < 2]

    @property
    @abstractmethod
    def lead(self) -> int:
        """Number of leading axes that only count runs."""


class SingleModel(ModelStack):
    """One model."""

    lead = 0

    def __init__(self, model: Model, device: torch.device) -> None:
        self.size = 1
        self.model = model.to(device)
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def losses(self, parts: Parts, layout: DialogueLayout | None, progress: float) -> dict[str, Tensor]:
        """Return each term with shape (1,)."""
        self.model.train()
        terms: dict[str, Tensor] = self.model(parts, layout, progress)
        return {name: term.reshape(1) for name, term in terms.items()}

    @torch.no_grad()
    def outputs(self, parts: Parts, layout: DialogueLayout | None) -> tuple[Tensor, Tensor]:
        """Return outputs (1, B, C) and vectors (1, B, width)."""
        self.model.eval()
        outputs, vector = self.model(parts, layout)
        return outputs[None], vector[None]

    def clip(self, largest: float) -> None:
        """Scale the gradient down to the norm `largest`."""
        torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), largest)

    def state(self) -> State:
        """Return parameters and buffers with a leading axis of 1."""
        return {name: tensor.detach()[None] for name, tensor in self.model.state_dict(keep_vars=True).items()}


class StackedModels(ModelStack):
    """Several models of one shape, their parameters stacked; one forward and backward serves all.

    Dropout and other draws differ between the runs but come from one generator, so a run's draws depend on the company
    it is trained in. Initial weights and batches do not.
    """

    lead = 1

    def __init__(self, models: Sequence[Model], device: torch.device) -> None:
        self.size = len(models)
        parameters, buffers = stack_module_state([model.to(device) for model in models])
        self.fixed = {name: p.detach() for name, p in parameters.items() if not p.requires_grad} | dict(buffers)
        self.parameters = {name: p.detach().requires_grad_() for name, p in parameters.items() if p.requires_grad}
        self.persistent = set(models[0].state_dict())
        self.skeleton = copy.deepcopy(models[0]).to("meta")

    def losses(self, parts: Parts, layout: DialogueLayout | None, progress: float) -> dict[str, Tensor]:
        """Return each term with shape (R,); `parts` has a leading axis of R."""
        self.skeleton.train()

        def one(parameters: State, fixed: State, parts: Parts) -> dict[str, Tensor]:
            terms: dict[str, Tensor] = functional_call(self.skeleton, {**parameters, **fixed}, (parts, None, progress))
            return terms

        each = torch.vmap(one, randomness="different")(self.parameters, self.fixed, parts)
        return dict(each)

    @torch.no_grad()
    def outputs(self, parts: Parts, layout: DialogueLayout | None) -> tuple[Tensor, Tensor]:
        """Return outputs (R, B, C) and vectors (R, B, width)."""
        self.skeleton.eval()

        def one(parameters: State, fixed: State, parts: Parts) -> tuple[Tensor, Tensor]:
            made: tuple[Tensor, Tensor] = functional_call(self.skeleton, {**parameters, **fixed}, (parts, None, None))
            return made

        outputs, vectors = torch.vmap(one, randomness="different")(self.parameters, self.fixed, parts)
        return outputs, vectors

    def clip(self, largest: float) -> None:
        """Scale each run's gradient down to the norm `largest`."""
        grads = [p.grad for p in self.parameters.values() if p.grad is not None]
        squares = torch.stack([g.reshape(self.size, -1).square().sum(1) for g in grads]).sum(0)
        factor = (largest / (squares.sqrt() + 1e-6)).clamp(max=1.0)
        for grad in grads:
            grad.mul_(factor.view(-1, *[1] * (grad.dim() - 1)))

    def state(self) -> State:
        """Return parameters and buffers, each with a leading axis of R."""
        whole = {**self.parameters, **self.fixed}
        return {name: tensor.detach() for name, tensor in whole.items() if name in self.persistent}

    def keep(self, members: Sequence[int]) -> None:
        """Go on with these runs only."""
        index = torch.tensor(list(members), device=next(iter(self.parameters.values())).device)
        self.parameters = {n: p.detach()[index].clone().requires_grad_() for n, p in self.parameters.items()}
        self.fixed = {n: p[index].clone() for n, p in self.fixed.items()}
        self.size = len(members)


def stack_models(models: Sequence[Model], device: torch.device) -> ModelStack:
    """Stack several models, or take one as it is."""
    return SingleModel(models[0], device) if len(models) == 1 else StackedModels(models, device)


class Optimiser:
    """AdamW over a team, with warm-up and cosine, whose state goes into a checkpoint."""

    def __init__(self, stack: ModelStack, lr: float, weight_decay: float) -> None:
        self.stack = stack
        self.peak = lr
        self.weight_decay = weight_decay
        self._build()

    def _build(self) -> None:
        matrices, vectors = self.stack.decayed()
        groups = [{"params": matrices, "weight_decay": self.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.adamw = torch.optim.AdamW([g for g in groups if g["params"]], lr=self.peak, fused=True)

    def step(self, rate: float) -> None:
        """Update with `rate` times the peak learning rate, then forget the gradients."""
        for group in self.adamw.param_groups:
            group["lr"] = self.peak * rate
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)

    def state(self) -> State:
        """Moments and step counts by `parameter/what`."""
        return {
            f"{name}/{what}": value
            for name, parameter in self.stack.parameters.items()
            for what, value in self.adamw.state.get(parameter, {}).items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave, after building the optimiser anew over the team's parameters."""
        self._build()
        for key, value in state.items():
            name, _, what = key.rpartition("/")
            parameter = self.stack.parameters[name]
            self.adamw.state[parameter][what] = value.to(parameter.device).clone()

    def keep(self, members: Sequence[int]) -> None:
        """Follow `StackedModels.keep`; call it with the state taken before."""
        index = torch.tensor(list(members))
        kept = {k: v if v.dim() == 0 else v[index.to(v.device)] for k, v in self.state().items()}
        assert isinstance(self.stack, StackedModels)
        self.stack.keep(members)
        self.load(kept)


def load_state(stack: ModelStack, state: Mapping[str, Tensor]) -> None:
    """Overwrite a team's parameters and buffers in place with what `state()` gave."""
    with torch.no_grad():
        for name, tensor in stack.state().items():
            tensor.copy_(state[name])
