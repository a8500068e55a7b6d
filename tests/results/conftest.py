"""The made-up features that reports are tested on, too, and a run on a small demo corpus with its clips."""

from __future__ import annotations

from pathlib import Path

import pytest
from faces.conftest import yunet
from reporting.conftest import features, make_run

from mer.cache import FeatureStore
from mer.pipeline.extraction.options import Execution, ExtractOptions
from mer.pipeline.extraction.presets import chosen_encoders
from mer.pipeline.extraction.run import extract
from mer.pipeline.results.predict import Asked
from mer.pipeline.training.run import train
from mer.pipeline.training.run_folder import Run
from mer.pipeline.training.settings import build_options

__all__ = ["features", "make_run", "yunet"]


class Trained:
    """A run on a small demo corpus, with its clips."""

    def __init__(self, folder: Path) -> None:
        self.clips = folder / "clips"
        self.clips.mkdir()
        options = ExtractOptions(
            "demo",
            root=self.clips,
            out=folder / "demo.h5",
            preset="demo",
            encoders=chosen_encoders("demo"),
            face_detector="cascade",
            corpus_options={"clips": 16},
        )
        extract(options, Execution(device="cpu", decode_threads=2, keep_faces=True))
        self.store = FeatureStore.open(folder / "demo.h5")
        self.folder = folder
        self.run = self.train("plain")

    def train(self, name: str, **settings: object) -> Run:
        given = {
            "head": "concat",
            "seeds": 2,
            "device": "cpu",
            "train.epochs": 3,
            "out": self.folder / name,
            **settings,
        }
        return Run.open(train(build_options({"features": self.folder / "demo.h5", **given})).path)

    def asked(self, key: str) -> Asked:
        row = list(self.store.utterances.keys).index(key)
        return Asked(self.clips / str(self.store.utterances.media[row]), self.store.utterances.text[row])


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("predict"))
