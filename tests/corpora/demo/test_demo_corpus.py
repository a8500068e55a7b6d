"""The demo corpus: real files, detectable faces, three channels that carry the mood, and a synthesis that resumes."""

from collections import Counter
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from mer.cache import MerError
from mer.stages.corpora.demo.corpus import DemoCorpus
from mer.stages.corpora.demo.script import AWKWARD, MOODS, write_script
from mer.stages.corpora.demo.voice import RATE_HZ, Throat, speak
from mer.stages.interfaces import Corpus
from mer.stages.utterance import Utterance

CLIPS = 32


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> DemoCorpus:
    made = DemoCorpus(tmp_path_factory.mktemp("demo"), clips=CLIPS, seed=3)
    made.utterances()
    return made


def awkward(kind: str) -> Utterance:
    """The utterance that is awkward in this way, by its key, in the session's corpus."""
    key = next(line.key for line in write_script(CLIPS, 3) if line.awkward == kind)
    return Utterance(key=key, media=key.replace("/", "_") + ".mp4")


def pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as media:
        return [frame.to_ndarray(format="bgr24") for frame in media.decode(video=0)]


def whole_clips(corpus: DemoCorpus) -> list[Path]:
    odd = {awkward(kind).media for kind in AWKWARD}
    return [path for path in sorted(corpus.folder.glob("*.mp4")) if path.name not in odd]


def test_is_a_corpus_with_unique_keys_and_existing_media(corpus: DemoCorpus) -> None:
    utterances = corpus.utterances()
    assert isinstance(corpus, Corpus)
    assert len({utterance.key for utterance in utterances}) == CLIPS
    assert all((corpus.root / str(utterance.media)).is_file() for utterance in utterances)
    assert {utterance.labels["emotion"] for utterance in utterances} == set(MOODS)
    assert "synthetic" in corpus.info().license


def test_no_speaker_is_in_two_splits_and_every_split_has_every_mood() -> None:
    lines = write_script(144, 0)
    speakers = {split: {line.speaker for line in lines if line.split == split} for split in ("train", "val", "test")}
    assert sum(len(found) for found in speakers.values()) == len(set.union(*speakers.values()))
    assert all({line.mood for line in lines if line.split == split} == set(MOODS) for split in speakers)


def test_the_smallest_corpus_has_every_awkward_clip_too() -> None:
    assert sorted(line.awkward for line in write_script(16, 0) if line.awkward) == sorted(AWKWARD)


def test_dialogues_count_their_turns_from_zero_between_two_speakers() -> None:
    lines = write_script(144, 0)
    for dialogue in {line.dialogue for line in lines}:
        turns = [line for line in lines if line.dialogue == dialogue]
        assert [line.turn for line in turns] == list(range(len(turns)))
        assert len({line.speaker for line in turns}) <= 2


def test_each_channel_shows_the_mood_often_but_not_always_and_independently() -> None:
    lines = write_script(4000, 5)
    voice = np.array([line.voice.mood == line.mood for line in lines])
    face = np.array([line.face.mood == line.mood for line in lines])
    assert 0.72 < voice.mean() < 0.80
    assert 0.72 < face.mean() < 0.80
    # independent: both at once as often as the product says
    assert (voice & face).mean() == pytest.approx(voice.mean() * face.mean(), abs=0.02)


def test_equal_seeds_give_equal_bytes_and_other_seeds_other_clips(corpus: DemoCorpus, tmp_path: Path) -> None:
    again = DemoCorpus(tmp_path, clips=CLIPS, seed=3)
    first = again.utterances()[0]
    assert first == corpus.utterances()[0]
    assert (tmp_path / str(first.media)).read_bytes() == (corpus.root / str(first.media)).read_bytes()
    assert write_script(CLIPS, 3) != write_script(CLIPS, 4)


def test_an_interrupted_synthesis_resumes_and_a_damaged_clip_is_made_again(tmp_path: Path) -> None:
    corpus = DemoCorpus(tmp_path, clips=16)
    corpus.utterances()
    content = {path.name: path.read_bytes() for path in corpus.folder.iterdir()}
    kept, gone, cut = sorted(name for name in content if name.endswith(".mp4"))[:3]
    before = (corpus.folder / kept).stat().st_mtime_ns
    (corpus.folder / gone).unlink()
    (corpus.folder / cut).write_bytes(content[cut][:100])
    corpus.utterances()
    assert {path.name: path.read_bytes() for path in corpus.folder.iterdir()} == content
    assert (corpus.folder / kept).stat().st_mtime_ns == before

    (corpus.folder / "manifest.json").unlink()
    (corpus.folder / gone).unlink()
    corpus.utterances()
    assert {path.name: path.read_bytes() for path in corpus.folder.iterdir()} == content


def test_opencvs_cascade_finds_one_face_in_nearly_all_frames(corpus: DemoCorpus) -> None:
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    frames = [frame for path in whole_clips(corpus) for frame in pictures(path)[::8]]
    grey = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames]
    found = [len(cascade.detectMultiScale(frame, 1.1, 4, minSize=(40, 40))) for frame in grey]
    assert len(frames) > 60
    assert np.mean(np.array(found) == 1) > 0.97


def test_yunet_finds_one_face_in_nearly_all_frames(corpus: DemoCorpus, shared_data: Path) -> None:
    model = shared_data / "weights" / "face_detection_yunet_2023mar.onnx"
    yunet = cv2.FaceDetectorYN.create(str(model), "", (240, 180), 0.7)
    found = [yunet.detect(frame)[1] for path in whole_clips(corpus) for frame in pictures(path)[::8]]
    assert np.mean([boxes is not None and len(boxes) == 1 for boxes in found]) > 0.97


def test_awkward_clips_are_awkward_in_the_way_they_say(corpus: DemoCorpus) -> None:
    def path(kind: str) -> Path:
        return corpus.folder / str(awkward(kind).media)

    with av.open(str(path("no sound"))) as media:
        assert not media.streams.audio
    faceless = pictures(path("no face"))
    assert np.ptp(np.array(faceless[1:], int), axis=0).max() < 12  # nobody moves
    with pytest.raises(av.error.FFmpegError):
        pictures(path("truncated file"))
    texts = {utterance.key: utterance.text for utterance in corpus.utterances()}
    assert texts[awkward("no transcript").key] is None
    assert Counter(text is None for text in texts.values())[True] == 1


def test_an_angry_voice_is_louder_and_faster_and_a_happy_one_higher_than_a_sad_one() -> None:
    throat = Throat(pitch_hz=120, stretch=1.0)
    words = "it starts at nine on monday"
    speech = {mood: speak(words, mood, 1.0, throat, np.random.default_rng(0)) for mood in MOODS}

    def pitch_hz(mood: str) -> float:
        """The pitch, from the autocorrelation of the whole utterance."""
        wave = speech[mood].samples.astype(float)
        spectrum = np.abs(np.fft.rfft(wave, 2 * len(wave))) ** 2
        lags = np.fft.irfft(spectrum)[: RATE_HZ // 60]
        shortest = RATE_HZ // 300
        return RATE_HZ / (shortest + int(np.argmax(lags[shortest:])))

    assert speech["anger"].samples.std() > 2 * speech["sadness"].samples.std()
    assert speech["anger"].duration_seconds < 0.75 * speech["sadness"].duration_seconds
    assert pitch_hz("joy") > 1.25 * pitch_hz("sadness")


def test_too_few_clips_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(MerError, match="at least 16 clips, not 3"):
        DemoCorpus(tmp_path, clips=3)


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MerError, match="cannot be written"):
        DemoCorpus(tmp_path / "file" / "demo", clips=16).utterances()


def test_default_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MER_CACHE", str(tmp_path / "mine"))
    assert DemoCorpus().root == tmp_path / "mine" / "demo"
    monkeypatch.delenv("MER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert DemoCorpus().root == tmp_path / "xdg" / "mer" / "demo"
