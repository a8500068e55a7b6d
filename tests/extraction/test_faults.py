"""Faults from outside: killed processes, a full disk, an interrupt."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from folder_clips import HERE, Extract, write_manifest
from odd_encoders import Counting

from mer.cache import Fate, FeatureStore, MerError, verify
from mer.pipeline.commands.extract import print_summary
from mer.pipeline.extraction.decoding import TaskSettings
from mer.pipeline.extraction.jobs import Job
from mer.pipeline.extraction.run import extract
from mer.pipeline.extraction.tasks import EncodingSet, ShardReport, ShardTask, run_task

KILLING = Path(__file__).with_name("killing.py")


def h5_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.h5"))}


def kill_often(root: Path, out: Path, kills: int, seconds: float) -> str:
    arguments = [str(root), str(out), str(kills), "7", str(seconds)]
    done = subprocess.run([sys.executable, str(KILLING), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_ten_kills_at_random_moments_end_in_the_same_bytes(clips: Path, tmp_path: Path) -> None:
    calm = kill_often(clips, tmp_path / "calm" / "mine.h5", kills=0, seconds=0)
    seconds = float(re.findall(r"([\d.]+) seconds", calm)[0])
    out = tmp_path / "killed" / "mine.h5"
    told = kill_often(clips, out, kills=10, seconds=seconds)
    assert int(told.split()[0]) >= 3, told
    assert h5_files(out.parent) == h5_files(tmp_path / "calm")
    assert verify(out) == []


def test_a_full_disk_is_told_in_one_line_and_the_next_run_goes_on(
    options: Extract, clips: Path, tmp_path: Path
) -> None:
    given = options()
    command = [
        sys.executable, "-m", "mer.pipeline.cli", "extract", "--corpus", "folder", "--root", str(clips),
        "--out", str(given.catalogue), "--preset", "demo", "--face-detector", "cascade", "--device", "cpu",
    ]  # fmt: skip
    # A limit on the size of any file makes writing fail as a full disk does, on any machine and without privileges.
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, 16_000)); "
        "from mer.pipeline.cli import main; main(sys.argv[1:])"
    )
    extract(options(encoders={"text": ("demo-text",)}, out=tmp_path / "warm.h5"), HERE)  # builds the checkpoints
    done = subprocess.run([sys.executable, "-c", limited, *command[3:]], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("mer: ")
    assert str(given.catalogue.parent) in done.stderr.replace("\n", "")
    assert not list(given.catalogue.parent.rglob("*.partial"))
    assert extract(given, HERE).clips > 0
    assert verify(given.catalogue) == []


def run_alone(folder: Path, text: str) -> ShardReport:
    """Encode one transcript outside any run."""
    encoder = Counting()
    made = EncodingSet("one", encoder, encoder.spec({}), str(folder / "one"))
    job = Job("u0", text, None, None, None, None, None, "", bytes(16), bytes(16))
    return run_task(ShardTask((job,), (made,)), TaskSettings(channel="mean", face_fps=5.0))


def test_an_interrupt_keeps_finished_shards(options: Extract, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mer.pipeline.extraction import encode as module
    from mer.pipeline.extraction import plan

    monkeypatch.setattr(plan, "SHARD_CLIPS", 1)
    whole = module._Meter.check

    def interrupt(self: module._Meter, report: object) -> None:
        whole(self, report)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(module._Meter, "check", interrupt)
    with pytest.raises(MerError, match="finished shards are kept"):
        extract(options(), HERE)
    monkeypatch.setattr(module._Meter, "check", whole)
    assert run_alone(clips, "what mer predict does in the same process").failed == 0
    summary = extract(options(), HERE)
    assert 0 < summary.clips < 6
    assert verify(summary.catalogue) == []


def test_a_clip_with_damaged_packets_keeps_its_features_and_says_what_is_missing(
    options: Extract, clips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = clips / "clip5.mp4"
    data = bytearray(path.read_bytes())
    start = data.find(b"mdat")
    third = (len(data) - start) // 3
    data[start + third : start + third + third // 2] = b"\xff" * (third // 2)
    path.write_bytes(data)
    summary = extract(options(), HERE)
    assert summary.count(Fate.OK) == 18
    assert {told.partition(":")[0] for told in summary.media_notes} == {"u5"}
    store = FeatureStore.open(summary.catalogue)
    for name, made in store.sets.items():
        told = store.notes(name, "u5").get("media", [])
        assert any("damaged sound packets were left out" in note for note in told) == (made.spec.modality != "text")
        assert "media" not in store.notes(name, "u4")
    print_summary(summary)
    said = " ".join(capsys.readouterr().out.split())
    assert f"notes on media: {len(summary.media_notes)}, kept with the features (first: u5: " in said


def listen(**given: object) -> dict[str, object]:
    """Options of a run on sound that needs no weights."""
    return {"encoders": {"audio": ("odd_encoders:Listening",)}, **given}


def test_a_folder_in_the_place_of_a_clip_is_that_utterance_s_fate(options: Extract, clips: Path) -> None:
    (clips / "clip1.mp4").unlink()
    (clips / "clip1.mp4").mkdir()
    summary = extract(options(**listen()), HERE)
    (index,) = summary.made.values()
    assert index.fates.tolist() == [Fate.OK, Fate.MISSING, *[Fate.OK] * 4]


def test_a_file_that_cannot_be_read_is_that_utterance_s_fate(
    options: Extract, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path.open

    def denied(self: Path, *given: object, **named: object) -> object:
        if self.name == "clip1.mp4":
            raise PermissionError(13, "Permission denied")
        return whole(self, *given, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", denied)  # permissions do not hold for root, who may run the tests
    assert extract(options(**listen()), HERE).count(Fate.OK) >= 5


def test_digests_read_before_an_interrupt_are_kept(
    options: Extract, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mer.stages.media import reader as media

    whole, read = media.media_digest, []

    def interrupted(path: Path) -> bytes:
        if path.name == "clip5.mp4":
            raise KeyboardInterrupt
        read.append(path)
        return whole(path)

    monkeypatch.setattr(media, "media_digest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(options(**listen()), HERE)
    monkeypatch.setattr(media, "media_digest", lambda path: read.append(path) or whole(path))
    extract(options(**listen()), HERE)
    assert sorted(path.name for path in read) == [f"clip{i}.mp4" for i in range(6)]


def test_clips_that_fail_do_not_stop_a_run_whose_transcripts_are_encoded(options: Extract, tmp_path: Path) -> None:
    root = tmp_path / "prose"
    root.mkdir()
    for i in range(30):
        (root / f"{i}.wav").write_bytes(b"prose" * 100)
    write_manifest(root, [{"id": f"u{i}", "path": f"{i}.wav", "text": "words"} for i in range(30)])
    both = {"text": ("odd_encoders:Counting",), "audio": ("odd_encoders:Listening",)}
    summary = extract(options(root=root, encoders=both), HERE)
    assert (summary.count(Fate.OK), summary.count(Fate.FAILED)) == (30, 30)


def test_utterances_that_fail_in_several_sets_count_once(options: Extract, tmp_path: Path) -> None:

    root = tmp_path / "prose"
    root.mkdir()
    for i in range(30):
        (root / f"{i}.wav").write_bytes(b"prose" * 100)
    rows = [{"id": f"u{i}", "path": f"{i}.wav", "text": ""} for i in range(30)]
    write_manifest(root, rows[:20])
    twice = {"audio": ("odd_encoders:Listening", "odd_encoders:HearingTwice")}
    assert extract(options(root=root, encoders=twice), HERE).count(Fate.FAILED) == 40
    write_manifest(root, rows)
    with pytest.raises(MerError, match="all of the first 30 utterances failed the same way"):
        extract(options(root=root, encoders=twice, out=tmp_path / "more.h5"), HERE)
