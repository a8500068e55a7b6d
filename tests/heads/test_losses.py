"""Loss terms against the hand-computed values of drkf.md section 4 and against their own definitions."""

import math

import pytest
import torch

from mer.stages.heads import losses

E1 = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
E2 = torch.tensor([[1.0, 0.5], [0.2, 1.0], [-1.0, 1.0]])
P = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]])
Q = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
TAU = torch.tensor(1.0).sigmoid()


def close(value: torch.Tensor, expected: float) -> bool:
    return value.item() == pytest.approx(expected, abs=2e-6)


def test_golden_values_of_drkf() -> None:
    assert close(TAU, 0.7310586)
    assert close(losses.nt_xent(E1, E2, TAU), 1.5025024)
    assert close(losses.info_nce(E1, E2, TAU), 1.0765680)
    assert close(losses.info_nce(E2, E1, TAU), 1.0403942)
    assert close(losses.info_nce(E1, E2, TAU, symmetric=True), 1.0584811)
    assert close(losses.pseudo_kl(P, Q), -0.3937136)
    assert close(losses.kl_divergence(Q, P.log()), 0.1754035)
    assert close(losses.kl_divergence(P, Q.log()), 0.1671662)


def test_pseudo_kl_landmarks() -> None:
    uniform, agreed = torch.full((2, 4), 0.25), torch.eye(4)[:2]
    assert close(losses.pseudo_kl(uniform, uniform), -0.25 * math.log(4) - 0.0625)
    assert close(losses.pseudo_kl(agreed, agreed), -0.25)


def test_a_share_of_zero_has_a_finite_gradient() -> None:
    logits = torch.tensor([[0.0, 200.0, 1.0]], requires_grad=True)
    sure = logits.softmax(-1)
    assert sure[0, 0] == 0
    value = losses.pseudo_kl(torch.tensor([[0.2, 0.3, 0.5]]), sure)
    value = value + losses.kl_divergence(sure, torch.tensor([[0.2, 0.3, 0.5]]).log())
    value.backward()
    assert close(value, -0.3 / 3 - math.log(0.3))
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_rows_of_weight_zero_change_nothing() -> None:
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0])
    extra = torch.full((1, 2), 7.0)
    first, second = torch.cat([E1, extra]), torch.cat([E2, -extra])
    assert torch.allclose(losses.nt_xent(first, second, TAU, weight), losses.nt_xent(E1, E2, TAU))
    assert torch.allclose(losses.info_nce(first, second, TAU, weight, True), losses.info_nce(E1, E2, TAU, None, True))


@pytest.mark.parametrize("size", [1, 2])
def test_contrast_without_usable_rows_is_zero_with_a_gradient(size: int) -> None:
    first = torch.randn(size, 3, requires_grad=True)
    loss = losses.nt_xent(first, torch.randn(size, 3), 0.5, torch.zeros(size))
    loss = loss + losses.info_nce(first, torch.randn(size, 3), 0.5, torch.zeros(size), symmetric=True)
    loss.backward()
    assert loss.item() == 0
    assert first.grad is not None
    assert torch.isfinite(first.grad).all()


def test_prediction_loss_is_torchs_own_and_skips_unlabelled_rows() -> None:
    torch.manual_seed(0)
    outputs = torch.randn(5, 3)
    labels = torch.tensor([0, 2, -1, 1, -1])
    assert torch.allclose(
        losses.prediction_loss(outputs, labels, "class"),
        torch.nn.functional.cross_entropy(outputs, labels, ignore_index=-1),
    )
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0])
    assert torch.allclose(
        losses.prediction_loss(outputs, labels, "class", weight),
        torch.nn.functional.cross_entropy(outputs[[0, 3]], labels[[0, 3]]),
    )
    multi = torch.tensor([[1.0, 0.0, 1.0], [math.nan] * 3, [0.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    rows = [0, 2, 3, 4]
    assert torch.allclose(
        losses.prediction_loss(outputs, multi, "multi"),
        torch.nn.functional.binary_cross_entropy_with_logits(outputs[rows], multi[rows]),
    )
    real = torch.tensor([1.0, math.nan, 0.0, -2.0, 0.5])
    assert torch.allclose(
        losses.prediction_loss(outputs[:, :1], real, "real"), (outputs[rows, 0] - real[rows]).square().mean()
    )


def test_output_divergence_matches_distributions() -> None:
    target, output = P.log(), Q.log()
    ones = torch.ones(2)
    assert close(losses.output_divergence(target, output, "class", ones), 0.1671662)
    assert close(losses.output_divergence(target, target, "multi", ones), 0.0)
    one, two = torch.tensor([[0.3]]), torch.tensor([[-1.1]])
    bernoulli = torch.distributions.Bernoulli
    expected = torch.distributions.kl_divergence(bernoulli(logits=one), bernoulli(logits=two)).item()
    assert close(losses.output_divergence(one, two, "multi", torch.ones(1)), expected)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(one, 1.0), normal(two, 1.0)).item()
    assert close(losses.output_divergence(one, two, "real", torch.ones(1)), expected)


@pytest.mark.parametrize(("kind", "width"), [("class", 3), ("multi", 3), ("real", 1)])
def test_only_the_output_is_drawn_to_the_target(kind: str, width: int) -> None:
    target, output = torch.randn(2, 4, width, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target.retain_grad()
    output.retain_grad()
    losses.output_divergence(target, output, kind, torch.ones(4)).backward()
    assert target.grad is None
    assert output.grad is not None
    assert output.grad.abs().sum() > 0.1


def test_membership_of_each_kind() -> None:
    classes = losses.membership(torch.tensor([1, -1, 0]), "class", 2, 5)
    assert classes.tolist() == [[0, 1], [0, 0], [1, 0]]
    multi = losses.membership(torch.tensor([[1.0, 1.0], [math.nan, math.nan]]), "multi", 2, 5)
    assert multi.tolist() == [[1, 1], [0, 0]]
    real = losses.membership(torch.tensor([3.0, -1.0, math.nan, -1.0, 0.0]), "real", 0, 2)
    assert real.tolist() == [[0, 1], [1, 0], [0, 0], [1, 0], [0, 1]]


def test_losses_stay_in_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = losses.nt_xent(E1.bfloat16(), E2.bfloat16(), TAU)
    assert value.dtype == torch.float32
    assert torch.equal(value, losses.nt_xent(E1.bfloat16().float(), E2.bfloat16().float(), TAU))


def test_ramp() -> None:
    for progress in (0.0, 0.1, 0.5, 1.0):
        expected = 2 / (1 + math.exp(-10 * progress)) - 1
        assert losses.ramp(progress) == pytest.approx(expected)
        assert float(losses.ramp(torch.tensor(progress))) == pytest.approx(expected, abs=1e-6)
