"""Every corpus goes from its true layout to features with the demo encoders, and every utterance gets a fate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from corpora.trees import TREES
from synthetic import noise, write_clip

from mer.cache import Fate, FeatureStore
from mer.pipeline.extraction.options import Execution, ExtractOptions
from mer.pipeline.extraction.run import extract
from mer.stages.interfaces import Corpus

ENCODERS = {"text": ("demo-text",), "audio": ("demo-audio",), "face": ("demo-face",)}
SOUND_ONLY = {"emodb", "m3ed"}


@pytest.fixture(scope="module", autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A cache folder of the user's, so that the demo checkpoints are built once for all tests here."""
    patch = pytest.MonkeyPatch()
    patch.setenv("MER_CACHE", str(tmp_path_factory.mktemp("user-cache")))


def extracted(corpus: Corpus, name: str, out: Path) -> FeatureStore:
    options = {"allow_count_mismatch": True} if hasattr(corpus, "allow_count_mismatch") else {}
    extract(
        ExtractOptions(
            corpus=name.removesuffix("-sdk").removesuffix("-first"),
            root=corpus.root,
            out=out,
            encoders=ENCODERS,
            face_detector="cascade",
            corpus_options=options,
        ),
        Execution(device="cpu"),
    )
    return FeatureStore.open(out)


@pytest.mark.parametrize("name", sorted(TREES))
def test_a_corpus_becomes_features(tmp_path: Path, name: str) -> None:
    corpus = TREES[name](tmp_path / "root")
    store = extracted(corpus, name, tmp_path / "cache" / "corpus.h5")
    utterances = corpus.utterances()
    table = store.utterances
    assert list(table.keys) == [u.key for u in utterances]
    assert list(table.split) == [u.split for u in utterances]
    assert store.corpus["name"] == corpus.info().name
    assert set(table.labels) == set(corpus.info().labels)
    bad = {u.key for u in utterances if u.known_bad}
    files = {
        "audio": {u.key: u.sound_media or u.media for u in utterances},
        "face": {u.key: u.media for u in utterances},
    }
    for modality in ENCODERS:
        fates = dict(zip(table.keys, store.sets[store.pick(modality)].fates, strict=True))
        assert Fate.PENDING not in fates.values()
        if modality == "text":
            assert [key for key, fate in fates.items() if fate != Fate.OK] == [u.key for u in utterances if not u.text]
            continue
        assert {key for key, fate in fates.items() if fate == Fate.FAILED} == bad
        absent = {key for key, path in files[modality].items() if path and not (corpus.root / path).is_file()} - bad
        assert absent <= {key for key, fate in fates.items() if fate == Fate.MISSING}
        usable = [key for key, fate in fates.items() if fate == Fate.OK]
        assert bool(usable) != (modality == "face" and name in SOUND_ONLY)


def test_labels_survive_with_their_indices(tmp_path: Path) -> None:
    corpus = TREES["meld"](tmp_path / "root")
    table = extracted(corpus, "meld", tmp_path / "meld.h5").utterances
    emotion = table.labels["emotion"]
    assert emotion.classes == ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
    assert dict(zip(table.keys, np.asarray(emotion.values).tolist(), strict=True))["train/dia0_utt0"] == 4


def test_meld_clips_of_any_length_and_its_surround_sound(tmp_path: Path) -> None:
    """A clip of five minutes, one of 0.06 s, and 5.1 sound whose speech is in the centre, all in one corpus."""
    corpus = TREES["meld"](tmp_path / "root")
    folder = corpus.root / "train/train_splits"
    write_clip(folder / "dia0_utt0.mp4", 305.0, fps=0.5, size=(160, 120), rate_hz=8000)
    speech = np.zeros((round(0.06 * 48_000), 6), np.float32)
    speech[:, 2] = noise(0.06, 48_000, seed=1)[:, 0]
    write_clip(folder / "dia0_utt3.mp4", 0.12, fps=25, sound=speech, rate_hz=48_000, channels=6)
    store = extracted(corpus, "meld", tmp_path / "meld.h5")
    name = store.pick("audio")
    assert store.sets[name].spec.inputs["channel"] == "center"
    long, short = (store.read(name, f"train/dia0_utt{number}") for number in (0, 3))
    assert 300 < long.times[-1] < 306
    assert 1 <= len(short.values) <= 12
    assert np.isfinite(short.values).all()


def test_both_actors_of_one_picture_are_told_apart(tmp_path: Path) -> None:
    """The two halves of IEMOCAP's frame hold two faces; each turn is given its speaker's."""
    corpus = TREES["iemocap"](tmp_path / "root")
    store = extracted(corpus, "iemocap", tmp_path / "iemocap.h5")
    name = store.pick("face")
    left, right = store.read(name, "Ses01F_impro01_F000"), store.read(name, "Ses01F_impro01_M000")
    assert not np.allclose(left.values.mean(0), right.values.mean(0), atol=1e-3)
    sound = store.pick("audio")
    assert len(store.read(sound, "Ses01F_impro01_F000").values) != len(store.read(sound, "Ses01F_impro01_M000").values)
