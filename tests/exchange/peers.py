"""What the peers' own readers do with their files, written anew from the description of their behaviour.

The peers are not installed here. Each function follows what the format's reader is documented to do, and fails where it
would fail; `pickle` and `allow_pickle` are used as the peers use them, on files these tests made themselves.
"""

import gzip
import json
import pickle
from pathlib import Path

import h5py
import numpy as np


def mmsa(path: Path, mode: str, aligned: bool = False) -> dict:
    """MMSA's data loader for one of `train`, `valid`, `test`."""
    with path.open("rb") as handle:
        data = pickle.load(handle)
    part = data[mode]
    loaded = {
        "text": part["text"].astype(np.float32),
        "vision": part["vision"].astype(np.float32),
        "audio": part["audio"].astype(np.float32),
        "raw_text": part["raw_text"],
        "ids": part["id"],
        "M": np.array(part["regression_labels"]).astype(np.float32),
    }
    if not aligned:
        loaded["audio_lengths"] = part["audio_lengths"]
        loaded["vision_lengths"] = part["vision_lengths"]
    loaded["audio"][loaded["audio"] == -np.inf] = 0
    for index in range(len(loaded["ids"])):  # what __getitem__ touches
        assert all(np.isfinite(loaded[name][index]).all() for name in ("text", "audio", "vision"))
        assert isinstance(loaded["raw_text"][index], str)
        assert len(loaded["ids"][index].split("$_$")) == 2
    assert loaded["text"].ndim == loaded["audio"].ndim == loaded["vision"].ndim == 3
    return loaded


SDK_TEMPLATE = (
    "root name",
    "computational sequence description",
    "dimension namescomputational sequence version",  # as its source has it, without the comma
    "alignment compatible",
    "dataset name",
    "dataset version",
    "creator",
    "contact",
    "featureset bib citation",
    "dataset bib citation",
)
"""What mmsdk's `featuresetMetadataTemplate` holds (mmdatasdk/configurations/metadataconfigs.py)."""


def csd(path: Path) -> tuple[dict, dict]:
    """CMU-MultimodalSDK: data and metadata of a computational sequence, with its validation."""
    with h5py.File(path, "r") as file:
        root = next(iter(file.keys()))
        metadata = {key: json.loads(file[root]["metadata"][key][0]) for key in file[root]["metadata"]}
        data = {
            key: (np.array(entry["features"]), np.array(entry["intervals"]))
            for key, entry in file[root]["data"].items()
        }
    assert metadata["root name"] == root
    missing = [name for name in SDK_TEMPLATE if name not in metadata]  # validate_metadata_format
    assert not missing
    metadata["featureset bib citation"] + metadata["dataset name"] + metadata["dataset bib citation"]  # bib_citations
    for features, intervals in data.values():
        assert intervals.ndim == 2
        assert features.ndim >= 2
        assert features.shape[0] == intervals.shape[0]
    return data, metadata


def merbench(folder: Path, feature: str, corpus: str = "train_corpus") -> tuple[list, list, list]:
    """MERBench: names, labels and features of one corpus of `label.npz`."""
    tables = np.load(folder / "label.npz", allow_pickle=True)
    names, labels, features = [], [], []
    for name, label in tables[corpus].tolist().items():
        assert set(label) >= {"emo", "val"}
        values = np.load(folder / "features" / feature / f"{name}.npy")
        assert values.dtype == np.float32
        names.append(name)
        labels.append(label)
        features.append(values.squeeze() if feature.endswith("UTT") else values)
    return names, labels, features


def dialoguernn(path: Path, layout: str, train: bool) -> list[tuple]:
    """The `Dataset` of DialogueRNN (IEMOCAP, MELD) and MMGCN: one entry per dialogue."""
    with path.open("rb") as handle:
        content = pickle.load(handle, encoding="latin1")
    if layout == "iemocap":
        ids, speakers, labels, text, audio, visual, _sentence, train_ids, test_ids = content
    elif layout == "meld":
        ids, speakers, labels, text, audio, _sentence, train_ids, test_ids, _ = content
        visual = audio
    else:
        ids, speakers, labels, text, audio, visual, _sentence, train_ids, test_ids, _ = content
    entries = []
    for key in list(train_ids if train else test_ids):
        spoken = (
            np.array([[1, 0] if one == "M" else [0, 1] for one in speakers[key]])
            if layout == "iemocap"
            else np.array(speakers[key])
        )
        stacked = [np.array(one[key], np.float32) for one in (text, visual, audio)]
        assert all(one.ndim == 2 and len(one) == len(labels[key]) for one in stacked)
        assert spoken.shape == (len(labels[key]), 2 if layout == "iemocap" else 9)
        entries.append((key, ids[key], *stacked, spoken, np.array(labels[key], np.int64)))
    return entries


def cosmic_meld(path: Path, split: str) -> list[tuple]:
    """COSMIC's MELD dataset: four RoBERTa layers per utterance."""
    with path.open("rb") as handle:
        (speakers, emotions, sentiments, r1, r2, r3, r4, sentences, train, test, valid) = pickle.load(
            handle, encoding="latin1"
        )
    keys = {"train": train, "test": test, "valid": valid}[split]
    for key in keys:
        assert len({len(one[key]) for one in (speakers, emotions, sentiments, r1, r2, r3, r4, sentences)}) == 1
    return [(key, np.array(r1[key], np.float32), np.array(emotions[key], np.int64)) for key in keys]


def emotion2vec(stem: Path) -> list[tuple[str, str, np.ndarray]]:
    """emotion2vec's `load_emotion2vec` way: one long array, cut by lengths, with labels."""
    values = np.load(stem.with_suffix(".npy"), mmap_mode="r") if stem.with_suffix(".npy").stat().st_size else None
    lengths = [int(line.rstrip()) for line in stem.with_suffix(".lengths").read_text().splitlines()]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    lines = [line.split("\t") for line in stem.with_suffix(".emo").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == len(lengths)
    assert offsets[-1] == len(values)
    assert values.dtype == np.float32
    return [(key, emo, np.array(values[a:b])) for (key, emo), a, b in zip(lines, offsets, offsets[1:], strict=False)]


def lhotse(folder: Path, name: str) -> dict[str, np.ndarray]:
    """lhotse: validate every `Features` entry of a manifest and load its `numpy_hdf5` array."""
    loaded = {}
    with gzip.open(folder / f"features-{name}.jsonl.gz", "rt", encoding="utf-8") as manifest:
        for line in manifest:
            entry = json.loads(line)
            assert entry["start"] >= 0
            assert min(entry["duration"], entry["num_frames"], entry["num_features"], entry["sampling_rate"]) > 0
            hop = round(entry["frame_shift"] * entry["sampling_rate"], ndigits=12)
            assert float(hop).is_integer()
            samples = round(entry["duration"] * entry["sampling_rate"])
            assert (samples + hop // 2) // hop == entry["num_frames"]  # compute_num_frames, rounding half up
            assert entry["storage_type"] == "numpy_hdf5"
            with h5py.File(folder / entry["storage_path"], "r") as file:
                array = file[entry["storage_key"]][0:None]
            assert array.shape == (entry["num_frames"], entry["num_features"])
            loaded[entry["recording_id"]] = array
    return loaded


def lhotse_supervisions(folder: Path) -> dict[str, dict]:
    """lhotse: supervision segments by recording."""
    with gzip.open(folder / "supervisions.jsonl.gz", "rt", encoding="utf-8") as manifest:
        entries = [json.loads(line) for line in manifest]
    for entry in entries:
        assert {"id", "recording_id", "start", "duration", "channel"} <= set(entry)
        assert entry["duration"] > 0
    return {entry["recording_id"]: entry for entry in entries}
