"""Acceptance tests of fdrl.md section 7.1 that go beyond the conformance suite (2, 3, 4, 5, 8, 10), and the options."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mer.stages.heads.alignment import ClassDiscriminators, class_adversary, cross_modal_contrast, label_lmmd
from mer.stages.heads.base import Batch, HeadInputs, ModalityShape
from mer.stages.heads.configs import FdrlConfig
from mer.stages.heads.disparity import class_cka, class_difference, class_hsic, unbiased_hsic
from mer.stages.heads.fdrl import FdrlHead
from mer.stages.heads.layers import reverse_gradient
from mer.stages.heads.testing import make_batch, make_inputs, take, total_loss


def classes(labels: Tensor, count: int = 3) -> Tensor:
    return torch.eye(count)[labels]


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(48, 6), torch.randn(48, 6), classes(torch.arange(48) % 3)


# ------------------------------------------------------------------------------------------------- alignment


def plain_mmd(first: Tensor, second: Tensor) -> float:
    """Biased MMD with the five kernels of section 4.2, written out."""
    both = np.concatenate([first.numpy(), second.numpy()]).astype(np.float64)
    squared = ((both[:, None] - both[None]) ** 2).sum(-1)
    scale = squared.sum() / (len(both) ** 2 - len(both))
    kernel = sum(np.exp(-squared / (2.0 ** (u - 2) * scale)) for u in range(5)) / 5
    n = len(first)
    return float(kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean())


def test_lmmd_of_one_class_is_the_ordinary_mmd(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    first, second, _ = drawn
    ones = torch.ones(48, 1)
    assert label_lmmd(first, second, ones, ones).item() == pytest.approx(plain_mmd(first, second), abs=1e-6)


def test_lmmd_properties(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    first, second, member = drawn
    value = label_lmmd(first, second, member, member)
    assert label_lmmd(first, first, member, member).abs() < 1e-6
    assert torch.allclose(value, label_lmmd(second, first, member, member))
    grown = [label_lmmd(first, second + shift, member, member).item() for shift in (0.0, 0.5, 1.0, 2.0)]
    assert grown == sorted(grown)
    assert grown[-1] < 2
    order = torch.randperm(48)
    assert torch.allclose(value, label_lmmd(first[order], second, member[order], member), atol=1e-6)
    absent = torch.nn.functional.pad(member, (0, 2))
    assert torch.allclose(value, label_lmmd(first, second, absent, absent))


def test_lmmd_ignores_rows_without_the_modality(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    first, second, member = drawn
    here = torch.ones(48, 1)
    here[40:] = 0
    changed = torch.where(here > 0, second, 1e3)
    value = label_lmmd(first, changed, member, member * here)
    assert torch.allclose(value, label_lmmd(first, torch.zeros_like(second) + changed, member, member * here))
    assert value < 2


def test_lmmd_by_hand() -> None:
    """Vectors 0 and 2: the mean squared distance is 4, the kernels across are exp(-4), exp(-2) ... exp(-1/4)."""
    first, second, one = torch.zeros(1, 1), torch.full((1, 1), 2.0, requires_grad=True), torch.ones(1, 1)
    exponents = (4, 2, 1, 1 / 2, 1 / 4)
    value = label_lmmd(first, second, one, one)
    value.backward()
    assert value.item() == pytest.approx(2 - 2 * np.mean([math.exp(-e) for e in exponents]))
    assert second.grad is not None  # that of the distance alone: the widths are taken as given
    assert second.grad.item() == pytest.approx(2 * np.mean([e * math.exp(-e) for e in exponents]))
    # A second class that one side lacks sets the widths too (8 / 3) and is no part of the mean.
    both, half = torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    value = label_lmmd(torch.zeros(2, 1), torch.tensor([[2.0], [9.0]]), both, half)
    assert value.item() == pytest.approx(2 - 2 * np.mean([math.exp(-1.5 * e) for e in exponents]))


def test_gradient_reversal_turns_the_encoder_only() -> None:
    torch.manual_seed(0)
    discriminators = ClassDiscriminators(3, 6, 2)
    member = classes(torch.arange(10) % 3).expand(2, -1, -1)
    gradients = {}
    for factor in (-1.0, 0.7):  # -1 reverses the reversal: the plain gradient
        shared = torch.linspace(-1, 1, 120).view(2, 10, 6).requires_grad_()
        discriminators.zero_grad()
        class_adversary(discriminators, shared, member, factor).backward()
        assert shared.grad is not None
        assert discriminators.into.grad is not None
        gradients[factor] = shared.grad, discriminators.into.grad.clone()
    assert torch.allclose(gradients[0.7][0], -0.7 * gradients[-1.0][0], atol=1e-7)
    assert torch.equal(gradients[0.7][1], gradients[-1.0][1])
    x = torch.randn(3)
    assert torch.equal(reverse_gradient(x, 0.3), x)


def test_adversary_routes_each_row_to_its_class() -> None:
    torch.manual_seed(0)
    discriminators = ClassDiscriminators(3, 6, 2)
    shared, labels = torch.randn(2, 9, 6), torch.arange(9) % 3
    value = class_adversary(discriminators, shared, classes(labels).expand(2, -1, -1), 1.0)
    logits = discriminators(shared.flatten(0, 1)).view(3, 2, 9, 2)
    by_hand = torch.stack([-logits[labels[i], m, i].log_softmax(-1)[m] for m in range(2) for i in range(9)]).mean()
    assert torch.allclose(value, by_hand)
    with torch.no_grad():
        discriminators.out.zero_()
    confused = class_adversary(discriminators, shared, classes(labels).expand(2, -1, -1), 1.0)
    assert confused.item() == pytest.approx(math.log(2), abs=1e-6)


def test_contrast_by_hand() -> None:
    # Two modalities, two classes, orthogonal unit vectors per class: each anchor has one positive and two strangers.
    shared = torch.eye(2).expand(2, 2, 2)
    member = torch.eye(2).expand(2, 2, 2)
    expected = math.log(math.exp(1 / 0.5) + 2) - 1 / 0.5
    assert cross_modal_contrast(shared, member, 0.5).item() == pytest.approx(expected, abs=1e-6)


def test_contrast_is_the_loop_over_anchors() -> None:
    torch.manual_seed(0)
    shared, labels = torch.randn(3, 5, 4), torch.tensor([0, 0, 1, 1, 2])
    member = classes(labels).repeat(3, 1, 1)
    member[1, 0] = member[2, 3] = 0.0  # absent
    rows = [(m, i) for m in range(3) for i in range(5) if member[m, i].any()]
    vectors = torch.stack([F.normalize(shared[m, i], dim=0) for m, i in rows])
    losses = []
    for anchor, (m, i) in enumerate(rows):
        others = torch.tensor([k for k in range(len(rows)) if k != anchor])
        logs = (vectors[others] @ vectors[anchor] / 0.2).log_softmax(0)
        met = [rows[k] for k in others]
        losses.append(-logs[[k for k, (n, j) in enumerate(met) if n != m and labels[j] == labels[i]]].mean())
    found = cross_modal_contrast(shared, member, 0.2)
    assert found.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


# ------------------------------------------------------------------------------------------------- disparity


def direct_hsic(a: np.ndarray, b: np.ndarray) -> float:
    """Debiased HSIC of section 4.3, written out."""
    n = len(a)
    k, el, one = a @ a.T, b @ b.T, np.ones(n)
    np.fill_diagonal(k, 0)
    np.fill_diagonal(el, 0)
    whole = (one @ k @ one) * (one @ el @ one) / ((n - 1) * (n - 2))
    return float((np.trace(k @ el) + whole - 2 / (n - 2) * (one @ k @ el @ one)) / (n * (n - 3)))


def unit(x: Tensor) -> np.ndarray:
    return F.normalize(x.double(), dim=-1).numpy()


def test_cka_is_the_ratio_of_class_sums() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([0] * 10 + [1] * 4 + [2] * 3)  # the third class is below four rows and skipped
    first, second = torch.randn(17, 5), torch.randn(17, 5)
    first = 0.3 * first + second  # so that the relu does not cut

    def pooled(a: Tensor, b: Tensor) -> float:
        parts = [(n, direct_hsic(unit(a)[labels == k], unit(b)[labels == k])) for k, n in ((0, 10), (1, 4))]
        return sum(n * value for n, value in parts) / 14

    expected = pooled(first, second) / math.sqrt(pooled(first, first) * pooled(second, second))
    assert class_cka(first, second, classes(labels)).item() == pytest.approx(expected, abs=1e-5)


def test_cka_landmarks(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    first, second, member = drawn
    assert class_cka(first, first, member).item() == pytest.approx(1.0, abs=1e-5)
    value = class_cka(first, first + second, member)
    assert 0.2 < value < 0.8
    second = first + second
    turn = torch.linalg.qr(torch.randn(6, 6)).Q
    assert torch.allclose(class_cka(3.0 * first, second, member), value, atol=1e-5)
    assert torch.allclose(class_cka(first @ turn, second, member), value, atol=1e-5)


def test_debiased_hsic_of_independent_rows_averages_to_zero() -> None:
    torch.manual_seed(0)

    def gram() -> Tensor:
        rows = F.normalize(torch.randn(400, 16, 6), dim=-1)
        return rows @ rows.transpose(-1, -2) * (1 - torch.eye(16))

    one, two = gram(), gram()
    member = torch.ones(16, 1)
    draws = unbiased_hsic(one, two, member)
    assert draws.mean().abs() < 4 * draws.std() / math.sqrt(400)
    assert draws.std() < 0.3 * unbiased_hsic(one, one, member).mean()


def test_label_information_alone_is_no_redundancy_within_classes() -> None:
    torch.manual_seed(0)
    labels = torch.arange(120) % 3
    means = 3 * torch.randn(3, 8)
    first, second = torch.randn(120, 8) + means[labels], torch.randn(120, 8) + means.roll(1, 0)[labels]
    within = class_cka(first, second, classes(labels))
    overall = class_cka(first, second, torch.ones(120, 1))
    assert within < 0.2 < overall


def test_hsic_and_difference_match_their_formulas(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    first, second, member = drawn
    labels = member.argmax(-1)
    values, centred = [], []
    for k in range(3):
        a, b = unit(first)[labels == k], unit(second)[labels == k]
        n = len(a)
        middle = np.eye(n) - 1 / n
        values.append(np.trace(middle @ a @ a.T @ middle @ b @ b.T) / (n - 1) ** 2)
    assert class_hsic(first, second, member).item() == pytest.approx(np.mean(values), abs=1e-6)
    for x in (first, second):
        means = torch.stack([x[labels == k].mean(0) for k in range(3)])[labels]
        centred.append(F.normalize(x - means, dim=-1))
    expected = (centred[0].T @ centred[1]).square().mean()
    assert torch.allclose(class_difference(first, second, member), expected, rtol=1e-4)


def test_hsic_by_hand() -> None:
    """Two orthogonal rows of a class: K = L = 1, tr(R R) = 1. A class of one row says nothing."""
    rows = torch.eye(2)[[0, 1, 0]]
    assert class_hsic(rows, rows, classes(torch.tensor([0, 0, 1]))) == 1.0


def test_norms_take_no_part_in_the_gradient(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    """Where they did, the CKA of vectors with themselves, always 1, would move nothing, and length would not count."""
    first, second, member = drawn
    first.requires_grad_()
    class_cka(first, first, member).backward()
    assert first.grad is not None
    assert first.grad.abs().max() > 1e-3
    first.grad = None
    value = class_difference(first, second, member)
    value.backward()
    assert (first.grad * first).sum().item() == pytest.approx(2 * value.item(), rel=1e-4)  # of degree two in length


@pytest.mark.parametrize("measure", [class_cka, class_hsic, class_difference])
def test_too_small_classes_leave_a_zero_with_a_gradient(measure: object) -> None:
    first = torch.randn(3, 5, requires_grad=True)
    value = measure(first, torch.randn(3, 5), torch.zeros(3, 2))  # type: ignore[operator]
    value.backward()
    assert value.item() == 0
    assert first.grad is not None
    assert torch.isfinite(first.grad).all()


# ---------------------------------------------------------------------------------------------------- head


@pytest.mark.parametrize("kind", ["class", "multi", "real"])
@pytest.mark.parametrize(
    "change",
    [
        {"align": "adversary"},
        {"align": "adversary", "align_scope": "global"},
        {"align": "contrastive"},
        {"align": "none", "disparity": "none", "predictor": "none"},
        {"align_scope": "global", "disparity": "hsic", "disparity_scope": "global"},
        {"disparity": "misa", "disparity_pairs": "private"},
        {"disparity": "classify", "predictor": "shared"},
        {"predictor": "private", "ramp": False},
        {"split": False},
    ],
    ids=str,
)
def test_every_ablation_trains(kind: str, change: dict[str, object]) -> None:
    torch.manual_seed(0)
    inputs = make_inputs(kind=kind)
    head = FdrlHead(inputs, FdrlConfig(dim=16, **change)).train()  # type: ignore[arg-type]
    batch = make_batch(inputs, 24)
    terms = head.auxiliary(batch, head.fuse(batch), 0.5)
    wanted = {"predict", "align", "disparity"} - {name for name, off in _off(change).items() if off}
    assert set(terms) == wanted
    total_loss(head, batch).backward()  # type: ignore[no-untyped-call]
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def _off(change: dict[str, object]) -> dict[str, bool]:
    whole = change.get("split") is False
    return {
        "predict": whole or change.get("predictor") == "none",
        "align": whole or change.get("align") == "none",
        "disparity": whole or change.get("disparity") == "none",
    }


def test_terms_are_the_equations_of_the_docs() -> None:
    """Means over vectors and over pairs; rows without the modality are left out; at a third of training, with ramp."""
    torch.manual_seed(0)
    inputs = make_inputs(3)
    weights = {"predict_weight": 0.7, "align_weight": 0.6, "disparity_weight": 0.3}
    head = FdrlHead(inputs, FdrlConfig(dim=16, **weights)).eval()  # type: ignore[arg-type]
    batch = make_batch(inputs, 48)
    assert batch.labels is not None
    fused = head.fuse(batch)
    shared, private, present = (fused.parts[name] for name in ("shared", "private", "present"))
    known = batch.labels >= 0
    member = classes(batch.labels.clamp(min=0)) * known.unsqueeze(1)
    here = [present[:, m : m + 1] for m in range(3)]
    pairs = list(combinations(range(3), 2))
    guesses = [(head.predict_shared(shared[m]), m) for m in range(3)]
    guesses += [(head.predict_private[name](private[m]), m) for m, name in enumerate(inputs.modalities)]
    entropy = [F.cross_entropy(x[known & present[:, m]], batch.labels[known & present[:, m]]) for x, m in guesses]
    align = [label_lmmd(shared[m], shared[n], member * here[m], member * here[n]) for m, n in pairs]
    redundancy = [class_cka(private[m], private[n], member * here[m] * here[n]) for m, n in pairs]
    redundancy += [class_cka(shared[m], private[m], member * here[m]) for m in range(3)]
    found, rise = head.auxiliary(batch, fused, 1 / 3), 2 / (1 + math.exp(-10 / 3)) - 1
    wanted = {"predict": 0.7 * torch.stack(entropy).mean(), "align": 0.6 * rise * torch.stack(align).mean()}
    wanted["disparity"] = 0.3 * rise * torch.stack(redundancy).mean()
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-4), name


def test_numbers_are_aligned_within_quantile_groups() -> None:
    torch.manual_seed(0)
    inputs = make_inputs(2, "real")
    head, batch = FdrlHead(inputs, FdrlConfig(dim=16, bins=3)).eval(), make_batch(inputs, 12, missing=False)
    batch.labels = torch.randperm(12).float()
    fused = head.fuse(batch)
    member = classes(batch.labels.long() // 4)
    wanted = 0.5 * math.tanh(5) * label_lmmd(*fused.parts["shared"], member, member)
    assert head.auxiliary(batch, fused, 1.0)["align"].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_the_adversary_is_reversed_by_the_ramp_and_private_vectors_name_modality_and_class() -> None:
    torch.manual_seed(0)
    inputs = make_inputs(2)
    settings = {"align": "adversary", "align_weight": 0.5, "disparity": "classify", "disparity_weight": 0.3}
    head, batch = FdrlHead(inputs, FdrlConfig(dim=16, **settings)).eval(), make_batch(inputs, 12, missing=False)  # type: ignore[arg-type]
    batch.labels = torch.arange(12) % 3
    gradients, terms = [], []
    for progress in (0.1, 0.5):
        fused = head.fuse(batch)
        fused.parts["shared"].retain_grad()
        terms.append(head.auxiliary(batch, fused, progress))
        terms[-1]["align"].backward(retain_graph=True)
        gradients.append(fused.parts["shared"].grad / math.tanh(5 * progress))
    assert torch.equal(terms[0]["align"], terms[1]["align"])
    torch.testing.assert_close(gradients[0], gradients[1])
    logits = head.discriminators(fused.parts["shared"].flatten(0, 1)).unflatten(1, (2, 12))
    each = [-logits[i % 3, m, i].log_softmax(0)[m] for m in range(2) for i in range(12)]
    assert terms[0]["align"].item() == pytest.approx(0.5 * torch.stack(each).mean().item(), rel=1e-5)
    truth = torch.cat([batch.labels, 3 + batch.labels])
    told = F.cross_entropy(head.tell_private(fused.parts["private"].flatten(0, 1)), truth)
    assert terms[1]["disparity"].item() == pytest.approx(0.3 * math.tanh(2.5) * told.item(), rel=1e-5)


@pytest.mark.parametrize("term", ["align", "disparity"])
def test_the_global_scope_counts_rows_whose_set_is_empty_and_the_class_scope_does_not(term: str) -> None:
    torch.manual_seed(0)
    inputs = make_inputs(2, "multi")
    change = {f"{term}_scope": "global"}
    batch = make_batch(inputs, 24, missing=False)
    batch.labels = batch.labels.nan_to_num()  # type: ignore[union-attr]
    batch.labels[12:] = 0.0
    for settings, counted in (({}, False), (change, True)):
        head = FdrlHead(inputs, FdrlConfig(dim=16, **settings)).eval()  # type: ignore[arg-type]
        fused = head.fuse(batch)
        before = head.auxiliary(batch, fused, 1.0)[term]
        for vectors in (fused.parts["shared"], fused.parts["private"]):
            vectors.data[:, 12:] = torch.randn_like(vectors[:, 12:])
        after = head.auxiliary(batch, fused, 1.0)[term]
        assert torch.allclose(before, after, rtol=1e-4) is not counted


def test_alignment_and_disparity_rise_from_zero() -> None:
    torch.manual_seed(0)
    inputs = make_inputs()
    head, batch = FdrlHead(inputs, FdrlConfig(dim=16)).eval(), make_batch(inputs, 24)
    fused = head.fuse(batch)
    start, end = (head.auxiliary(batch, fused, progress) for progress in (0.0, torch.tensor(1.0)))
    assert start["align"] == start["disparity"] == 0
    assert end["align"] > 0
    assert torch.equal(start["predict"], end["predict"])


def test_three_modalities_contain_the_two() -> None:
    torch.manual_seed(0)
    two, three = (FdrlHead(make_inputs(count), FdrlConfig(dim=16)).eval() for count in (2, 3))
    state = two.state_dict()
    assert {name.replace("face", "audio") for name in three.state_dict()} == set(state)
    parts = ("encoders", "pools", "project", "shared", "private")
    three.load_state_dict({k: v for k, v in state.items() if k.startswith(parts)}, strict=False)
    batch = make_batch(make_inputs(3))
    small, large = two.fuse(batch).parts, three.fuse(batch).parts
    assert torch.allclose(small["shared"], large["shared"][:2], atol=1e-6)
    assert torch.allclose(small["private"], large["private"][:2], atol=1e-6)


def test_without_its_third_modality_the_trimodal_head_answers_as_the_bimodal_one() -> None:
    torch.manual_seed(0)
    config, dim = FdrlConfig(dim=16), 16
    two, three = (FdrlHead(make_inputs(count), config).eval() for count in (2, 3))
    state, wide = two.state_dict(), three.state_dict()
    kept = [0, 1, 3, 4]  # of the six tokens, shared then private, those of the two modalities
    columns = torch.cat([torch.arange(token * dim, (token + 1) * dim) for token in kept])
    narrow = 2 * dim
    for name, tensor in state.items():
        if tensor.shape == wide[name].shape:
            wide[name] = tensor
        elif name in ("kind", "missing"):
            wide[name][kept] = tensor
        elif name == "reduce.0.weight":
            wide[name].zero_()
            wide[name][:narrow, columns] = tensor
        elif name == "reduce.0.bias":
            wide[name].zero_()
            wide[name][:narrow] = tensor
        else:
            assert name == "classifier.weight"
            wide[name][:, :narrow] = tensor
    three.load_state_dict(wide)
    batch = make_batch(make_inputs(3))
    batch.present["face"][:] = False
    small, large = (head.classify(head.fuse(batch).vector) for head in (two, three))
    assert torch.allclose(small, large, atol=1e-5)
    assert small.std() > 0.01


def shared_and_private_data(size: int) -> Batch:
    """Two modalities, each a mixture of one common and one own factor; the label is the common factor's sign."""
    common, values = torch.randn(size, 2), {}
    for name in ("text", "audio"):
        mixed = torch.cat([common, torch.randn(size, 6)], 1) @ torch.randn(8, 12)
        values[name] = mixed.unsqueeze(1)
    yes = {name: torch.ones(size, 1, dtype=torch.bool) for name in values}
    return Batch(values, yes, {name: mask[:, 0] for name, mask in yes.items()}, (common[:, 0] > 0).long())


def test_alignment_and_disparity_hold_for_unseen_rows() -> None:
    """What they are for: shared vectors alike across modalities, and private ones that do not repeat them."""
    noise = dict.fromkeys(("modality_dropout", "dropout", "fusion_dropout", "hide_tokens", "hide_spans"), 0.0)
    inputs = HeadInputs({name: ModalityShape(12) for name in ("text", "audio")}, "class", ("low", "high"))
    found = []
    for settings in ({"disparity_weight": 1.0}, {"align": "none", "disparity": "none"}):
        torch.manual_seed(1)
        data = shared_and_private_data(320)
        batch, unseen = take(data, slice(64)), take(data, slice(64, 320))
        head = FdrlHead(inputs, FdrlConfig(dim=16, **noise, **settings)).train()  # type: ignore[arg-type]
        optimizer = torch.optim.AdamW(head.parameters(), 3e-3)
        for step in range(40):
            optimizer.zero_grad()
            total_loss(head, batch, step / 40).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        assert unseen.labels is not None
        fused, member = head.eval().fuse(unseen), classes(unseen.labels, 2)
        shared, private = fused.parts["shared"], fused.parts["private"]
        right = (head.classify(fused.vector).argmax(1) == unseen.labels).float().mean().item()
        apart = label_lmmd(*shared, member, member).item()
        found.append((right, apart, *class_cka(shared, private, member.expand(2, -1, -1)).tolist()))
    (right, apart, text, audio), (plain_right, plain_apart, plain_text, plain_audio) = found
    assert min(right, plain_right) > 0.6
    assert apart < 0.5 * plain_apart
    assert text < plain_text - 0.1
    assert audio < plain_audio - 0.1
