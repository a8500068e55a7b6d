"""DRKF beyond the conformance suite: pair sampling, the cascade, what the two variants differ in."""

import math
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F

from mer.cache import MerError
from mer.stages.heads.agreement import Agreement
from mer.stages.heads.configs import DrkfConfig
from mer.stages.heads.drkf import DrkfHead, ResidualCascade
from mer.stages.heads.layers import sinusoids
from mer.stages.heads.losses import info_nce, nt_xent, pseudo_kl
from mer.stages.heads.pairs import all_origins, pair_targets, sample_origins
from mer.stages.heads.testing import make_batch, make_inputs


def test_cascade_is_the_recursion_of_the_paper_spec() -> None:
    torch.manual_seed(0)
    cascade, x = ResidualCascade(32, 5), torch.randn(3, 7, 32)
    state, out = x, torch.zeros_like(x)
    for encode, decode in zip(cascade.encoders, cascade.decoders, strict=True):
        state = state + out
        out = decode(encode(state))
    assert torch.allclose(cascade(x), cascade.transition(state + out), atol=1e-6)


def test_sampled_partners_are_strangers_and_balanced() -> None:
    torch.manual_seed(0)
    labels = torch.arange(60) % 4
    labels[-6:] = -1
    member = (labels.unsqueeze(-1) == torch.arange(4)).float()
    present = torch.rand(60, 3) < 0.8
    origins = sample_origins(member, present, rounds=4)
    assert origins.shape == (240, 3)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (origins[:, first] != origins[:, second]).all()
    for column in (1, 2):
        assert present[origins[:, column], column].all()
        assert (labels[origins[:, column]] >= 0).all()
        target, weight = pair_targets(member, present, origins, 0, column)
        expected = present[origins[:, 0], 0] & (labels[origins[:, 0]] >= 0)
        assert torch.equal(weight > 0, expected)
        assert torch.equal(target[expected] > 0, (labels[origins[:, 0]] == labels[origins[:, column]])[expected])
        assert 0.35 < target[expected].mean() < 0.65


def test_half_of_every_pair_of_donors_match() -> None:
    """Also the pair that leaves out the modality which stays in its row, also with four equal classes."""
    torch.manual_seed(0)
    member, present = torch.eye(4)[torch.arange(64) % 4], torch.ones(64, 3, dtype=torch.bool)
    origins = sample_origins(member, present, rounds=40)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        target, weight = pair_targets(member, present, origins, first, second)
        assert weight.all()
        assert target.mean().item() == pytest.approx(0.5, abs=0.03)


def test_a_batch_of_one_has_no_partner() -> None:
    member, present = torch.ones(1, 1), torch.ones(1, 2, dtype=torch.bool)
    _, weight = pair_targets(member, present, sample_origins(member, present, 1), 0, 1)
    assert weight.sum() == 0


def test_released_pairs_are_all_ordered_pairs() -> None:
    pairs = all_origins(4, 2, 256, torch.device("cpu"))
    assert sorted(map(tuple, pairs.tolist())) == [(i, j) for i in range(4) for j in range(4) if i != j]
    assert all_origins(20, 2, 50, torch.device("cpu")).shape == (50, 2)
    for one, two, three in all_origins(5, 3, 99, torch.device("cpu")).tolist():
        assert len({one, two, three}) == 3


def terms(variant: str, **settings: object) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    inputs = make_inputs(2)
    head = DrkfHead(inputs, DrkfConfig(dim=32, fusion="steps", variant=variant, **settings)).train()  # type: ignore[arg-type]
    batch = make_batch(inputs, 16, missing=False)
    return head.auxiliary(batch, head.fuse(batch), 0.5)


def test_terms_start_where_the_spec_says() -> None:
    released = terms("faithful")
    assert set(released) == {"intra", "cross", "mse", "kl", "ed"}
    assert released["ed"].item() == pytest.approx(0.2 * math.log(2), rel=0.5)
    assert released["cross"].item() == pytest.approx(0.2 * math.log(16), rel=0.2)
    uniform = -(math.log(3) / 3 + 1 / 9)  # three classes, both distributions near uniform
    assert released["kl"].item() == pytest.approx(2 * uniform, rel=0.1)
    corrected = terms("corrected")
    assert set(corrected) == {"intra", "cross", "mse", "kl", "unimodal", "ed"}
    assert 0 <= corrected["kl"].item() < 0.5
    assert corrected["unimodal"].item() == pytest.approx(2 * 0.2 * math.log(3), rel=0.3)


QUIET = {"dropout": 0.0, "input_dropout": 0.0, "hide_tokens": 0.0, "hide_spans": 0.0, "modality_dropout": 0.0}
WEIGHTS = {"intra": 0.5, "cross": 0.7, "mse": 0.9, "kl": 0.6, "unimodal": 0.4, "ed": 0.3}


@pytest.mark.parametrize("kl_target", ["raw", "label"])
def test_terms_are_the_equations_of_the_docs(kl_target: str) -> None:
    """Row by row: rows without a label or a modality are left out, sums over modalities, means over pairs."""
    torch.manual_seed(0)
    inputs = make_inputs(3)
    config = DrkfConfig(dim=32, fusion="steps", kl_target=kl_target, **QUIET, **WEIGHTS)  # type: ignore[arg-type]
    head, batch = DrkfHead(inputs, config).train(), make_batch(inputs, 24)
    head.theta.data.fill_(0.3)
    fused = head.fuse(batch)
    labels = batch.labels
    assert labels is not None
    rows = {m: ((labels >= 0) & batch.present[m]).nonzero()[:, 0].tolist() for m in inputs.modalities}
    raw, augmented, wanted = {}, {}, dict.fromkeys(WEIGHTS, torch.zeros(()))
    tau = 1 / (1 + math.exp(-0.3))
    for name, x in zip(inputs.modalities, fused.parts["steps"], strict=True):
        steps = [x[row, batch.valid[name][row]] for row in rows[name]]
        changed = [head.augmenters[name](one) for one in steps]
        project, classify = head.projections[name], head.unimodal[name]
        raw[name] = project(torch.stack([one.mean(0) for one in steps]))
        augmented[name] = project(torch.stack([one.mean(0) for one in changed]))
        truth, guess, after = labels[rows[name]], classify(raw[name]), classify(augmented[name])
        wanted["intra"] = wanted["intra"] + nt_xent(raw[name], augmented[name], tau)
        wanted["mse"] = wanted["mse"] + (torch.cat(changed) - torch.cat(steps)).square().mean()
        wanted["unimodal"] = wanted["unimodal"] + F.cross_entropy(guess, truth)
        kl = F.kl_div(after.log_softmax(1), guess.log_softmax(1), log_target=True, reduction="batchmean")
        wanted["kl"] = wanted["kl"] + (kl if kl_target == "raw" else F.cross_entropy(after, truth))
    answers = head.discriminator(fused.parts["shuffled"]).view(-1, 3, 2)
    for index, (one, two) in enumerate(combinations(inputs.modalities, 2)):
        both = [row for row in rows[one] if row in rows[two]]
        first, second = (raw[m][[rows[m].index(row) for row in both]] for m in (one, two))
        wanted["cross"] = wanted["cross"] + (info_nce(first, second, tau) + info_nce(second, first, tau)) / 6
        donors = fused.parts["origins"][:, [list(inputs.modalities).index(m) for m in (one, two)]]
        asked = [i for i, (a, b) in enumerate(donors.tolist()) if a in rows[one] and b in rows[two]]
        same = (labels[donors[asked, 0]] == labels[donors[asked, 1]]).long()
        wanted["ed"] = wanted["ed"] + F.cross_entropy(answers[asked, index], same) / 3
    found = head.auxiliary(batch, fused, 0.5)
    assert found.keys() == wanted.keys()
    for name, weight in WEIGHTS.items():
        assert found[name].item() == pytest.approx(weight * wanted[name].item(), rel=1e-4), name


def test_numbers_are_shuffled_by_their_fifths_in_so_many_rounds() -> None:
    torch.manual_seed(0)
    inputs = make_inputs(2, "real")
    head, batch = DrkfHead(inputs, DrkfConfig(dim=32, fusion="steps", ed_rounds=3)).train(), make_batch(inputs, 24)
    batch.labels = torch.randperm(24).float()
    batch.labels[3] = math.nan
    parts = head.fuse(batch).parts
    assert parts["origins"].shape == (72, 2)
    assert parts["shuffled"].shape == (72, 32)
    order = batch.labels.argsort()[:23]
    assert parts["member"][order].argmax(1).tolist() == [0] * 5 + [1] * 4 + [2] * 5 + [3] * 4 + [4] * 5
    assert parts["member"][3].sum() == 0


def test_released_terms_count_padding_and_square_the_weight() -> None:
    torch.manual_seed(0)
    inputs = make_inputs(2)
    config = DrkfConfig(dim=32, fusion="steps", variant="faithful", kl=0.5, mse=0.3, intra=0.7, **QUIET)  # type: ignore[arg-type]
    head, batch = DrkfHead(inputs, config).train(), make_batch(inputs, 12, missing=False)
    batch.labels = torch.arange(12) % 3
    fused = head.fuse(batch)
    found = head.auxiliary(batch, fused, 0.5)
    text, audio = fused.parts["steps"]
    changed = {"text": head.augmenters["text"](text), "audio": head.augmenters["audio"](audio)}
    raw = {"text": head.projections["text"](head.pooler(text[:, 0])), "audio": head.projections["audio"](audio.mean(1))}
    mse = (changed["text"] - text).square().mean() + (changed["audio"] - audio).square().mean()
    assert found["mse"].item() == pytest.approx(0.3 * mse.item(), rel=1e-5)
    intra = torch.stack([nt_xent(raw[m], changed[m].mean(1), head.theta.sigmoid()) for m in raw]).sum()
    assert found["intra"].item() == pytest.approx(0.7 * intra.item(), rel=1e-5)
    both = [head.unimodal["text"](x).softmax(1) for x in (raw["text"], changed["text"].mean(1))]
    assert found["kl"].item() == pytest.approx(0.25 * 2 * pseudo_kl(*both).item(), rel=1e-5)


def test_weights_switch_terms_off() -> None:
    off = terms("corrected", ed=0.0, intra=0.0, cross=0.0, mse=0.0, kl=0.0, unimodal=0.0)
    assert off == {}
    assert set(terms("corrected", kl=0.0)) == {"intra", "cross", "mse", "unimodal", "ed"}
    assert set(terms("corrected", unimodal=0.0, ed=0.0)) == {"intra", "cross", "mse", "kl"}


def test_the_released_variant_starts_from_sound() -> None:
    """Sound looks for its words among the batch's, and comes before them in the fusion sequence."""
    torch.manual_seed(0)
    inputs = make_inputs(3)
    head, batch = (
        DrkfHead(inputs, DrkfConfig(dim=32, fusion="steps", variant="faithful")).eval(),
        make_batch(inputs, missing=False),
    )
    batch.labels = torch.arange(12) % 3
    fused = head.fuse(batch)
    views = {name: pair[0] for name, pair in head._views(fused).items()}
    wanted = [
        info_nce(views[query], views[key], head.theta.sigmoid())
        for query, key in (("audio", "text"), ("audio", "face"), ("text", "face"))
    ]
    found = head.auxiliary(batch, fused, 0.5)["cross"]
    assert found.item() == pytest.approx(0.2 * torch.stack(wanted).mean().item())
    text, audio, face = fused.parts["steps"]
    mark = torch.zeros(12, 1, 32)
    sequence = torch.cat([mark, audio, mark, text, mark, face, mark], 1)
    sequence = head.fusion.norm(sequence + head.fusion.positions[: sequence.shape[1]])
    torch.testing.assert_close(fused.vector, head.fusion.transformer(sequence, None)[:, 0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("readout", ["mean", "cls"])
def test_the_fused_vector_is_read_out_as_told(readout: str) -> None:
    """One utterance after the other, without masks: what is absent or padding is left out of the sequence."""
    torch.manual_seed(0)
    inputs = make_inputs(3)
    head = DrkfHead(inputs, DrkfConfig(dim=32, fusion="steps", readout=readout)).eval()
    fusion, batch = head.fusion, make_batch(inputs)
    fused = head.fuse(batch)
    steps, valid, present = (fused.parts[part] for part in ("steps", "valid", "present"))
    assert not present.all()
    for row in range(batch.size):
        here = [i for i in range(3) if present[row, i]]
        placed = [
            (steps[i][row] + fusion.kind[i] + fusion.gain * sinusoids(steps[i].shape[1], 32, steps[i]))[valid[i][row]]
            for i in here
        ]
        if not here:
            continue
        if readout == "cls":
            pieces = [fusion.cls[None]]
            for i, x in zip(here, placed, strict=True):
                pieces += [x, (fusion.sep + fusion.kind[i])[None]]
            wanted = fusion.transformer(torch.cat(pieces)[None], None)[0, 0]
        else:
            wanted = fusion.transformer(torch.cat(placed)[None], None)[0].mean(0)
        torch.testing.assert_close(fused.vector[row], wanted, atol=1e-5, rtol=1e-4)


def test_reconstruction_leaves_the_corrected_encoder_alone() -> None:
    inputs = make_inputs(2)
    batch = make_batch(inputs, 16, missing=False)
    for variant, through_target in (("corrected", False), ("faithful", True)):
        torch.manual_seed(0)
        head = DrkfHead(
            inputs, DrkfConfig(dim=32, fusion="steps", variant=variant, input_dropout=0, hide_tokens=0, hide_spans=0)
        )
        fused = head.fuse(batch)
        views = head._views(fused)
        assert set(views) == {"text", "audio"}
        fused.parts["augmented"] = [x.detach() for x in fused.parts["augmented"]]
        assert head._reconstruction(fused, torch.ones(16)).requires_grad == through_target


def test_wrong_settings_are_told() -> None:
    with pytest.raises(MerError, match=r"head\.variant is 'exact'; choose one of corrected, faithful"):
        DrkfConfig(variant="exact")
    with pytest.raises(MerError, match=r"head\.readout is 'last'; choose one of cls, mean"):
        DrkfConfig(readout="last")
    with pytest.raises(MerError, match=r"head\.dim is 130, which 4 attention heads do not divide"):
        DrkfConfig(dim=130)
    with pytest.raises(MerError, match=r"head\.dropout is 1\.5"):
        DrkfConfig(dropout=1.5)
    with pytest.raises(MerError, match=r"head\.audio_stride is 0; it must be at least 1"):
        DrkfConfig(audio_stride=0)


def test_agreement_by_hand() -> None:
    """Emotion vectors along two axes; logits are 2 times the cosine."""
    agreement = Agreement(["text", "audio", "face"], 2, 2, dropout=0.0)
    agreement.log_scale.data, agreement.offset.data = torch.tensor(math.log(2.0)), torch.tensor(0.0)
    one, other = [1.0, 0.0], [0.0, 1.0]
    emotions = torch.tensor([[one, one, other], [one, other, other], [one, one, one], [one, other, one]])
    present = torch.tensor([[True, True, True], [True, True, False], [True, False, False], [False, False, False]])
    weights = agreement.weights(emotions, present)
    agree, differ = 1 / (1 + math.exp(-2)), 0.5
    first = torch.tensor([agree + differ, agree + differ, 2 * differ]) / 2
    torch.testing.assert_close(weights[0], first / first.mean())
    torch.testing.assert_close(weights[1:], torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    member = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])  # the last row has no label
    counted = torch.ones(4, 3)
    pairs = []
    for i, j in combinations(range(3), 2):
        asked = [(a, b) for a in range(3) for b in range(3) if a != b]
        losses = {(a, b): 2 * float(emotions[a, i] @ emotions[b, j]) for a, b in asked}
        right = [math.log1p(math.exp(-x)) for (a, b), x in losses.items() if (a < 2) == (b < 2)]
        wrong = [math.log1p(math.exp(x)) for (a, b), x in losses.items() if (a < 2) != (b < 2)]
        pairs.append((sum(right) / len(right) + sum(wrong) / len(wrong)) / 2)
    assert agreement.loss(emotions, member, counted).item() == pytest.approx(sum(pairs) / 3, rel=1e-5)


def test_what_a_setting_is_depends_on_what_is_fused() -> None:
    ours, released, faithful = DrkfConfig(), DrkfConfig(fusion="steps"), DrkfConfig(variant="faithful")
    assert (ours.ed, ours.intra, ours.kl, ours.adapter_layers) == (1.0, 0.0, 0.0, 1)
    assert (released.ed, released.intra, released.kl, released.adapter_layers) == (0.2, 0.2, 1.0, 0)
    assert faithful.fusion == "steps"
    assert DrkfConfig(fusion="steps", kl=0.0, ed=0.5).kl == 0
    names = {name for name, _ in DrkfHead(make_inputs(3), ours).named_children()}
    assert names == {"encoders", "fusion_of_vectors", "classifier", "agreement"}
