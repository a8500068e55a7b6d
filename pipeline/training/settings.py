"""What the user asked of `mer train`: options, the training recipe, `--config run.toml` and `--set section.key=value`.

A settings file has the options at its top and one table each for the recipe, the head and the dialogue context:

    features = "cache/meld.h5"
    seeds = 5
    [train]
    lr = 1e-4
    [head]
    name = "drkf"
    dim = 256
    [context]
    kind = "bigru"
"""

from __future__ import annotations

import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mer.cache import MerError
from mer.cache.source import is_url
from mer.stages.heads.configs import CONTEXTS, fractions
from mer.stages.registry import suggest

from ..terminal.console import byte_bar

CLASS_WEIGHTS = ("none", "balanced", "sqrt")
PARALLEL = ("auto", "stacked", "sequential")


@dataclass(frozen=True)
class Recipe:
    """How a head is trained; the `[train]` table. Every field can change a number."""

    epochs: int = 60
    batch_size: int = 64
    lr: float = 3e-4
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.01
    """Not applied to norms, biases and other vectors."""
    warmup: float = 0.05
    """Share of the steps over which the rate rises linearly; afterwards it falls along a cosine to zero."""
    clip: float = 1.0
    """Largest norm of the gradient of all parameters together; 0 clips nothing."""
    patience: int = 10
    """Epochs without a better validation score after which training stops; 0 never stops early."""
    select: str = "auto"
    """Validation metric that picks the epoch; `auto` is `wf1` for classes, `macro_f1` for sets, `mae` for numbers."""
    class_weights: str = "none"
    """`none`, `balanced` (inverse frequency) or `sqrt` (its root) of the training rows."""
    label_smoothing: float = 0.0
    real_loss: str = "l1"
    """`l1` or `mse`, for targets that are numbers."""
    precision: str = "auto"
    """`float32`, `bfloat16` autocast, or `auto`: bfloat16 on a GPU, float32 elsewhere."""
    text_steps: int = 256
    """Most steps of one utterance per modality, 0 for any; longer ones are thinned by a uniform stride, never cut."""
    audio_steps: int = 750
    face_steps: int = 300
    normalise: bool = True
    """Z-score every dimension with statistics of the fold's training rows."""
    val_fraction: float = 0.15
    """Share of the training side held out where the protocol has no validation part of its own: one of
    round(1 / share) parts."""
    hide_turns: float = 0.0
    """With context: probability of hiding an utterance's own vector in training, so that its neighbours must speak."""
    deterministic: bool = False
    """Ask PyTorch for deterministic kernels, at some cost of speed on a GPU."""

    def steps(self, modality: str) -> int:
        """Most steps of one utterance in this modality; 0 means no bound."""
        return int(getattr(self, f"{modality}_steps", 0))


@dataclass(frozen=True)
class TrainOptions:
    """Everything one training run is asked to do."""

    features: Path
    head: str = "drkf"
    modalities: tuple[str, ...] | None = None
    """None takes every modality of the cache."""
    sets: Mapping[str, str] = field(default_factory=dict)
    """Per modality the feature set or encoder to use; an absent modality takes the cache's newest set."""
    target: str | None = None
    """Label column; None takes `emotion`, or the only one."""
    protocol: str | None = None
    """None takes the corpus' first protocol."""
    folds: int | None = None
    """Number of folds; None takes the protocol's own (one per group, or 5 for `kfold`)."""
    group_by: str = "auto"
    """What `kfold` keeps together: `auto` (what the corpus names), `speaker`, `dialogue` or `none`."""
    seeds: int = 5
    first_seed: int = 0
    split_seed: int = 0
    """Seeds the choice of validation parts and of `kfold`, the same for all seeds of the run."""
    context: str = "none"
    recipe: Recipe = field(default_factory=Recipe)
    head_settings: Mapping[str, Any] = field(default_factory=dict)
    context_settings: Mapping[str, Any] = field(default_factory=dict)
    allow_leak: bool = False
    score_test: bool = True
    """False leaves the test rows alone, for tuning on validation."""
    device: str = "auto"
    parallel: str = "auto"
    memory_gb: float | None = None
    """Bytes of features allowed on the device at once; more are streamed in blocks."""
    out: Path | None = None
    overwrite: bool = False
    reuse: bool = False
    """Take a finished run with the same options as the result, instead of refusing the folder."""
    checkpoint_seconds: float = 30.0
    tensorboard: bool = False

    def identity(self) -> dict[str, Any]:
        """Return the options that decide the numbers, JSON-able; place, memory and pace stay out."""
        left_out = {"out", "overwrite", "checkpoint_seconds", "tensorboard", "memory_gb", "features", "reuse"}
        return {name: value for name, value in asdict(self).items() if name not in left_out}


SECTIONS = ("train", "head", "context")
FULL = {"head": "head.name", "context": "context.kind"}
"""Short names of settings to their full ones."""
SIMPLE = {f.name for f in fields(TrainOptions)} - {"recipe", "head_settings", "context_settings", "head", "context"}


def read_settings(path: Path) -> dict[str, Any]:
    """Read a TOML settings file.

    Raises
    ------
    MerError
        If the file is missing or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MerError(f"{path}: cannot be read ({error.strerror}); name an existing TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MerError(f"{path}: is not TOML ({error})") from error


def parse_assignment(text: str) -> tuple[str, Any]:
    """Split `section.key=value`; the value is read as TOML and, failing that, taken as a plain string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise MerError(f"--set {text!r} is not an assignment; write --set section.key=value, e.g. --set head.dim=256")
    try:
        parsed = tomllib.loads(f"value = {value.strip()}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        parsed = value.strip()
    return key.strip(), parsed


def build_options(given: Mapping[str, Any], config: Path | None = None, settings: Sequence[str] = ()) -> TrainOptions:
    """Combine the settings file, the options of the command line and `--set`; later ones win.

    Parameters
    ----------
    given : mapping
        Fields of `TrainOptions` (not None) and `train.*` fields by their dotted name.
    config : Path, optional
    settings : sequence of str
        `section.key=value` assignments.

    Raises
    ------
    MerError
        If a key is unknown (the nearest one is named) or a value has the wrong type.
    """
    flat: dict[str, Any] = {}
    for key, value in (read_settings(config) if config else {}).items():
        nested = isinstance(value, dict) and key in SECTIONS
        flat.update({f"{key}.{name}": item for name, item in value.items()} if nested else {FULL.get(key, key): value})
    for key, value in (*given.items(), *map(parse_assignment, settings)):
        flat[FULL.get(key, key)] = value
    return options_from(flat)


def options_from(flat: Mapping[str, Any]) -> TrainOptions:
    """Build the options from dotted keys: `seeds`, `train.lr`, `head.name`, `head.dim`, `context.kind`."""
    simple: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for key, value in flat.items():
        section, dot, name = key.partition(".")
        if dot and section in parts:
            parts[section][name] = value
        elif key in SIMPLE:
            simple[key] = value
        else:
            known = sorted(SIMPLE) + [f"train.{f.name}" for f in fields(Recipe)] + list(FULL.values())
            raise MerError(f"unknown setting {key!r}; {suggest(key, known)}")
    if "features" not in simple:
        raise MerError("no features named; give --features FILE (what mer extract wrote)")
    simple["features"] = _local(simple["features"])
    head = parts["head"].pop("name", TrainOptions.head)
    context = parts["context"].pop("kind", TrainOptions.context)
    typed = settings_of(TrainOptions, simple, "")
    return TrainOptions(
        **typed,
        head=head,
        context=context,
        recipe=replace(recipe_for(head), **settings_of(Recipe, parts["train"], "train.")),
        head_settings=parts["head"],
        context_settings=parts["context"],
    )


def recipe_for(head: str) -> Recipe:
    """Return the recipe of a head: `Recipe`'s defaults, but for those that the head has of its own."""
    from mer.stages.heads.catalog import config_of, recipe_of

    return replace(Recipe(), **settings_of(Recipe, recipe_of(config_of(head)), f"recipe of head {head!r}: "))


def _local(features: Any) -> Any:
    """Path of a pack that is named by URL and is pulled into the user's cache folder; anything else as it is."""
    from mer.cache.transfer import resolve_features
    from mer.cache.user_cache import user_cache

    if not is_url(features):
        return features
    with byte_bar("fetching") as bar:
        return resolve_features(features, user_cache("packs"), on_progress=bar.put)


def check_options(options: TrainOptions) -> None:
    """Refuse values outside their range or list, and settings that could not have an effect."""
    recipe = options.recipe
    for name, value, known in (
        ("context.kind", options.context, CONTEXTS),
        ("train.class_weights", recipe.class_weights, CLASS_WEIGHTS),
        ("train.precision", recipe.precision, ("auto", "float32", "bfloat16")),
        ("train.real_loss", recipe.real_loss, ("l1", "mse")),
        ("parallel", options.parallel, PARALLEL),
        ("group_by", options.group_by, ("auto", "speaker", "dialogue", "none")),
    ):
        if value not in known:
            raise MerError(f"{name} = {value!r} is not possible; use one of {', '.join(known)}")
    for name, number, least in _least(options):
        if not number >= least:
            raise MerError(f"{name} = {number} is too small; it must be at least {least}")
    fractions(recipe, "warmup", "label_smoothing", "hide_turns", section="train")
    if not recipe.lr > 0 or not 0 < recipe.val_fraction <= 0.5:
        raise MerError("train.lr must be positive and train.val_fraction within (0, 0.5]")
    if options.memory_gb is not None and not options.memory_gb > 0:
        raise MerError(f"memory_gb = {options.memory_gb} leaves no room for features; give a number above 0")
    if recipe.hide_turns and options.context == "none":
        raise MerError("train.hide_turns hides turns from a context; add --context bigru or transformer")
    if options.parallel == "stacked" and options.context != "none":
        raise MerError("runs with a dialogue context cannot be stacked; use --parallel auto or sequential")


def _least(options: TrainOptions) -> Iterator[tuple[str, float, int]]:
    """Numbers by name with the least each may be."""
    yield "seeds", options.seeds, 1
    yield "folds", options.folds if options.folds is not None else 1, 1
    yield "first_seed", options.first_seed, 0
    yield "split_seed", options.split_seed, 0
    yield "checkpoint_seconds", options.checkpoint_seconds, 0
    yield "train.epochs", options.recipe.epochs, 1
    yield "train.batch_size", options.recipe.batch_size, 2
    for name in ("weight_decay", "clip", "patience", "text_steps", "audio_steps", "face_steps"):
        yield f"train.{name}", getattr(options.recipe, name), 0


def settings_of(config: type[Any], given: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Check keys and types of `given` against the fields of a dataclass.

    Raises
    ------
    MerError
        If a key is unknown (the nearest one is named) or a value cannot be of the field's type.
    """
    hints = typing.get_type_hints(config)
    known = [f.name for f in fields(config) if f.init]
    for name in given:
        if name not in known:
            near = suggest(name, known) if known else "it takes none"
            raise MerError(f"unknown setting {prefix + name!r}; {near}")
    return {name: _typed(value, hints[name], prefix + name) for name, value in given.items()}


def make_config(config: type[Any], given: Mapping[str, Any], prefix: str) -> Any:
    """Build a config dataclass from settings, with told-why errors for wrong keys, types and values."""
    try:
        return config(**settings_of(config, given, prefix))
    except (TypeError, ValueError) as error:
        raise MerError(f"settings of {prefix.rstrip('.')!r} do not fit: {error}") from error


def _typed(value: Any, hint: Any, name: str) -> Any:
    """Return `value` as the hinted type, or raise naming the setting."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        inner = [a for a in arguments if a is not type(None)]
        return _typed(value, inner[0], name) if len(inner) == 1 else value
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise MerError(f"{name} = {value!r} is not possible; use one of {', '.join(map(str, arguments))}")
    if origin is tuple:
        items = (
            value.split(",") if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else [value]
        )
        items = [item.strip() if isinstance(item, str) else item for item in items]
        return tuple(_typed(item, arguments[0], name) for item in items)
    if origin is Mapping:
        if isinstance(value, Mapping):
            return dict(value)
        raise MerError(f"{name} = {value!r} is not a table")
    if hint is bool and isinstance(value, bool):
        return value
    if hint in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        if hint is float or float(value).is_integer():
            return hint(value)
    elif hint is str and isinstance(value, str | int | float):
        return str(value)
    elif hint is Path and isinstance(value, str | Path):
        return Path(value)
    elif hint not in (bool, int, float, str, Path):
        return value
    raise MerError(f"{name} = {value!r} is not of the type {getattr(hint, '__name__', hint)}")
