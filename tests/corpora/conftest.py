"""Trees made from the real label lists: annotation in the released form, every utterance, no media."""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from pathlib import Path

import pytest
from corpora.trees import iemocap_labels, lines, m3ed_annotation, write

from mer.cache.exchange.safe_npy import read_npz
from mer.stages.corpora.iemocap import EXTRA

SIX = ("hap", "sad", "neu", "ang", "exc", "fru")


@pytest.fixture(scope="session")
def iemocap_lists(shared_data: Path) -> dict[str, dict[str, str]]:
    """Turn -> label of EmoBox (five tags) and of MERBench's two sets."""
    folder = shared_data / "annotations"
    emobox = [json.loads(line) for line in (folder / "emobox/iemocap/iemocap.jsonl").read_text().splitlines()]
    found = {"emobox": {entry["key"].partition("-")[2]: entry["emo"] for entry in emobox}}
    for name, classes in (("4way", SIX[:4]), ("6way", SIX)):
        corpus = read_npz(folder / f"merbench/iemocap/label_{name}.npz")["whole_corpus"].item()
        found[name] = {key: classes[int(entry["emo"])] for key, entry in corpus.items()}
    return found


@pytest.fixture(scope="session")
def iemocap_tree(iemocap_lists: dict[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label and transcript files of the release's form that hold the turns of all lists, unrated ones apart."""
    root = tmp_path_factory.mktemp("iemocap")
    dialogues: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in sorted(iemocap_lists["emobox"].keys() | iemocap_lists["6way"].keys()):
        tag = iemocap_lists["emobox"].get(name) or ("xxx" if name in EXTRA else iemocap_lists["6way"][name])
        dialogues[name.rpartition("_")[0]].append((name, tag))
    for dialogue, turns in dialogues.items():
        home = root / f"Session{dialogue[4]}" / "dialog"
        timed = [(2.0 * n, 2.0 * n + 1.5, name, tag) for n, (name, tag) in enumerate(turns)]
        write(home / f"EmoEvaluation/{dialogue}.txt", iemocap_labels(timed))
        spoken = [f"{name} [{start:08.4f}-{end:08.4f}]: Excuse me." for start, end, name, _ in timed]
        write(home / f"transcriptions/{dialogue}.txt", lines(spoken))
    return root


@pytest.fixture(scope="session")
def m3ed_tree(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real split lists, and an annotation of the released form made from EmoBox's lists."""
    root = tmp_path_factory.mktemp("m3ed")
    shutil.copytree(shared_data / "annotations/m3ed/splitInfo", root / "splitInfo")
    folder = shared_data / "annotations/emobox/m3ed"
    letters = {
        line.split()[0]: Path(line.split()[-1]).name[0]
        for line in (folder / "data.seg.audmap").read_text().splitlines()
    }
    rows = []
    for line in (folder / "data.seg.wrd.stm").read_text().splitlines():
        key, name, emotion = re.search(r"<id=(m3ed-\S+?),.*spk=[^_]*_(.*),emotion=(\w+)>", line).groups()  # type: ignore[union-attr]
        rows.append((key.partition("-")[2], letters[key], name, emotion, emotion))
    write(root / "annotation.json", m3ed_annotation(rows))
    return root
