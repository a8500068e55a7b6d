"""One table of all heads on features of trained encoders: RAVDESS speech, MELD's words, MOSI's words and sound.

    python ../shared/tools/get_encoders.py ~/encoders
    python benchmarks/trained_encoders.py --encoders ~/encoders --out results/trained
    python benchmarks/trained_encoders.py --encoders ~/encoders --out results/trained --sets mosi --heads linear drkf

Every head is trained with its own default recipe, its epoch picked on validation, and test rows are scored once. Beside
`linear` stands scikit-learn's logistic regression on the same means, standardised, fitted to the same training rows,
its strength picked on the same validation rows. Each head is tested against the baseline that is best on validation.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import real_data
from caches import write_cache
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mer.cache import FeatureStore
from mer.pipeline.extraction.options import Execution, ExtractOptions
from mer.pipeline.extraction.run import extract
from mer.pipeline.results.compare import compare
from mer.pipeline.scores.metrics import score, show
from mer.pipeline.terminal.console import results, table
from mer.pipeline.training.record import versions
from mer.pipeline.training.run_folder import Run
from mer.stages.corpora.ravdess import RavdessCorpus
from mer.stages.encoders.catalog import make_encoder

BASELINES = ("linear", "mlp", "concat", "late", "gated")
HEADS = (*BASELINES, "drkf", "fdrl")
METRICS = {"ravdess": "uar", "ravdess-all": "uar", "meld": "wf1", "mosi": "war"}
STRENGTHS = (10.0, 1.0, 0.1, 0.01, 0.001)


def ravdess_all(path: Path, data: Path, encoders: Path) -> Path:
    """RAVDESS' sound as all layers of Whisper base."""
    root, name = data / "speech" / "ravdess_16k_flac", str(encoders / "whisper-base")
    options = ExtractOptions("ravdess", root=root, out=path, encoders={"audio": (name,)}, layers={"audio": "all"})
    extract(options, Execution(device="cpu"))
    return path


def ravdess_last(path: Path, data: Path, encoders: Path) -> Path:
    """The last layer alone: the last columns of all of them, under the spec it would be extracted with."""
    whole = path.with_name("ravdess-all.h5")
    store = FeatureStore.open(whole if whole.is_file() else ravdess_all(whole, data, encoders))
    name = store.pick("audio")
    block = store.load(name, verify=True)
    width = store.sets[name].spec.dim // store.sets[name].spec.stack
    spec = make_encoder("audio", str(encoders / "whisper-base")).resolve().spec(store.sets[name].spec.inputs, "float16")
    corpus = RavdessCorpus(data / "speech" / "ravdess_16k_flac")
    utterances = {u.key: u for u in corpus.utterances()}
    ends = zip(block.offsets[:-1], block.offsets[1:], strict=True)
    values = [np.ascontiguousarray(block.values[start:end, -width:]) if end > start else None for start, end in ends]
    listed = [utterances[key] for key in store.utterances.keys]
    return write_cache(path, listed, corpus.info().labels, [(spec, values)], "ravdess", ("emobox-folds",))


def with_text(maker: Any, name: str) -> Any:
    """Return a maker of `real_data`'s whose text encoder is a folder."""
    return lambda path, data, encoders: maker(path, data, str(encoders / name))


MAKERS = {
    "ravdess": ravdess_last,
    "ravdess-all": ravdess_all,
    "meld": with_text(real_data.meld, "minilm"),
    "mosi": with_text(real_data.mosi, "minilm"),
}


def trained(cache: Path, name: str, head: str, seeds: int, settings: Sequence[str]) -> Run:
    """Train one head with its default recipe, unless its run is there already."""
    given: dict[str, Any] = {"head": head, "seeds": seeds, "out": cache.parent}
    if name.startswith("ravdess"):
        given["protocol"] = "emobox-folds"
    if name == "mosi":
        given["target"] = "sentiment"
    return real_data.one(cache, f"{name}-{head}", settings, given)


def means(store: FeatureStore) -> np.ndarray:
    """Means over the steps of every modality, side by side: what a probe sees, before it is standardised."""
    parts = []
    for modality in dict.fromkeys(index.spec.modality for index in store.sets.values()):
        block = store.load(store.pick(modality), verify=True)
        ends = zip(block.offsets[:-1], block.offsets[1:], strict=True)
        parts.append(np.stack([block.values[a:b].astype(np.float64).mean(0) for a, b in ends]))
    return np.concatenate(parts, 1)


def logistic_regression(cache: Path, run: Run, metric: str) -> list[tuple[float, float]]:
    """Validation and test score per fold of scikit-learn's logistic regression on the rows of a run's folds."""
    store = FeatureStore.open(cache)
    features, place = means(store), {key: row for row, key in enumerate(store.utterances.keys)}
    labels = store.utterances.labels[run.facts["target"]].values
    found = []
    for parts in run.splits().values():
        train, val, test = ([place[key] for key in parts[part]] for part in ("train", "val", "test"))
        scaled = StandardScaler().fit(features[train]).transform(features)
        tried = []
        for strength in STRENGTHS:
            model = LogisticRegression(C=strength, max_iter=3000).fit(scaled[train], labels[train])
            reached = []
            for rows in (val, test):
                outputs = model.predict_proba(scaled[rows]).astype(np.float32)
                reached.append(score("class", labels[rows], outputs)[metric])
            tried.append(tuple(reached))
        found.append(max(tried))
    return found


def rows_of(name: str, runs: dict[str, Run], metric: str) -> Iterator[tuple[str, ...]]:
    """Cells of the table per head: validation, test with its interval, and the test against the best baseline."""
    valid = {head: float(np.mean([m["val"][metric] for m in run.members])) for head, run in runs.items()}
    best = max((head for head in runs if head in BASELINES), key=valid.__getitem__, default=next(iter(runs)))
    others = [head for head in runs if head != best]
    pairs = compare([runs[best].path, *(runs[h].path for h in others)], metric) if others else []
    against = dict(zip(others, pairs, strict=True))
    for head, run in runs.items():
        found, late = run.facts["metrics"][metric], len(run.facts["best_at_last_epoch"])
        interval = "" if found["low"] is None else f"{show(metric, found['low'])} to {show(metric, found['high'])}"
        pair = against.get(head)
        told = "best baseline" if pair is None else f"{100 * pair.difference:+.1f} (p = {pair.p_holm:.3f})"
        mean = show(metric, found["mean"]) + ("" if found["std"] is None else f" ± {show(metric, found['std'])}")
        yield name, head, show(metric, valid[head]), mean, interval, told, f"{late} of {len(run.members)}"


def print_facts(caches: dict[str, Path]) -> None:
    """Versions of what computes, and the digests of the encoders' weights."""
    results.print(", ".join(f"{name} {number}" for name, number in versions().items()), soft_wrap=True)
    for name, cache in caches.items():
        for index in FeatureStore.open(cache).sets.values():
            results.print(f"{name}: {index.spec.set_name} {json.dumps(dict(index.spec.encoder))}", soft_wrap=True)


def main() -> None:
    """Make the caches, train, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoders", type=Path, required=True, help="folder that get_encoders.py made")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=real_data.DATA)
    parser.add_argument("--sets", nargs="+", choices=MAKERS, default=list(MAKERS))
    parser.add_argument("--heads", nargs="+", default=list(HEADS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", dest="settings", nargs="*", default=[], help="settings for every run")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    caches = {name: given.out / f"{name}.h5" for name in given.sets}
    for name, cache in caches.items():
        if not cache.is_file():
            MAKERS[name](cache, given.data, given.encoders)
    print_facts(caches)
    made = table(
        "Trained encoders", "data", "head", ">validation", ">test", ">95 % interval", ">against the best baseline",
        ">best at the last epoch",
    )  # fmt: skip
    for name, cache in caches.items():
        metric = METRICS[name]
        runs = {head: trained(cache, name, head, given.seeds, given.settings) for head in given.heads}
        by_fold = np.array(logistic_regression(cache, next(iter(runs.values())), metric)).mean(0)
        made.add_row(name, "scikit-learn", *(show(metric, value) for value in by_fold), "", "", "")
        for cells in rows_of(name, runs, metric):
            made.add_row(*cells)
    results.print(made)


if __name__ == "__main__":
    main()
