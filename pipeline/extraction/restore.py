"""From the spec of stored features back to the encoder and the media settings that make equal features now."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mer.cache import FeatureSpec, MerError, SpecMismatchError
from mer.stages.interfaces import Encoder

from .decoding import sound_inputs

logger = logging.getLogger("mer.extract")

NAMED_APART = frozenset({"checkpoint", "layers", "precision", "trust_remote_code", "resolved", "name"})
"""Fields of an encoder that are not plain options."""


def restore_encoder(spec: FeatureSpec, name: str | None = None, trust_remote_code: bool = False) -> Encoder:
    """Find the encoder of a spec again and check that it makes equal features.

    Parameters
    ----------
    spec
        What the features are.
    name
        Encoder name, hub id or folder to use instead of the one the spec names; needed when that was a local folder.
    trust_remote_code
        Let the checkpoint run Python code of its own, where the spec's did, and import an encoder that the spec names
        as `module:Attr`.

    Raises
    ------
    SpecMismatchError
        If what is found now differs from what made the features; the message names the differences.
    MerError
        If the encoder cannot be found, or is code that nobody here has trusted.
    """
    from mer.stages.encoders.catalog import make_encoder
    from mer.stages.encoders.checkpoint import lay_in_a_folder

    found = spec.encoder
    wanted = name or checkpoint_of(spec)
    if ":" in wanted and not name and not trust_remote_code:  # a shared run could name any module of this machine
        raise MerError(
            f"the {spec.modality} encoder {spec.name!r} asks to run Python code, {wanted}; read that code, and if you "
            "trust it add --trust-remote-code, or register it under the entry points mer.encoders by a plain name"
        )
    layers = found.get("layers")
    choice = "all" if spec.stack > 1 else ",".join(map(str, layers)) if isinstance(layers, list) else "last"
    precision = str(found.get("precision") or "float32")
    try:
        plain = make_encoder(spec.modality, wanted, choice, precision, trust_remote_code)
        options = {
            field.name: found[field.name]
            for field in dataclasses.fields(plain)  # type: ignore[arg-type]
            if field.name in found and field.name not in NAMED_APART
        }
        resolved: Encoder = dataclasses.replace(plain, **options).resolve()  # type: ignore[type-var]
        resolved = _under_the_name(resolved, found)
    except MerError as error:
        local = lay_in_a_folder(found) and not name
        advice = f"; it was a folder of the user's: name it with --{spec.modality}-encoder" if local else ""
        raise MerError(f"the {spec.modality} encoder {spec.name!r} cannot be had again: {error}{advice}") from error
    made = resolved.spec(spec.inputs, spec.dtype)
    if made.fingerprint != spec.fingerprint:
        raise SpecMismatchError(
            f"the {spec.modality} encoder {wanted!r} is not the one these features were made with; it differs in "
            f"{_differences(made.encoder, found) or 'its width'}"
        )
    return resolved


def _under_the_name(encoder: Encoder, identity: Mapping[str, Any]) -> Encoder:
    """Give a checkpoint of equal content the name that a spec has for it: its digest decides, not its folder's name."""
    found = getattr(encoder, "resolved", None)
    if found is None or (found.weights, found.settings) != (
        identity.get("weights_sha256"),
        identity.get("settings_sha256"),
    ):
        return encoder
    label, revision = str(identity.get("checkpoint")), str(identity.get("revision") or "")
    named = dataclasses.replace(found, label=label, revision=revision)
    return dataclasses.replace(encoder, resolved=named)  # type: ignore[type-var]


def restore_finder(spec: FeatureSpec, file: Path | None = None) -> Any:
    """Find the face finder of a face spec again and check that it makes equal crops.

    Parameters
    ----------
    spec
        What the features are.
    file
        Where the detector's weights lie, when they were a file of the user's.

    Raises
    ------
    SpecMismatchError
        If the detector or its algorithm differs now.
    MerError
        If the detector cannot be had, or is one that is read from no file.
    """
    from mer.stages.faces.finder import resolve_finder
    from mer.stages.known_files import remembered_place

    wanted: Mapping[str, Any] = {key: value for key, value in spec.inputs.items() if key not in ("fps", "channel")}
    if file is not None and wanted["detector"] != "yunet":
        raise MerError(f"the faces of {spec.set_name} were found with {wanted['detector']}; leave out --face-detector")
    region = wanted.get("region")
    if file is None and wanted["detector"] == "yunet":
        file = remembered_place(str(wanted.get("weights_sha256")))
    finder = resolve_finder(
        str(wanted["detector"]),
        file,
        size=int(wanted["size"]),
        margin=float(wanted["margin"]),
        policy=str(wanted["policy"]),
        region=tuple(region) if region else None,
        algorithm=_face_algorithm(wanted),
    )
    if finder.identity() != dict(wanted):
        advice = "" if finder.sha256 == wanted.get("weights_sha256") else "; name its file with --face-detector"
        raise SpecMismatchError(
            f"faces would not be found as they were for the features {spec.set_name}; what differs: "
            f"{_differences(finder.identity(), wanted)}{advice}"
        )
    return finder


def finder_as_begun(finder: Any, face_sets: Callable[[Any], Sequence[Path]]) -> Any:
    """The way of finding faces that a cache goes on with: the one its face sets were begun with.

    Parameters
    ----------
    finder
        The way of today.
    face_sets
        Gives the shard folders of the face sets that a finder would make.
    """
    old = dataclasses.replace(finder, algorithm=1)
    begun = [any(folder.is_dir() for folder in face_sets(way)) for way in (old, finder)]
    if begun != [True, False] or old.identity() == finder.identity():
        return finder
    logger.info("faces are found the slower way, as when this cache was begun; another --out starts with today's way")
    return old


def _face_algorithm(inputs: Mapping[str, Any]) -> int:
    """Number of the way of finding faces in a spec's inputs, such as 1 in "1.1"; where it is of no known kind, 2."""
    from mer.stages.faces.finder import YUNETS

    number = str(inputs.get("algorithm")).partition(".")[0]
    return int(number) if number.isdigit() and int(number) in YUNETS else max(YUNETS)


def check_sound(spec: FeatureSpec) -> None:
    """Check that sound is still prepared as it was for an audio spec.

    Raises
    ------
    SpecMismatchError
        If the rate or the resampler differs now.
    """
    now = sound_inputs(str(spec.inputs.get("channel")))
    if now != dict(spec.inputs):
        raise SpecMismatchError(
            f"sound is not prepared as it was for the features {spec.set_name}; what differs: "
            f"{_differences(now, spec.inputs)}"
        )


def checkpoint_of(spec: FeatureSpec) -> str:
    """Name under which the encoder of a spec is found here: a hub id with its commit, a folder, a known name."""
    from mer.stages.encoders.checkpoint import lay_in_a_folder, remembered_folder

    if lay_in_a_folder(spec.encoder):
        return str(remembered_folder(spec.encoder) or Path(str(spec.encoder["checkpoint"])).absolute())
    checkpoint = str(spec.encoder.get("checkpoint") or spec.name)
    revision = spec.encoder.get("revision")
    return f"{checkpoint}@{revision}" if revision and "@" not in checkpoint else checkpoint


def _differences(now: Mapping[str, Any], then: Mapping[str, Any]) -> str:
    keys = [key for key in sorted({*now, *then}) if now.get(key) != then.get(key)]
    return ", ".join(f"{key} ({_short(then.get(key))} then, {_short(now.get(key))} now)" for key in keys)


def _short(value: Any) -> str:
    text = "nothing" if value in (None, "") else str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
