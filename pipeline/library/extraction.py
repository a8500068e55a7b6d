"""Extraction from Python, and the options that it shares with `mer extract`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mer.cache import MerError
from mer.stages.registry import suggest

from ..extraction.corpus_root import named_corpus
from ..extraction.options import Execution, ExtractOptions
from ..extraction.presets import chosen_encoders, layers_by_modality, parse_encoder_options, preset_of
from .store import Store, open_store

CORPUS_OPTIONS = ("labels", "label_from", "column", "encoding", "allow_count_mismatch")
"""Options of a corpus that have a name of their own."""
PLAIN = (
    "precision", "dtype", "face_fps", "face_policy", "face_detector", "channel", "max_audio_seconds", "split", "limit",
    "retry_failed", "transcribe", "language", "trust_remote_code",
)  # fmt: skip
HOW = ("device", "workers", "scheduler", "decode_threads", "budget", "keep_faces", "max_failures", "check")
HOW_RENAMED = {"clip_timeout": "clip_timeout_seconds", "isolation": "isolated", "media_limits": "limits"}
"""Names of options that say how, and of the fields of `Execution` that they fill."""


def extract(corpus: str, root: str | Path | None = None, **options: Any) -> Store:
    """Encode a corpus with frozen encoders; what is finished already is found and not made again.

    Parameters
    ----------
    corpus
        A name (`mer corpora` lists them), a folder of one's own such as `./my-clips`, or `module:Class`.
    root
        Folder of the raw corpus; None looks where it was last, in `$MER_DATA` and in `./data`.
    **options
        Those of `mer extract` with `_` for `-`: `preset="base"`, `text_encoder="roberta-base"` (or a list of several),
        `audio_encoder`, `face_encoder`, `layers=["audio=all"]`, `split="test"`, `out="cache/mine.h5"`, `device="cuda"`
        and so on; `corpus_options={...}` for others of the corpus.

    Returns
    -------
    Store
        The cache, open.

    Raises
    ------
    MerError
        If the corpus, an encoder or an option is not usable, or no utterance could be encoded.
    """
    from ..extraction.run import extract as run

    summary = run(*options_of(corpus, None if root is None else Path(root), options))
    summary.check(options.get("max_failures"))
    return open_store(summary.catalogue)


def options_of(corpus: str, root: Path | None, given: Mapping[str, Any]) -> tuple[ExtractOptions, Execution]:
    """Turn the options of `mer extract`, by their names, into what is extracted and how; None means not given.

    Raises
    ------
    MerError
        If an option is not known, or a preset, layer choice or folder is not usable.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    known = {*CORPUS_OPTIONS, *PLAIN, *HOW, *HOW_RENAMED, "preset", "layers", "out", "corpus_options", "encoder_option"}
    known |= {f"{modality}_encoder" for modality in ("text", "audio", "face")}
    for name in asked:
        if name not in known:
            raise MerError(f"extract has no option {name!r}; {suggest(name, sorted(known))}")
    name, root = named_corpus(corpus, root)
    out = Path(asked["out"]) if "out" in asked else None
    if out is None and name != corpus and root is not None:
        out = Path("cache") / f"{root.resolve().name or 'folder'}.h5"
    encoders = {m: _listed(asked.get(f"{m}_encoder")) for m in ("text", "audio", "face")}
    preset = preset_of(asked.get("preset"), name, any(encoders.values()))
    corpus_options = dict(asked.get("corpus_options") or {})
    for option in CORPUS_OPTIONS:
        if asked.get(option):
            value = asked[option]
            corpus_options[option] = tuple(_listed(value)) if option == "column" else value
    what = ExtractOptions(
        corpus=name,
        root=root,
        out=out,
        preset=preset,
        encoders=chosen_encoders(preset, **encoders),
        layers=layers_by_modality(_listed(asked.get("layers"))),
        encoder_options=parse_encoder_options(_listed(asked.get("encoder_option"))),
        corpus_options=corpus_options,
        **{option: asked[option] for option in PLAIN if option in asked},
    )
    how = {option: asked[option] for option in HOW if option in asked}
    how |= {field: asked[option] for option, field in HOW_RENAMED.items() if option in asked}
    return what, Execution(**how)


def _listed(value: str | Sequence[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)
