"""The feature store: format, writing, reading, verification."""

from .atomic import atomic_write, sweep_partials
from .catalogue import (
    Catalogue,
    SetIndex,
    check_not_renamed,
    read_catalogue,
    shard_folder,
    shards_beside,
    write_catalogue,
)
from .contents import summarise
from .diff import diff
from .errors import DamagedError, FormatError, MerError, SpecMismatchError
from .pack import PackOptions, pack
from .sequence import FeatureSequence
from .shard import (
    Fate,
    ShardIndex,
    ShardInfo,
    ShardRow,
    check_shard,
    read_shard_index,
    shard_name,
    write_shard,
)
from .spec import FeatureSpec, canonical_json
from .store import FeatureBlock, FeatureStore
from .table import LabelColumn, UtteranceTable
from .verify import Problem, verify

__all__ = [
    "Catalogue",
    "DamagedError",
    "Fate",
    "FeatureBlock",
    "FeatureSequence",
    "FeatureSpec",
    "FeatureStore",
    "FormatError",
    "LabelColumn",
    "MerError",
    "PackOptions",
    "Problem",
    "SetIndex",
    "ShardIndex",
    "ShardInfo",
    "ShardRow",
    "SpecMismatchError",
    "UtteranceTable",
    "atomic_write",
    "canonical_json",
    "check_not_renamed",
    "check_shard",
    "diff",
    "pack",
    "read_catalogue",
    "read_shard_index",
    "shard_folder",
    "shard_name",
    "shards_beside",
    "summarise",
    "sweep_partials",
    "verify",
    "write_catalogue",
    "write_shard",
]
