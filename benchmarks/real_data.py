"""Heads on real features: CMU-MOSI's published vectors, RAVDESS speech, MELD's transcripts.

    python benchmarks/real_data.py mosi --out results/mosi
    python benchmarks/real_data.py ravdess --out results/ravdess --audio compare --heads linear mlp drkf

    python benchmarks/real_data.py mosi --out results/mosi --target intensity   # the sentiment's value, -3 to 3
    python benchmarks/real_data.py mosi-unfitted --out results/unfitted         # the 31 test videos alone, five folds
    python benchmarks/real_data.py meld --out results/minilm --text-encoder all-MiniLM-L6-v2   # a folder or a hub id

Each data set is turned into a cache once and every head is trained with the set's own protocol; the validation part
comes from the training side. The printed table is what `docs/results.md` shows.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).parent))
from caches import write_cache

from mer.cache import FeatureSequence, FeatureSpec
from mer.cache.exchange import merbench
from mer.pipeline.extraction.options import Execution, ExtractOptions
from mer.pipeline.extraction.run import extract
from mer.pipeline.scores.metrics import show
from mer.pipeline.terminal.console import results, table
from mer.pipeline.training.run import train
from mer.pipeline.training.run_folder import Run
from mer.pipeline.training.settings import build_options
from mer.stages.encoders.catalog import make_encoder
from mer.stages.encoders.testing import encode_all
from mer.stages.interfaces import LabelSpec
from mer.stages.utterance import Utterance

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SHOWN = {
    "mosi": ("war", "wf1"), "mosi intensity": ("acc2", "mae", "pearson", "acc7"),
    "ravdess": ("uar", "war", "macro_f1"), "meld": ("wf1", "war", "uar"),
}  # fmt: skip


def encoded(utterances: Sequence[Utterance], name: str) -> tuple[FeatureSpec, list[Any]]:
    """Transcripts as the word-piece vectors of a frozen encoder."""
    encoder = make_encoder("text", name).resolve()
    loaded = encoder.load("cpu")
    found = encode_all(loaded, [u.text or "" for u in utterances], budget=1024)
    values = []
    for sequence in found:
        if not isinstance(sequence, FeatureSequence):
            raise sequence
        values.append(sequence.values)
    return encoder.spec({}, "float16"), values


def mosi(path: Path, data: Path, text_encoder: str, parts: tuple[str, ...] = ("train", "test")) -> Path:
    """CMU-MOSI as published with the contextual LSTM: one vector per utterance and modality, 62 + 31 videos.

    With a text encoder, its features of the transcripts beside the published vectors of sound alone: those of text and
    face were fitted on the training videos, these were not. The value of the sentiment, -3 to 3, is MERBench's.
    """
    values = merbench.read(data / "annotations" / "merbench" / "cmumosi" / "label.npz").utterances
    intensity = dict(zip(values.keys, values.labels["sentiment"].values.tolist(), strict=True))
    with np.load(data / "features" / "mosi_poria2017_trimodal.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    split = np.empty(len(arrays["id"]), dtype=object)
    split[arrays["train_index"]], split[arrays["test_index"]] = "train", "test"
    utterances = [
        Utterance(
            key=str(arrays["id"][row]),
            text=str(arrays["transcript"][row]),
            dialogue=str(arrays["video"][row]),
            speaker=str(arrays["video"][row]),
            turn=int(str(arrays["id"][row]).rpartition("_")[2]),
            split=str(split[row]),
            labels={
                "sentiment": ("negative", "positive")[int(arrays["label"][row])],
                "intensity": intensity[str(arrays["id"][row])],
            },
        )
        for row in range(len(arrays["id"]))
    ]
    features = []
    published = (("text", "text"), ("audio", "audio"), ("face", "video"))
    if text_encoder:
        features.append(encoded(utterances, text_encoder))
    for modality, source in published[1:2] if text_encoder else published:
        whole = np.empty((len(utterances), arrays[f"{source}_train"].shape[1]), dtype=np.float32)
        whole[arrays["train_index"]], whole[arrays["test_index"]] = arrays[f"{source}_train"], arrays[f"{source}_test"]
        spec = FeatureSpec(modality, "poria2017", {"source": "published"}, whole.shape[1], dtype="float32")
        features.append((spec, list(whole[:, None])))
    labels = {"sentiment": LabelSpec("class", ("negative", "positive")), "intensity": LabelSpec("real")}
    rows = [row for row, utterance in enumerate(utterances) if utterance.split in parts]
    kept = [(spec, [values[row] for row in rows]) for spec, values in features]
    return write_cache(path, [utterances[row] for row in rows], labels, kept, "mosi")


def mosi_unfitted(path: Path, data: Path, text_encoder: str) -> Path:
    """The 31 test videos: the published encoders were not fitted to them, so that validation means something."""
    return mosi(path, data, text_encoder, ("test",))


def ravdess(path: Path, data: Path, text_encoder: str) -> Path:
    """RAVDESS speech through `mer extract` with encoders that need no weights; folds of EmoBox."""
    encoders = {"audio": ("egemaps", "librosa-mfcc", "compare")}
    extract(
        ExtractOptions("ravdess", root=data / "speech" / "ravdess_16k_flac", out=path, encoders=encoders),
        Execution(device="cpu"),
    )
    return path


def tfidf(utterances: Sequence[Utterance]) -> tuple[FeatureSpec, list[Any]]:
    """Transcripts as TF-IDF reduced to 256 numbers; the reduction is fitted on the training split."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline, make_union

    text = [str(u.text) for u in utterances]
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=3, sublinear_tf=True, max_features=50_000)
    reduce = make_pipeline(make_union(words, letters), TruncatedSVD(256, random_state=0))
    reduce.fit([t for t, u in zip(text, utterances, strict=True) if u.split == "train"])
    vectors = reduce.transform(text).astype(np.float32)
    spec = FeatureSpec("text", "tfidf-svd", {"source": "scikit-learn"}, vectors.shape[1], dtype="float32")
    return spec, list(vectors[:, None])


def meld(path: Path, data: Path, text_encoder: str) -> Path:
    """MELD's transcripts as TF-IDF, or as the features of a text encoder."""
    utterances = []
    for split, name in (("train", "train"), ("val", "dev"), ("test", "test")):
        with (data / "annotations" / "meld" / f"{name}_sent_emo.csv").open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                dialogue = f"{split}/dia{row['Dialogue_ID']}"
                utterances.append(
                    Utterance(
                        key=f"{dialogue}_utt{row['Utterance_ID']}",
                        text=row["Utterance"],
                        speaker=row["Speaker"],
                        dialogue=dialogue,
                        turn=int(row["Utterance_ID"]),
                        split=split,
                        labels={"emotion": row["Emotion"]},
                    )
                )
    text = encoded(utterances, text_encoder) if text_encoder else tfidf(utterances)
    classes = ("neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear")
    return write_cache(path, utterances, {"emotion": LabelSpec("class", classes)}, [text], "meld")


MAKERS: dict[str, Callable[[Path, Path, str], Path]] = {
    "mosi": mosi, "mosi-unfitted": mosi_unfitted, "ravdess": ravdess, "meld": meld,
}  # fmt: skip


def one(cache: Path, name: str, settings: Sequence[str], given: dict[str, Any], config: Path | None = None) -> Run:
    """Train one configuration, unless its run is there already."""
    out = given["out"] / name
    if (out / "run.json").is_file() and json.loads((out / "run.json").read_text())["status"] == "done":
        return Run.open(out)
    options = build_options({"features": cache, **given, "out": out}, config, settings)
    return train(options).run


def main() -> None:
    """Make the cache if need be, train, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_set", choices=MAKERS)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, required=True, help="folder for the cache and the runs")
    parser.add_argument("--heads", nargs="+", default=["concat", "drkf", "fdrl"])
    parser.add_argument("--contexts", nargs="+", default=["none"])
    parser.add_argument("--modalities", nargs="+", default=[""], help="e.g. text text,audio; empty takes all")
    parser.add_argument("--text-encoder", default="", help="for mosi and meld: folder or hub id")
    parser.add_argument("--target", default="", help="of mosi: sentiment (two classes, the default) or intensity")
    parser.add_argument("--audio", default="", help="audio encoder to use, where the cache has several")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", dest="settings", nargs="*", default=[], help="settings for every run")
    parser.add_argument("--configs", nargs="*", type=Path, default=[], help="settings files to run in place of --heads")
    parser.add_argument("--tag", default="", help="added to the names of the runs")
    arguments = parser.parse_args()
    cache = arguments.out / f"{arguments.data_set}.h5"
    if not cache.is_file():
        cache.parent.mkdir(parents=True, exist_ok=True)
        MAKERS[arguments.data_set](cache, arguments.data, arguments.text_encoder)
    metrics = SHOWN[
        f"{arguments.data_set.removesuffix('-unfitted')} {arguments.target}".removesuffix(" sentiment").strip()
    ]
    ranked = [">auc"] if metrics == SHOWN["mosi"] else []
    made = table(arguments.data_set, "run", "modalities", *(f">{name}" for name in metrics), *ranked, ">parameters")
    for label, given, config in jobs(arguments):
        run = one(cache, label, arguments.settings, given, config)
        facts, scores = run.facts, run.facts["metrics"]
        made.add_row(
            label, "+".join(facts["features"]["sets"]),
            *(_with_spread(m, scores[m]) for m in metrics), *([ranking(run)] if ranked else []),
            f"{facts['parameters']:,}",
        )  # fmt: skip
    results.print(made)


def ranking(run: Run) -> str:
    """Area under the ROC curve of two classes, which no threshold enters: mean and standard deviation over the runs."""
    found = []
    for member in run.members:
        tested = run.predictions(member["name"]).part("test")
        found.append(roc_auc_score(tested.labels, tested.outputs[:, 1] - tested.outputs[:, 0]))
    return f"{100 * np.mean(found):.1f} ± {100 * np.std(found, ddof=min(1, len(found) - 1)):.1f}"


def _with_spread(metric: str, scores: dict[str, Any]) -> str:
    """Mean, and the standard deviation where there are several runs."""
    mean = show(metric, scores["mean"])
    return mean if scores["std"] is None else f"{mean} ± {show(metric, scores['std'])}"


def jobs(arguments: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any], Path | None]]:
    """Name, options and settings file of every run asked for."""
    fixed: dict[str, Any] = {"seeds": arguments.seeds, "out": arguments.out}
    if arguments.data_set.startswith("mosi"):
        fixed["target"] = arguments.target or "sentiment"
    if arguments.data_set == "mosi-unfitted":
        fixed |= {"protocol": "kfold", "folds": 5}
    if arguments.audio:
        fixed["sets"] = {"audio": arguments.audio}
    for context, modalities in itertools.product(arguments.contexts, arguments.modalities):
        given = fixed | ({"context": context} if context != "none" else {})
        given |= {"modalities": modalities.split(",")} if modalities else {}
        tail = (context, modalities.replace(",", "+"), arguments.audio, arguments.target, arguments.tag)
        for head in [] if arguments.configs else arguments.heads:
            yield "-".join(part for part in (head, *tail) if part), {**given, "head": head}, None
        for config in arguments.configs:
            name = f"{config.parent.name}-{config.stem}"
            yield "-".join(part for part in (name, *tail) if part), given, config


if __name__ == "__main__":
    main()
