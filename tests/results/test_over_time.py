"""Predictions over time: the same numbers as for whole clips, lanes that stay, files that other programs read."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import synthetic
from faces.conftest import talker
from results.conftest import Trained

from mer.cache import MerError
from mer.pipeline.cli import main
from mer.pipeline.results.over_time import VideoPredictor, agreement
from mer.pipeline.results.predict import Asked, predict_clips
from mer.pipeline.results.timeline import Prediction, Timeline, TimelineHeader, read_timeline, stretches
from mer.pipeline.results.videos import WindowRequest, predict_video
from mer.pipeline.results.windows import Cue, SlidingWindows, Turns, words_between
from mer.stages.corpora.demo.media import Picture, Sound, write_media
from mer.stages.encoders.face import LiveFace
from mer.stages.faces.finder import FaceFinder
from mer.stages.faces.people import PeopleWatcher
from mer.stages.interfaces import SAMPLE_RATE_HZ, FaceCrops
from mer.stages.media.reader import media_facts, read_media
from mer.stages.media.request import MediaRequest


def complete(trained: Trained) -> list[str]:
    """Keys of clips that have every modality."""
    store = trained.store
    ok = np.all([index.ok for index in store.sets.values()], axis=0)
    return [str(key) for key, there in zip(store.utterances.keys, ok, strict=True) if there]


@pytest.fixture(scope="module")
def predictor(trained: Trained) -> VideoPredictor:
    return VideoPredictor(trained.run, device="cpu")


@pytest.fixture(scope="module")
def long_clip(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips of the corpus one after the other."""
    keys = complete(trained)[:3]
    frames, sounds = [], []
    for key in keys:
        clip = trained.asked(key).clip
        read = read_media(clip, MediaRequest(frames_fps=25.0))
        seconds = int(min(len(read.waveform) / SAMPLE_RATE_HZ, read.picture_seconds) * 5) / 5
        frames += [picture for time, picture in read.frames if time < seconds][: round(seconds * 25)]
        sounds.append(read.waveform[: round(seconds * SAMPLE_RATE_HZ)])
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    size = (frames[0].shape[1], frames[0].shape[0])
    write_media(path, Picture(frames, 25.0, size), Sound(np.concatenate(sounds)[:, None], SAMPLE_RATE_HZ))
    return path


def rows_of(predictor: VideoPredictor, video: Path, windows: object) -> list[Prediction]:
    rows: list[Prediction] = []
    predictor.watch(video, windows, rows.extend)
    return rows


def test_one_window_over_a_whole_clip_says_what_predict_says_of_it(trained: Trained, predictor: VideoPredictor) -> None:
    asked = trained.asked(complete(trained)[-1])
    whole = predict_clips(trained.run, [asked, Asked(asked.clip, None)], device="cpu")
    for answer in whole:
        words = None if answer.asked.text is None else [Cue(0.0, 0.5, answer.asked.text)]
        (row,) = rows_of(predictor, answer.asked.clip, SlidingWindows(60.0, 1.0, words))
        assert row.used == answer.used
        assert row.person == 1
        assert np.abs(row.output - answer.output).max() < 1e-4
        assert np.abs(row.spread - answer.spread).max() < 1e-4
        assert list(row.alone) == list(row.used)
    single = predict_clips(trained.run, [Asked(None, asked.text)], device="cpu")[0]
    (row,) = rows_of(predictor, asked.clip, Turns([Cue(0.0, 60.0, str(asked.text))]))
    assert np.abs(row.alone["text"] - single.output).max() < 1e-4


def test_a_crop_is_encoded_once_and_the_answers_are_the_same(
    trained: Trained, long_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = LiveFace.encode

    def counting(self: LiveFace, batch: list[FaceCrops]) -> object:
        encoded.append(sum(len(item.crops) for item in batch))
        return encode(self, batch)

    monkeypatch.setattr(LiveFace, "encode", counting)
    made = {}
    for once in (True, False):
        monkeypatch.setattr(LiveFace, "per_crop", once)
        encoded.clear()
        rows = rows_of(VideoPredictor(trained.run, device="cpu"), long_clip, SlidingWindows(2.0, 0.4))
        made[once] = rows, sum(encoded)
    (one, few), (other, many) = made[True], made[False]
    assert few < many / 3
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert (a.window, a.person) == (b.window, b.person)
        assert np.abs(a.output - b.output).max() < 1e-4


def test_windows_follow_each_other_and_cover_the_video() -> None:
    sliding = SlidingWindows(4.0, 1.0)
    first = list(sliding.due(5.5))
    assert [(w.start_seconds, w.end_seconds) for w in first] == [(0.0, 4.0), (1.0, 5.0)]
    assert sliding.oldest_seconds == 2.0
    rest = list(sliding.rest(6.6))
    assert [(w.index, w.start_seconds, w.end_seconds) for w in rest] == [(2, 2.0, 6.0), (3, 3.0, 6.6)]
    assert [(w.start_seconds, w.end_seconds) for w in SlidingWindows(4.0, 4.0).rest(8.1)] == [(0.0, 4.0), (4.0, 8.0)]
    assert [(w.start_seconds, w.end_seconds) for w in SlidingWindows(4.0, 1.0).rest(1.5)] == [(0.0, 1.5)]
    turns = Turns([Cue(0, 2, "a"), Cue(1, 9, "b"), Cue(3, 4, "c"), Cue(30, 31, "late")])
    assert [w.text for w in turns.due(4.5)] == ["a", "c"]
    assert turns.oldest_seconds == 1
    assert [(w.text, w.end_seconds) for w in turns.rest(6)] == [("b", 6)]
    for length, hop in ((4, 5), (0, 0), (0.1, 0.1), (4, -1)):
        with pytest.raises(MerError, match="not possible"):
            SlidingWindows(length, hop)


def test_words_stand_where_they_are_said() -> None:
    # 12 letters with spaces after each word; the middles lie at 1/12, 4/12 and 9/12 of two seconds.
    cues = [Cue(1.0, 3.0, "a bcd efghi"), Cue(3.0, 4.0, "end")]
    assert words_between(cues, 0.0, 10.0) == "a bcd efghi end"
    assert words_between(cues, 1.5, 2.6) == "bcd efghi"
    assert words_between(cues, 2.6, 3.2) == ""
    assert words_between(cues, 3.2, 4.0) == "end"


def test_agreement_is_one_for_equal_answers_and_zero_for_disjoint_ones() -> None:
    sure, other, even = np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([0.5, 0.5])
    assert agreement("class", [sure, sure]) == 1.0
    assert agreement("class", [sure, other]) == 0.0
    assert agreement("class", [sure, other, even]) == pytest.approx(1 - (1 + 0.5 + 0.5) / 3)
    assert agreement("multi", [np.array([1.0, 1.0]), np.array([1.0, 0.0])]) == 0.5
    assert agreement("class", [sure]) is None
    assert agreement("real", [np.array([1.0]), np.array([2.0])]) is None


def test_the_sound_comes_piece_by_piece_and_is_the_same(long_clip: Path) -> None:
    pieces: list[np.ndarray] = []
    streamed = read_media(long_clip, MediaRequest(), on_sound=pieces.append)
    whole = read_media(long_clip, MediaRequest())
    assert streamed.waveform is None
    assert streamed.sound_problem == ""
    assert streamed.duration_seconds == whole.duration_seconds
    assert np.array_equal(np.concatenate(pieces), whole.waveform)
    facts = media_facts(long_clip)
    assert (facts.sound, facts.picture) == (True, True)
    assert facts.seconds == pytest.approx(whole.duration_seconds, abs=0.1)


def test_people_keep_their_lanes(shared_data: Path, tmp_path: Path, yunet: FaceFinder) -> None:
    first = talker(shared_data / "clips" / "talking" / "hdtf_000.mp4")
    second = talker(shared_data / "clips" / "talking" / "retalking_3.mp4")
    frames = [*first.frames[:50], *second.frames[:50], *first.frames[50:100]]
    path = tmp_path / "cut.mp4"
    write_media(path, Picture(frames, 25.0, (first.width, 288)), Sound(synthetic.noise(6.0), 16_000))
    watcher = PeopleWatcher(yunet.load())
    seen: dict[float, list[tuple[int, int]]] = {}

    def add(time_seconds: float, picture: np.ndarray) -> None:
        watcher.add(time_seconds, picture)
        for start in (0.0, 1.0, 2.0, 3.0, 4.0):
            if start not in seen and time_seconds >= start + 1.0:
                people = watcher.people(start, start + 1.0, None)
                seen[start] = [(one.person, len(one.faces.crops)) for one in people]
                assert [one.leads for one in people] == [True]
                watcher.forget(start + 1.0)
                assert watcher.held_crops == 1  # of the newest frame; those of people who left are gone, too

    read_media(path, MediaRequest(frames_fps=5.0, grey_fps=30.0), add, watcher.add_grey)
    assert seen == {0.0: [(1, 5)], 1.0: [(1, 5)], 2.0: [(2, 5)], 3.0: [(2, 5)], 4.0: [(1, 5)]}


def test_an_interrupted_video_goes_on_where_it_stopped(
    trained: Trained, predictor: VideoPredictor, long_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = WindowRequest(1.0, 0.2)
    whole, old = predict_video(trained.run, predictor, long_clip, request, folder=tmp_path / "whole")
    assert not old
    encoded: list[int] = []
    predict = predictor.predict

    def stopping(moments: list[object]) -> list[Prediction]:
        if len(encoded) == 1:
            raise KeyboardInterrupt
        encoded.append(len(moments))
        return predict(moments)

    monkeypatch.setattr(predictor, "predict", stopping)
    with pytest.raises(KeyboardInterrupt):
        predict_video(trained.run, predictor, long_clip, request, folder=tmp_path / "torn")
    assert not (tmp_path / "torn" / "long.jsonl").exists()
    part = tmp_path / "torn" / "long.jsonl.part"
    part.write_text(part.read_text() + '{"window": 99, "torn')
    encoded.clear()
    monkeypatch.setattr(predictor, "predict", lambda moments: (encoded.append(len(moments)), predict(moments))[1])
    again, _ = predict_video(trained.run, predictor, long_clip, request, folder=tmp_path / "torn")
    assert sum(encoded) < len(whole.rows) - 10
    assert [(row.window, row.person) for row in again.rows] == [(row.window, row.person) for row in whole.rows]
    for one, other in zip(again.rows, whole.rows, strict=True):
        assert one.output == pytest.approx(other.output, abs=1e-5)
    _, old = predict_video(trained.run, predictor, long_clip, request, folder=tmp_path / "torn")
    assert old
    _, old = predict_video(trained.run, predictor, long_clip, WindowRequest(2.0, 1.0), folder=tmp_path / "torn")
    assert not old


def made_timeline(outputs: list[list[float]], length: float = 2.0, hop: float = 1.0) -> Timeline:
    """One person, windows of 2 s every second."""
    rows = [
        Prediction(
            i, i * hop, i * hop + length, 1, True, "only", f'say "{i}"', np.array(output), np.zeros(2), ("audio",)
        )
        for i, output in enumerate(outputs)
    ]
    header = TimelineHeader("v.mp4", 1, "run", "0", "emotion", "class", ("calm & <b>", 'joy "x"'), 1,
                            {"length_seconds": length, "hop_seconds": hop})  # fmt: skip
    return Timeline(header, rows, rows[-1].end_seconds)


def test_stretches_do_not_overlap_and_join_equal_answers() -> None:
    made = stretches(made_timeline([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.6, 0.4]]), 1)
    # Borders lie in the middle of what two windows share: 1.5, 2.5, 3.5.
    assert [(s.start_seconds, s.end_seconds, s.label) for s in made] == [
        (0.0, 2.5, "calm & <b>"), (2.5, 3.5, 'joy "x"'), (3.5, 5.0, "calm & <b>"),
    ]  # fmt: skip
    assert [s.share for s in made] == pytest.approx([0.8, 0.8, 0.6])


def test_files_are_read_by_other_programs(tmp_path: Path) -> None:
    pympi, pysubs2 = pytest.importorskip("pympi"), pytest.importorskip("pysubs2")
    from mer.pipeline.results.timeline_files import write_format

    timeline = made_timeline([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.6, 0.4]])
    video = tmp_path / "media" / "v.mp4"
    for kind in ("csv", "srt", "vtt", "eaf", "TextGrid"):
        write_format(timeline, kind, tmp_path / f"v.{kind}", video)
    wanted = [(0, 2500, "calm & <b>"), (2500, 3500, 'joy "x"'), (3500, 5000, "calm & <b>")]
    for kind in ("srt", "vtt"):
        read = pysubs2.load(str(tmp_path / f"v.{kind}"))
        assert [(e.start, e.end) for e in read] == [(start, end) for start, end, _ in wanted]
        assert read[1].plaintext == 'joy "x" 80 %'
    elan = pympi.Eaf(str(tmp_path / "v.eaf"))
    assert [tuple(one[:3]) for one in elan.get_annotation_data_for_tier("person 1")] == wanted
    assert len(elan.get_annotation_data_for_tier("words")) == 4
    assert elan.get_linked_files()[0]["RELATIVE_MEDIA_URL"] == "./media/v.mp4"
    text = (tmp_path / "v.TextGrid").read_text()
    grid = pympi.TextGrid(str(tmp_path / "v.TextGrid"))
    assert [round(1000 * edge) for one in grid.get_tier("person 1").get_intervals() for edge in one[:2]] == [
        edge for one in wanted for edge in one[:2]
    ]
    assert 'text = "joy ""x"""' in text
    with (tmp_path / "v.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["prediction"] for row in rows] == ["calm & <b>", "calm & <b>", 'joy "x"', "calm & <b>"]
    assert float(rows[2]['p_joy "x"']) == 0.8
    assert rows[0]["text"] == 'say "0"'


def test_a_png_picture_shows_every_class_that_is_there(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra timeline: pip install 'mer-toolkit[timeline]'")
    import cv2

    from mer.pipeline.reporting.timeline_output import write_outputs

    timeline = made_timeline([[0.5, 0.5], [0.5, 0.5]])
    (path,) = write_outputs(timeline, tmp_path, ["png"], Path("v.mp4"))
    picture = cv2.imread(str(path))[..., ::-1].reshape(-1, 3)
    for colour in ((0x2F, 0x6F, 0xB4), (0xE0, 0x8A, 0x1E)):
        assert (picture == colour).all(axis=1).mean() > 0.1
    assert not (picture == (0xC2, 0x45, 0x3B)).all(axis=1).any()


def test_parquet_holds_the_table(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    from mer.pipeline.results.timeline_files import columns_of, write_format

    timeline = made_timeline([[0.9, 0.1], [0.2, 0.8]])
    write_format(timeline, "parquet", tmp_path / "v.parquet", tmp_path / "v.mp4")
    read = pq.read_table(tmp_path / "v.parquet")
    assert read.column_names == columns_of(timeline)
    assert read["start_seconds"].to_pylist() == [0.0, 1.0]


def test_the_command_writes_every_file_and_leaves_what_is_done(
    trained: Trained, long_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pympi")
    said = tmp_path / "long.srt"
    said.write_text("1\n00:00:00,000 --> 00:00:01,500\nhello there\n\n2\n00:00:02,000 --> 00:00:03,000\nyes\n")
    kinds = "srt,vtt,eaf,textgrid,svg,html,csv"
    command = ["predict", str(trained.run.path), str(long_clip), "--windows", "2", "--subtitles", str(said),
               "--out", str(tmp_path / "out"), "--format", kinds, "--device", "cpu"]  # fmt: skip
    for _ in range(2):
        with pytest.raises(SystemExit) as left:
            main(command)
        assert left.value.code in (0, None)
    printed = capsys.readouterr().out
    assert printed.count("(was there)") == 1
    names = {path.suffix for path in (tmp_path / "out").iterdir()}
    assert names == {".jsonl", ".srt", ".vtt", ".eaf", ".TextGrid", ".svg", ".html", ".csv"}
    timeline = read_timeline(tmp_path / "out" / "long.jsonl")
    assert timeline.rows[0].text == "hello there"
    assert "text" in timeline.rows[0].used
    page = (tmp_path / "out" / "long.html").read_text()
    assert page.count("<tr data-start") == sum(len(stretches(timeline, person)) for person in timeline.people)
    with pytest.raises(SystemExit):
        main(["predict", str(trained.run.path), str(long_clip), "--by", "turns", "--subtitles", str(said),
              "--device", "cpu", "--json"])  # fmt: skip
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["start_seconds"], line["end_seconds"], line["text"]) for line in lines if line["leads"]] == [
        (0.0, 1.5, "hello there"),
        (2.0, 3.0, "yes"),
    ]


def test_a_file_with_sound_alone_and_a_video_without_faces_have_a_lane(
    predictor: VideoPredictor, tmp_path: Path
) -> None:
    sound = synthetic.write_clip(tmp_path / "a.wav", 3.0)
    faceless = synthetic.write_clip(tmp_path / "b.mp4", 3.0, faces=0)
    for path, why in ((sound, "no picture stream"), (faceless, "no face found")):
        rows = rows_of(predictor, path, SlidingWindows(2.0, 1.0))
        assert [(row.person, row.used, row.missing["face"]) for row in rows] == [(0, ("audio",), why)] * 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{clip}", "--windows", "0"], "are not possible"),
        (["{clip}", "--by", "turns"], "add --subtitles FILE"),
        (["{clip}", "--by", "faces"], "--by 'faces' is unknown"),
        (["{clip}", "--windows", "2", "--text", "a"], "words need times"),
        (["{clip}", "--windows", "2", "--subtitles", "{late}"], "begin after the end of"),
        (["{clip}", "--windows", "2", "--subtitles", "{clip}"], "is no subtitle file"),
        (["{clip}", "--windows", "2", "--format", "docx", "--out", "x"], "'docx' is unknown"),
        (["{clip}", "--windows", "2", "--format", "csv"], "add --out FOLDER"),
        (["{clip}", "--subtitles", "{late}"], "add --windows 4"),
        (["{gone}", "--windows", "2"], "no such file"),
        (["{text}", "--windows", "2"], "not readable as media"),
        ([], "nothing to predict"),
    ],
)
def test_wrong_input_is_told_in_one_line(
    trained: Trained, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], words: str
) -> None:
    pytest.importorskip("pysubs2")
    late = tmp_path / "late.srt"
    late.write_text("1\n00:10:00,000 --> 00:10:02,000\nhello\n")
    names = {
        "clip": trained.asked(str(trained.store.utterances.keys[0])).clip,
        "late": late,
        "gone": tmp_path / "gone.mp4",
        "text": synthetic.text_as_media(tmp_path / "text.mp4"),
    }
    with pytest.raises(SystemExit) as left:
        main(["predict", str(trained.run.path), *(part.format(**names) for part in arguments), "--device", "cpu"])
    assert left.value.code == 1
    told = capsys.readouterr().err.strip()
    assert words in told
    assert "\n" not in told


def test_a_folder_of_clips_becomes_one_table_and_is_not_done_twice(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = complete(trained)[:3]
    folder = tmp_path / "clips"
    folder.mkdir()
    for name, key in zip("abc", keys, strict=True):
        (folder / f"{name}.mp4").write_bytes(trained.asked(key).clip.read_bytes())
    texts = tmp_path / "texts.csv"
    texts.write_text("clip,text\na.mp4,first words\nb.mp4,\n")
    out = tmp_path / "answers.csv"
    command = ["predict", str(trained.run.path), str(folder), "--texts", str(texts), "-o", str(out), "--device", "cpu"]

    def run() -> str:
        with pytest.raises(SystemExit) as left:
            main(command)
        assert left.value.code in (0, None)
        return capsys.readouterr().out

    assert "3 clips predicted, 0 were there" in run()
    first = out.read_text()
    assert "0 clips predicted, 3 were there" in run()
    texts.write_text("clip,text\na.mp4,other words\nb.mp4,\n")
    assert "1 clips predicted, 2 were there" in run()
    with out.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["used"] for row in rows] == ["text audio face", "audio face", "audio face"]
    wanted = predict_clips(trained.run, [Asked(folder / "a.mp4", "other words")], device="cpu")[0]
    shares = [float(rows[0][f"p_{name}"]) for name in trained.run.classes]
    assert shares == pytest.approx(wanted.output, abs=1e-4)
    assert out.read_text().splitlines()[2:] == first.splitlines()[2:]
