"""Rates of this machine: `mer extract` beside a loop of the usual shape and beside the bare models.

    a  mer extract            decode, sort, batch, encode, write shards, all included
    b  the usual loop         one file at a time, batch 1, all hidden states, one .npy per clip
    c  the limit              the models' bare forward passes over the batches of a, inputs already on the device

All three use the same clips and the same weights, and run in this process one after the other. a and c run the model as
`mer` prepares it, b the model as transformers loads it.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mer.cache import Fate, FeatureStore

from ..extraction.options import Execution, ExtractOptions
from ..extraction.publish import ExtractSummary
from ..extraction.run import Prepared, extract, prepare
from ..extraction.tasks import loaded_encoder
from .matrix_rate import matrix_rate, operations
from .models import bench_checkpoint


@dataclass
class Rates:
    """One modality's times, one per repetition, and what they were measured on."""

    modality: str
    clips: int
    media_seconds: float
    seconds: dict[str, list[float]]
    """Seconds of a, b and c in every turn."""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    bytes_written: int = 0
    host_peak_mb: float = 0.0
    device_peak_mb: float = 0.0
    largest_difference: float = 0.0
    """Largest difference between the features of a and b, relative to the largest value."""
    operations: float = 0.0
    """Floating-point operations of the models in one turn of a, its padding included."""
    matrix_rate: float = 0.0
    """Operations a second of a large matrix product in the same precision on the same device."""

    @property
    def extract_seconds(self) -> float:
        """Seconds of `mer extract`, median over the turns."""
        return float(np.median(self.seconds["a"]))

    @property
    def over_loop(self) -> float:
        """How many times faster `mer extract` is than the usual loop (a/b as rates), median over the turns."""
        return float(np.median(np.divide(self.seconds["b"], self.seconds["a"])))

    @property
    def of_limit(self) -> float:
        """Share of the bare models' rate that `mer extract` reaches (a/c as rates), median over the turns."""
        return float(np.median(np.divide(self.seconds["c"], self.seconds["a"])))

    @property
    def of_matrix_rate(self) -> float:
        """Share of the device's matrix rate that the whole of `mer extract` keeps up."""
        return self.operations / self.extract_seconds / self.matrix_rate


def bench_modality(
    modality: str, corpus: ExtractOptions, size: str, device: str, scratch: Path, repeat: int = 3
) -> Rates:
    """Measure one modality on a corpus.

    Parameters
    ----------
    modality
        `text`, `audio` or `face`.
    corpus
        Which clips, and in which precision; its encoders are replaced.
    size
        `tiny`, `base` or `large`.
    device
        `cpu`, `cuda` or `cuda:i`.
    scratch
        Folder for what a and b write; emptied.
    repeat
        Repetitions of each. a, b, c take turns and are compared within a turn, so that a slow moment hits all.
    """
    options = replace(corpus, encoders={modality: (str(bench_checkpoint(modality, size)),)})
    execution = Execution(device=device)
    prepared = prepare(replace(options, out=scratch / "plan.h5"), execution)
    loaded, _ = loaded_encoder(prepared.resolved.sets[0], prepared.resolved.settings)
    encoder: Any = prepared.resolved.sets[0].encoder
    plain = _as_transformers_loads_it(encoder, device)
    recorded = _record_batches(loaded, replace(options, out=scratch / "warm" / "x.h5"), execution)
    spent: dict[str, list[float]] = {"a": [], "b": [], "c": []}
    summary: ExtractSummary | None = None
    with _peak_memory(device) as peak:
        for turn in range(repeat):
            out = scratch / f"a{turn}" / "x.h5"
            seconds, summary = _timed(lambda out=out: extract(replace(options, out=out), execution))  # type: ignore[misc]
            spent["a"].append(seconds)
            spent["b"].append(_timed(lambda: usual_loop(prepared, plain, scratch / "b"))[0])
            spent["c"].append(_timed(lambda: _replay(recorded, loaded, device))[0])
    assert summary is not None
    store = FeatureStore.open(summary.catalogue)
    return Rates(
        modality,
        len(store.utterances),
        float(np.nansum(store.utterances.duration_seconds)),
        spent,
        summary.stage_seconds,
        sum(info.bytes for index in summary.made.values() for info in index.shards),
        *peak(),
        _difference(store, scratch / "b"),
        operations(lambda: _replay(recorded, loaded, device)),
        matrix_rate(device, encoder.precision),
    )


def _as_transformers_loads_it(encoder: Any, device: str) -> Any:
    from mer.stages.encoders.loading import load_model

    return load_model(encoder.found, device, encoder.precision, trust_remote_code=False)


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


# --- c: the limit ---------------------------------------------------------------------------------------------------


def _record_batches(
    loaded: Any, options: ExtractOptions, execution: Execution
) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Run an extraction once and keep what the model was called with."""
    recorded: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    hook = loaded.model.register_forward_pre_hook(
        lambda _module, args, kwargs: recorded.append((args, dict(kwargs))), with_kwargs=True
    )
    extract(options, execution)
    hook.remove()
    return recorded


def _replay(recorded: Sequence[tuple[tuple[Any, ...], dict[str, Any]]], loaded: Any, device: str) -> None:
    """Run the bare model over the recorded batches."""
    import torch

    from mer.stages.encoders.loading import settle

    with torch.inference_mode():
        for args, kwargs in recorded:
            loaded.model(*args, **kwargs)
    settle(device)


# --- b: the usual loop ----------------------------------------------------------------------------------------------


def usual_loop(prepared: Prepared, model: Any, folder: Path) -> None:
    """Encode one file at a time at batch size 1 with all hidden states, saving one .npy per clip.

    This is the shape of the scripts in use (see docs/extraction.md): read, preprocess, forward, stack every layer, take
    the last, save. The weights and the inputs are those of `mer extract`; nothing is padded.
    """
    import torch

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (made,) = prepared.resolved.sets
    loaded: Any = loaded_encoder(made, prepared.resolved.settings)[0]
    with torch.inference_mode():
        for number, values in enumerate(_LOOPS[made.modality](prepared, loaded, model)):
            np.save(folder / f"{number}.npy", values)


def _last_of_all(output: Any) -> Any:
    """Stack all hidden states, as the usual scripts do, and return the model's output on the host."""
    import torch

    torch.stack(output.hidden_states)
    return output.last_hidden_state.float().cpu().numpy()


def _text_loop(prepared: Prepared, loaded: Any, model: Any) -> Iterator[Any]:
    for job in prepared.listing.jobs:
        batch = loaded.tokenizer(job.text or "", return_tensors="pt", truncation=True, max_length=512).to(loaded.device)
        output = model(**batch, output_hidden_states=True)
        yield _last_of_all(output)[0, len(loaded.prefix) : -len(loaded.suffix)]


def _audio_loop(prepared: Prepared, loaded: Any, model: Any) -> Iterator[Any]:
    import torch
    from transformers import Wav2Vec2FeatureExtractor

    from ..extraction.decoding import decode

    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False)
    precision = getattr(torch, prepared.resolved.sets[0].encoder.precision)  # type: ignore[attr-defined]
    for job in prepared.listing.jobs:
        waveform = decode(job, {"audio"}, prepared.resolved.settings).waveform
        if waveform is None:
            yield np.zeros((0, loaded.width), np.float32)
            continue
        batch = extractor(waveform, sampling_rate=16_000, return_tensors="pt").input_values
        output = model(batch.to(loaded.device, precision), output_hidden_states=True)
        yield _last_of_all(output)[0]


def _face_loop(prepared: Prepared, loaded: Any, model: Any) -> Iterator[Any]:
    import torch

    from ..extraction.decoding import decode

    precision = getattr(torch, prepared.resolved.sets[0].encoder.precision)  # type: ignore[attr-defined]
    for job in prepared.listing.jobs:
        faces = decode(job, {"face"}, prepared.resolved.settings).faces
        crops = np.zeros((0, 224, 224, 3), np.uint8) if faces is None else faces.crops
        parts = []
        for start in range(0, len(crops), 32):
            pixels = torch.from_numpy(crops[start : start + 32]).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.5)
            output = model(pixels.to(loaded.device, precision), output_hidden_states=True)
            parts.append(_last_of_all(output)[:, 0])
        yield np.concatenate(parts) if parts else np.zeros((0, loaded.width), np.float32)


_LOOPS: dict[str, Callable[[Prepared, Any, Any], Iterator[Any]]] = {
    "text": _text_loop,
    "audio": _audio_loop,
    "face": _face_loop,
}


# --- beside the times -----------------------------------------------------------------------------------------------


def _difference(store: FeatureStore, folder: Path) -> float:
    """Largest difference between what a and b wrote, relative to the largest value; the cache rounds to float16."""
    name = next(iter(store.sets))
    worst = 0.0
    for number, key in enumerate(store.utterances.keys):
        if store.sets[name].fates[number] != Fate.OK:
            continue
        mine = store.read(name, key)
        other = np.load(folder / f"{number}.npy")
        values = mine.values[mine.valid].astype(np.float32)
        if len(values) != len(other):
            return float("nan")
        if len(other):
            worst = max(worst, float(np.abs(values - other).max() / np.abs(other).max()))
    return worst


@contextmanager
def _peak_memory(device: str) -> Iterator[Callable[[], tuple[float, float]]]:
    """Watch the memory of this process, in MiB, and of the device."""
    import psutil
    import torch

    process, most, stop = psutil.Process(), [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            most[0] = max(most[0], process.memory_info().rss)

    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: (most[0] / 2**20, torch.cuda.max_memory_allocated(device) / 2**20 if cuda else 0.0)
    finally:
        stop.set()
        thread.join()
