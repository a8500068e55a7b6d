"""`mer extract` as typed: the plan, the closing table, exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
from folder_clips import manifest_rows, write_manifest
from synthetic import write_clip, zero_bytes

from mer.cache import FeatureStore
from mer.pipeline.cli import main
from mer.pipeline.terminal.console import sized


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


@pytest.fixture
def command(clips: Path, tmp_path: Path) -> tuple[object, ...]:
    """The words that extract the small folder."""
    return (
        "extract", "--corpus", "folder", "--root", clips, "--out", tmp_path / "mine.h5", "--preset", "demo",
        "--face-detector", "cascade", "--device", "cpu",
    )  # fmt: skip


def test_dry_run_prints_the_plan_and_writes_no_features(
    command: tuple[object, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*command, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "6 utterances, 6 to work on; nothing was decoded" in printed
    assert not (tmp_path / "mine.h5").exists()
    assert not list(tmp_path.rglob("*-demo-*/*.h5"))


def test_the_plan_tells_the_bytes_that_are_there_and_those_to_read(
    command: tuple[object, ...], clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*command, "--audio-encoder", "none", "--face-encoder", "none")
    assert run(*words) == 0
    there = sum(path.stat().st_size for path in tmp_path.glob("mine.shards/text-*/*.h5"))
    media = sum(path.stat().st_size for path in clips.glob("*.mp4"))
    capsys.readouterr()
    assert run(*words, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert sized(there) in printed
    assert "media to read: 0 bytes" in printed
    assert run(*command, "--dry-run") == 0
    assert f"media to read: {sized(media)}" in capsys.readouterr().out


def test_the_closing_table_counts_and_a_second_run_says_there_is_nothing_to_do(
    command: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*command, "--face-encoder", "none", "--audio-encoder", "none")
    assert run(*words) == 0
    first = capsys.readouterr().out
    assert "text-demo-text-" in first
    assert "clips/s" in first
    assert run(*words) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_files_that_are_not_there_and_sets_that_came_out_empty_are_told(
    command: tuple[object, ...], clips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clips / "clip1.mp4").unlink()
    sound = (*command, "--text-encoder", "none", "--face-encoder", "none")
    assert run(*sound) == 0
    assert "1 of 6 files were not found; is --root right?" in capsys.readouterr().err
    write_manifest(clips, [{**row, "text": ""} for row in manifest_rows(6)])
    words = (*command, "--text-encoder", "odd_encoders:Counting", "--audio-encoder", "none", "--face-encoder", "none")
    assert run(*words) == 1
    assert "no utterance has features (6 x the corpus has no transcript)" in capsys.readouterr().err


def test_more_failures_than_allowed_exit_with_1_and_keep_what_was_done(
    command: tuple[object, ...], clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zero_bytes(clips / "clip0.mp4")
    words = (*command, "--face-encoder", "none")
    assert run(*words, "--max-failures", 0) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("mer: 1 failures are more than --max-failures 0")
    assert run(*words, "--max-failures", 1) == 0
    assert len(FeatureStore.open(tmp_path / "mine.h5").utterances) == 6


def test_a_run_in_which_everything_fails_alike_stops_and_says_why(
    command: tuple[object, ...], clips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for number in range(70):
        zero_bytes(clips / f"bad{number}.mp4")
        rows.append({**manifest_rows(1)[0], "id": f"b{number}", "path": f"bad{number}.mp4"})
    write_manifest(clips, rows)
    assert run(*command, "--text-encoder", "none", "--face-encoder", "none") == 1
    assert "failed the same way" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--preset", "lage"), "did you mean 'large'"),
        (("--layers", "sound=last"), "names no modality"),
        (("--text-encoder", "robberta-base"), "did you mean 'roberta-base'"),
        (("--device", "tpu"), "device 'tpu' is not known"),
        (("--face-policy", "loudest"), "face policy 'loudest'"),
        (("--channel", "left"), "channel 'left'"),
        (("--dtype", "int8"), "'int8'"),
        (("--precision", "float8"), "precision 'float8'"),
        (("--labels", "4"), "no option 'labels'"),
    ],
)
def test_wrong_words_are_told_before_anything_is_decoded(
    command: tuple[object, ...], words: tuple[str, str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*command, *words) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert told in lines[-1]
    assert lines[-1].startswith("mer: ")


def test_the_preset_of_the_paper_prints_its_non_commercial_licence(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    given = ("extract", "--corpus", "folder", "--root", clips, "--out", tmp_path / "x.h5", "--preset", "drkf")
    assert run(*given, "--device", "cpu") == 1  # no network: the weights cannot be fetched
    said = " ".join(capsys.readouterr().err.split())
    assert "licensed CC BY-NC-SA 4.0: non-commercial" in said


@pytest.fixture
def mute(tmp_path: Path) -> Path:
    """Two sounds and one file without any, all without a transcript."""
    folder = tmp_path / "mute"
    folder.mkdir()
    write_clip(folder / "a.wav", seconds=0.2)
    write_clip(folder / "b.wav", seconds=0.3)
    (folder / "c.wav").write_bytes(b"no sound")
    write_manifest(folder, [{"id": name, "path": f"{name}.wav"} for name in "abc"])
    return folder


def test_clips_are_transcribed_once_and_not_in_a_dry_run(
    mute: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mer.pipeline.extraction import transcripts
    from mer.stages.speech.transcribe import Heard

    decoded: list[str] = []
    whole = transcripts.decode
    monkeypatch.setattr(transcripts, "decode", lambda job, *given: decoded.append(job.key) or whole(job, *given))
    monkeypatch.setattr(
        "mer.stages.speech.transcribe.listen", lambda waves, *given: [Heard(f"{len(wave)}") for wave in waves]
    )
    words = (
        "extract", "--corpus", "folder", "--root", mute, "--out", tmp_path / "mute.h5", "--device", "cpu",
        "--text-encoder", "odd_encoders:Counting", "--transcribe", "a/listener",
    )  # fmt: skip
    assert run(*words, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "3 clips would be transcribed first" in printed
    size = sum(path.stat().st_size for path in mute.glob("*.wav"))
    assert f"media to read: {sized(size)}" in printed
    assert decoded == []
    assert run(*words) == 0
    assert decoded == ["a", "b", "c"]
    assert run(*words) == 0
    assert decoded == ["a", "b", "c"]
    assert run(*words, "--retry-failed") == 0
    assert decoded[3:] == ["c"]
    (memory,) = (tmp_path / "mute.shards").glob("transcripts-*.json")
    memory.write_text("{ damaged")
    assert run(*words) == 0
    assert decoded[4:] == ["a", "b", "c"]
    assert FeatureStore.open(tmp_path / "mute.h5").utterances.text == ["3200", "4800", None]


def test_layers_for_all_and_for_one_modality() -> None:
    from mer.pipeline.extraction.presets import layers_by_modality

    assert layers_by_modality(["audio=-4:", "all"]) == {"text": "all", "audio": "-4:", "face": "all"}
    assert layers_by_modality([]) == {}
