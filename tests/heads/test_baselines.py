"""The baselines' equations, with numbers worked out by hand."""

import pytest
import torch
import torch.nn.functional as F

from mer.cache import MerError
from mer.stages.heads.base import Fused, Head
from mer.stages.heads.configs import LateConfig, MisaConfig, MultConfig
from mer.stages.heads.layers import masked_mean, sinusoids
from mer.stages.heads.misa import MisaHead, central_moment_discrepancy
from mer.stages.heads.mult import MultHead
from mer.stages.heads.probe import LinearHead
from mer.stages.heads.simple import ConcatHead, GatedHead, LateHead
from mer.stages.heads.testing import make_batch, make_inputs


def built(head: type[Head], **settings: object) -> Head:
    torch.manual_seed(0)
    return head(make_inputs(3), head.Config(**settings)).eval()


def test_moments_by_hand() -> None:
    """Means (1, 0) and (1, 1); around them (-1, 0), (1, 0) and nothing: the even moments differ by 1, the odd by 0."""
    first, second = torch.tensor([[0.0, 0.0], [2.0, 0.0], [7.0, 7.0]]), torch.tensor([[1.0, 1.0]] * 3)
    counted, all_rows, none = torch.tensor([1.0, 1.0, 0.0]), torch.ones(3), torch.zeros(3)
    found = central_moment_discrepancy(first, second, counted, all_rows)
    assert found.item() == pytest.approx(3.0, abs=1e-5)
    third = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 0.0]])  # mean 1; moments 2, 2, 6, 10 against 1, 0, 1, 0
    found = central_moment_discrepancy(first, third, counted, all_rows)
    assert found.item() == pytest.approx(0 + 1 + 2 + 5 + 10, abs=1e-5)
    assert central_moment_discrepancy(first, second, counted, none) == 0


def test_misa_sums_differences_and_averages_the_rest() -> None:
    """All shared vectors are alike but the third modality's, which lies 1 further in both directions."""
    inputs = make_inputs(3)
    config = MisaConfig(dim=2, heads=1, similarity=0.5, difference=0.25, reconstruction=0.75)
    head, batch = MisaHead(inputs, config), make_batch(inputs, 3, missing=False)
    batch.labels = torch.tensor([0, 1, -1])
    for layer in head.rebuild.values():
        layer.weight.data, layer.bias.data = torch.eye(2), torch.zeros(2)
    ends = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [50.0, 9.0]])  # the last row has no label
    shared, private = [ends, ends, ends + 1.0], [ends, ends.flip(1), ends]
    pooled = [2 * ends, ends + ends.flip(1), 2 * ends]  # text and audio are rebuilt, face is 1 off everywhere
    parts = {"shared": shared, "private": private, "pooled": pooled, "present": torch.ones(3, 3, dtype=torch.bool)}
    found = head.auxiliary(batch, Fused(ends, parts), 0.5)
    assert found["similarity"].item() == pytest.approx(0.5 * 2 / 3 * 2**0.5, abs=1e-5)
    # A'B of the rows (1, 0) and (-1, 0) is 2 in one of four places, squared 1 in the mean, and so for all six pairs.
    assert found["difference"].item() == pytest.approx(0.25 * 6, abs=1e-5)
    assert found["reconstruction"].item() == pytest.approx(0.75 / 3, abs=1e-5)


def test_late_fusion_averages_answers_and_losses() -> None:
    """Trust of ln 3 in text makes three shares of it against one of each other modality that is there."""
    torch.manual_seed(0)
    inputs = make_inputs(3)
    head, batch = LateHead(inputs, LateConfig(dim=8, unimodal=0.5)).eval(), make_batch(inputs)
    assert head.trust is not None
    assert batch.labels is not None
    head.trust.data = torch.tensor([3.0, 1.0, 1.0]).log()
    fused = head.fuse(batch)
    answers = torch.stack([c(fused.parts["each"][:, i]) for i, c in enumerate(head.classifiers)])
    shares = torch.stack([batch.present[m] * trust for m, trust in zip(inputs.modalities, (3, 1, 1), strict=True)])
    share = shares / shares.sum(0).clamp(min=1)
    torch.testing.assert_close(head(batch), (answers * share.unsqueeze(-1)).sum(0) + head.bias)
    rows = [(batch.labels >= 0) & batch.present[m] for m in inputs.modalities]
    own = [F.cross_entropy(x[r] + head.bias, batch.labels[r]) for x, r in zip(answers, rows, strict=True)]
    found = head.auxiliary(batch, fused, 0.5)["unimodal"]
    assert found.item() == pytest.approx(0.5 * torch.stack(own).mean().item(), rel=1e-5)


def test_mult_attends_once_from_every_modality_to_every_other() -> None:
    torch.manual_seed(0)
    inputs = make_inputs(3)
    head, batch = MultHead(inputs, MultConfig(dim=8, layers=1)).eval(), make_batch(inputs)
    encoded, valid, _ = head.encoders(batch)
    steps = [x + 0.1 * sinusoids(x.shape[1], 8, x) for x in encoded]
    names, pooled = list(inputs.modalities), []
    for to, name in enumerate(names):
        others = [i for i in range(3) if i != to]
        views = [head.cross[f"{name}_from_{names[i]}"](steps[to], valid[i], steps[i]) for i in others]
        pooled.append(masked_mean(head.memory[name](torch.cat(views, -1), valid[to]), valid[to]))
    assert len(head.cross) == 6
    vector = torch.cat(pooled, -1)
    torch.testing.assert_close(head.fuse(batch).vector, vector + head.residual(vector))


def test_late_fusion_is_the_weighted_mean_of_unimodal_outputs_over_the_modalities_present() -> None:
    head, batch = built(LateHead, dim=16), make_batch(make_inputs(3))
    trust = torch.tensor([0.5, -1.0, 0.2])
    head.trust.data = trust
    vectors, present = head.pooled(batch)
    own = torch.stack([head.classifiers[i](head.hidden[i](vectors[:, i])) for i in range(3)], 1)
    for row, here in enumerate(present):
        share = trust[here].softmax(0)
        expected = (own[row, here] * share.unsqueeze(-1)).sum(0) + head.bias
        assert torch.allclose(head(batch)[row], expected, atol=1e-5)


def test_the_gated_unit_is_its_formula_over_the_modalities_present() -> None:
    head, batch = built(GatedHead, dim=16), make_batch(make_inputs(3))
    vectors, present = head.pooled(batch)
    gate = head.gate(vectors.flatten(1))
    for row, here in enumerate(present):
        share = gate[row, here].softmax(0)
        each = torch.stack([head.transform[i](vectors[row, i]).tanh() for i in range(3)])[here]
        assert torch.allclose(head.fuse(batch).vector[row], (each * share.unsqueeze(-1)).sum(0), atol=1e-5)


def test_probe_and_concatenation_see_masked_means_side_by_side() -> None:
    batch = make_batch(make_inputs(3))
    means = {
        name: torch.stack([
            x[row, valid].mean(0) if (valid := batch.valid[name][row]).any() else torch.zeros(x.shape[-1])
            for row in range(batch.size)
        ])
        for name, x in batch.values.items()
    }  # fmt: skip
    probe = built(LinearHead)
    assert torch.allclose(probe(batch), probe.classifier(torch.cat(list(means.values()), -1)), atol=1e-5)
    concat = built(ConcatHead, dim=16)
    (steps, *_), (valid, *_), _ = concat.pooled.encoders(batch)
    vectors, _ = concat.pooled(batch)
    assert torch.allclose(vectors[0, 0], steps[0, valid[0]].mean(0), atol=1e-5)
    assert torch.allclose(concat(batch), concat.classifier(concat.hidden(vectors.flatten(1))), atol=1e-5)


@pytest.mark.parametrize(("choice", "layers"), [("last", [2]), ("0", [0]), ("-2:", [1, 2]), ("mix", [0, 1, 2])])
@pytest.mark.parametrize("head", [LinearHead, ConcatHead])
def test_layers_of_a_stack_are_chosen(head: type[Head], choice: str, layers: list[int]) -> None:
    """A head sees of a stack the mean of these layers; before training, a mix weighs all alike."""
    whole, one = make_inputs(2, stack=3), make_inputs(2)
    batch = make_batch(whole)
    chosen = make_batch(one)
    chosen.valid, chosen.present = batch.valid, batch.present
    for name, values in batch.values.items():
        chosen.values[name] = values.unflatten(-1, (3, -1))[..., layers, :].mean(-2)
    torch.manual_seed(0)
    given = head(whole, head.Config(stack=choice)).eval()
    torch.manual_seed(0)
    plain = head(one, head.Config()).eval()
    assert torch.allclose(given(batch), plain(chosen), atol=1e-5)
    assert ("mix" in "".join(given.state_dict())) == (choice == "mix")


def test_probes_see_all_layers_side_by_side() -> None:
    inputs = make_inputs(2, stack=3)
    head, batch = LinearHead(inputs, LinearHead.Config()).eval(), make_batch(inputs, missing=False)
    means = [masked_mean(batch.values[name], batch.valid[name]) for name in inputs.modalities]
    assert torch.allclose(head.fuse(batch).vector, torch.cat(means, -1))
    assert head.classifier.in_features == sum(3 * shape.dim for shape in inputs.modalities.values())


@pytest.mark.parametrize("head", [LinearHead, ConcatHead])
def test_a_layer_that_is_not_there_is_refused(head: type[Head]) -> None:
    with pytest.raises(MerError, match="layers 0 to 2"):
        head(make_inputs(2, stack=3), head.Config(stack="7"))
    with pytest.raises(MerError, match="these features have one"):
        head(make_inputs(2), head.Config(stack="last"))
