"""What `--out` may name: a new file, a catalogue to add to, or a link to one; everything else is refused unharmed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from folder_clips import HERE, Extract, manifest_rows, write_manifest

from mer.cache import FeatureStore, MerError, PackOptions, pack, verify
from mer.pipeline.extraction.publish import ExtractSummary
from mer.pipeline.extraction.run import extract

Make = Callable[..., ExtractSummary]


@pytest.fixture
def run(options: Extract, tmp_path: Path) -> Make:
    """Encode six transcripts."""
    write_manifest(tmp_path, [{**row, "path": ""} for row in manifest_rows(6)])
    encoders = {"text": ("odd_encoders:Counting",)}
    return lambda **given: extract(options(root=tmp_path, encoders=encoders, **given), HERE)


@pytest.mark.parametrize("max_bytes", [None, 1 << 20], ids=["in one file", "in parts"])
def test_a_pack_is_not_added_to(run: Make, tmp_path: Path, max_bytes: int | None) -> None:
    terms = PackOptions("CC-BY-4.0", max_bytes=max_bytes)
    out = pack(run().catalogue, tmp_path / "pack.h5", terms)[0]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.h5")}
    with pytest.raises(MerError, match=r"pack\.h5 is a pack, .*; choose another file with --out"):
        run(out=out)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.h5")} == before


def test_what_is_no_cache_is_not_written_over(run: Make, tmp_path: Path) -> None:
    (tmp_path / "words.h5").write_text("my notes")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["mine"] = [1, 2]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name, told in {"words.h5": "not a feature file", "other.h5": "not one of mer's", "run": "is a folder"}.items():
        with pytest.raises(MerError, match=f"{name} .*{told}.*; choose another file with --out"):
            run(out=tmp_path / name)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_damaged_catalogue_is_made_again_from_its_shards(run: Make) -> None:
    path = run().catalogue
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(MerError, match="remove it and run this again; finished shards are found"):
        run()
    path.unlink()
    assert run().clips == 0
    assert path.read_bytes() == whole


def test_a_link_stays_a_link_and_the_cache_it_leads_to_grows(run: Make, tmp_path: Path) -> None:
    path = run(limit=4).catalogue
    link = tmp_path / "elsewhere" / "link.h5"
    link.parent.mkdir()
    link.symlink_to(path)
    assert run(out=link).clips == 2
    assert list(link.parent.iterdir()) == [link]
    assert link.readlink() == path
    assert len(FeatureStore.open(path).utterances) == 6
    assert verify(path) == verify(link) == []


def test_a_catalogue_renamed_without_its_shards_is_not_extracted_anew(run: Make) -> None:
    path = run().catalogue
    renamed = path.rename(path.with_name("other.h5"))
    with pytest.raises(MerError, match=r"its shards lie in .*mine\.shards; rename that folder to other\.shards"):
        run(out=renamed)
    assert not renamed.with_name("other.shards").exists()
    path.with_name("mine.shards").rename(renamed.with_name("other.shards"))
    assert run(out=renamed).clips == 0
