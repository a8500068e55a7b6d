"""Step 1: the request -> an opened corpus, encoders and media settings."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mer.cache import Catalogue, MerError, shard_folder
from mer.stages.corpora.counts import utterances_of
from mer.stages.device import resolve_device
from mer.stages.interfaces import MODALITIES, Corpus, CorpusInfo
from mer.stages.registry import find
from mer.stages.utterance import Utterance

from .corpus_root import find_root, remember
from .decoding import TaskSettings, sound_inputs
from .local_state import side_folder
from .options import Execution, ExtractOptions
from .presets import restricted_licences
from .previous import read_previous
from .restore import finder_as_begun
from .tasks import EncodingSet

logger = logging.getLogger("mer.extract")


@dataclass(frozen=True)
class Resolved:
    """An extraction whose corpus is open and whose encoders are pinned."""

    corpus: Corpus
    info: CorpusInfo
    listed: list[Utterance]
    """Everything the corpus lists."""
    catalogue: Path
    """Where the features go."""
    previous: Catalogue | None
    """What is there already."""
    sets: list[EncodingSet]
    settings: TaskSettings


def resolve(options: ExtractOptions, execution: Execution) -> Resolved:
    """Open the corpus and the catalogue it goes to, then find encoders, face detector and device.

    Raises
    ------
    MerError
        If the corpus, an encoder, the device or the catalogue is not usable.
    """
    for sentence in restricted_licences(options.encoders):
        logger.warning("%s", sentence)
    device = resolve_device(execution.device)
    corpus = make_corpus(options)
    info = corpus.info()
    previous = read_previous(options.catalogue, info.name)
    listed = utterances_of(corpus, options.split)
    remember(options.corpus, Path(corpus.root))
    _tell_who_leaves(options.catalogue, previous, {utterance.key for utterance in listed})
    if not any(options.encoders.values()):
        raise MerError("no encoder was asked for; use --preset, or --text-encoder, --audio-encoder, --face-encoder")
    settings, inputs = _media_settings(options, execution, info, device)
    sets = _encoding_sets(options, inputs, device)
    if settings.finder is not None:
        settings, sets = _faces_as_begun(options, settings, sets)
    return Resolved(corpus, info, listed, options.catalogue, previous, sets, settings)


def make_corpus(options: ExtractOptions) -> Corpus:
    """Build the corpus adapter with its root and options.

    Raises
    ------
    MerError
        If the name, the folder or an option is not usable.
    """
    adapter = find("corpus", options.corpus)
    fields = {made.name: made for made in dataclasses.fields(adapter)}
    given = dict(options.corpus_options)
    if options.root is not None:
        if not options.root.is_dir():
            raise MerError(
                f"corpus folder {options.root} is not there; give the folder of {options.corpus!r} with --root"
            )
        given["root"] = options.root
    elif fields["root"].default is dataclasses.MISSING and fields["root"].default_factory is dataclasses.MISSING:
        given["root"] = find_root(options.corpus, options.catalogue)
    unknown = sorted(set(given) - set(fields))
    if unknown:
        have = ", ".join(sorted(set(fields) - {"root"})) or "none"
        raise MerError(f"corpus {options.corpus!r} has no option {unknown[0]!r}; its options: {have}")
    made: Corpus = adapter(**given)
    return made


def _media_settings(
    options: ExtractOptions, execution: Execution, info: CorpusInfo, device: str
) -> tuple[TaskSettings, dict[str, dict[str, Any]]]:
    """How clips are decoded, and, per modality, what of that is part of a spec."""
    from mer.stages.media.request import MediaRequest

    channel = options.channel or info.channel
    MediaRequest(channel=channel, frames_fps=options.face_fps)  # told now if impossible, not clip by clip
    finder = None
    if options.encoders.get("face"):
        from mer.stages.faces.finder import resolve_finder

        finder = resolve_finder(options.face_detector, policy=options.face_policy)
    inputs: dict[str, dict[str, Any]] = {
        "text": {},
        "audio": sound_inputs(channel),
        "face": {"fps": options.face_fps, "channel": channel, **(finder.identity() if finder else {})},
    }
    settings = TaskSettings(
        channel=channel,
        face_fps=options.face_fps,
        finder=finder,
        face_inputs=inputs["face"],
        keep_faces=str(side_folder(options.catalogue) / "faces") if execution.keep_faces and finder else None,
        device=device,
        budget=execution.budget,
        decode_threads=execution.decode_threads or max(1, min(8, (os.cpu_count() or 2))),
        limits=execution.limits,
        isolated=execution.isolated,
        clip_timeout_seconds=execution.clip_timeout_seconds,
    )
    return settings, inputs


def _encoding_sets(options: ExtractOptions, inputs: Mapping[str, Mapping[str, Any]], device: str) -> list[EncodingSet]:
    """Find the encoders; each gives one feature set."""
    from mer.stages.encoders.catalog import make_encoder

    precision = options.precision
    if precision == "auto":
        precision = "bfloat16" if device.startswith("cuda") else "float32"
    sets = []
    for modality in MODALITIES:
        for name in options.encoders.get(modality, ()):
            extra: dict[str, Any] = dict(options.encoder_options.get(modality, {}))
            if modality == "audio" and options.max_audio_seconds:
                extra["max_seconds"] = options.max_audio_seconds
            encoder = make_encoder(
                modality,
                name,
                layers=options.layers.get(modality, "last"),
                precision=precision,
                trust_remote_code=options.trust_remote_code,
                **extra,
            ).resolve()
            spec = encoder.spec(inputs[modality], options.dtype)
            folder = shard_folder(options.catalogue, spec.set_name).resolve()
            sets.append(EncodingSet(spec.set_name, encoder, spec, str(folder)))
    return sets


def _faces_as_begun(
    options: ExtractOptions, settings: TaskSettings, sets: list[EncodingSet]
) -> tuple[TaskSettings, list[EncodingSet]]:
    """Go on with the way of finding faces that the cache was begun with."""

    def inputs(finder: Any) -> dict[str, Any]:
        return {"fps": settings.face_fps, "channel": settings.channel, **finder.identity()}

    def made_with(finder: Any) -> list[EncodingSet]:
        made = []
        for one in sets:
            spec = one.encoder.spec(inputs(finder), options.dtype) if one.modality == "face" else one.spec
            folder = shard_folder(options.catalogue, spec.set_name).resolve()
            made.append(EncodingSet(spec.set_name, one.encoder, spec, str(folder)))
        return made

    finder = finder_as_begun(
        settings.finder, lambda way: [Path(one.folder) for one in made_with(way) if one.modality == "face"]
    )
    return dataclasses.replace(settings, finder=finder, face_inputs=inputs(finder)), made_with(finder)


def _tell_who_leaves(catalogue: Path, previous: Catalogue | None, listed: Set[str]) -> None:
    """Warn of utterances that the corpus no longer lists; refuse another folder's corpus, which lists none of them."""
    known = list(previous.utterances.keys) if previous is not None else []
    gone = [key for key in known if key not in listed]
    if gone and len(gone) == len(known):
        raise MerError(
            f"{catalogue} holds {len(known)} utterances ({known[0]}, ...), none of which this corpus lists; choose "
            "another file with --out"
        )
    if gone:
        logger.warning(
            "%d utterances that the corpus no longer lists leave %s (first: %s)", len(gone), catalogue, gone[0]
        )
