"""Prediction on new clips: the same numbers as training recorded for the same clips, masks for what is missing."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import synthetic
from odd_encoders import Counting
from results.conftest import Trained

from mer.cache import MerError, SpecMismatchError
from mer.pipeline.cli import main
from mer.pipeline.extraction.restore import restore_encoder, restore_finder
from mer.pipeline.reporting.face_crops import faces_of
from mer.pipeline.results.predict import Answer, Asked, predict_clips
from mer.pipeline.results.shared_runs import open_run, push_run
from mer.pipeline.training.run_folder import Run
from mer.stages.encoders.catalog import make_encoder
from mer.stages.encoders.demo import demo_folder
from mer.stages.faces.finder import resolve_finder


def test_clips_of_the_corpus_get_the_probabilities_that_training_recorded(trained: Trained) -> None:
    recorded = [trained.run.predictions(member["name"]).part("test") for member in trained.run.members]
    keys = [str(key) for key in recorded[0].keys]
    answers = predict_clips(trained.run, [trained.asked(key) for key in keys], device="cpu")
    wanted = np.mean([found.outputs for found in recorded], axis=0)
    assert np.abs(np.stack([answer.output for answer in answers]) - wanted).max() < 1e-4
    spread = np.std([found.outputs for found in recorded], axis=0)
    assert np.abs(np.stack([answer.spread for answer in answers]) - spread).max() < 1e-4
    assert all(answer.used == ("text", "audio", "face") for answer in answers)
    assert np.ptp([found.outputs for found in recorded], axis=0).max() > 1e-3  # the average is not of equals


def test_a_clip_alone_and_among_others_gets_the_same_answer(trained: Trained) -> None:
    keys = [str(key) for key in trained.store.utterances.keys][-3:]
    together = predict_clips(trained.run, [trained.asked(key) for key in keys], device="cpu")
    alone = predict_clips(trained.run, [trained.asked(keys[1])], device="cpu")[0]
    assert alone.output == pytest.approx(together[1].output, abs=1e-4)


def test_what_a_clip_lacks_is_masked_and_told(trained: Trained, tmp_path: Path) -> None:
    mute = synthetic.write_clip(tmp_path / "mute.mp4", sound=None)
    faceless = synthetic.write_clip(tmp_path / "faceless.mp4", faces=0)
    broken = synthetic.truncate(synthetic.write_clip(tmp_path / "broken.mp4"))
    asked = [Asked(mute, "hello"), Asked(faceless, None), Asked(broken, None), Asked(None, "only words")]
    answers = predict_clips(trained.run, asked, device="cpu")
    assert answers[0].used == ("text", "face")
    assert "no sound" in answers[0].missing["audio"]
    assert answers[1].used == ("audio",)
    assert "--text" in answers[1].missing["text"]
    assert answers[2].used == ()
    prior = np.mean([trained.run.load_model(member["name"]).prior for member in trained.run.members], axis=0)
    assert answers[2].output == pytest.approx(prior, abs=1e-6)
    assert answers[3].used == ("text",)


def test_words_count(trained: Trained) -> None:
    one, other = predict_clips(trained.run, [Asked(None, "I love it so much"), Asked(None, "stop lying")], device="cpu")
    assert np.abs(one.output - other.output).max() > 1e-3


def test_a_run_with_context_takes_the_clips_as_one_dialogue(trained: Trained) -> None:
    run = trained.train("context", context="bigru", seeds=1)
    first, second = Asked(None, "I love it so much"), Asked(None, "stop lying")
    alone = predict_clips(run, [first], device="cpu")[0].output
    followed = predict_clips(run, [first, second], device="cpu")[0].output
    assert np.abs(alone - followed).max() > 1e-4


def test_a_long_dialogue_is_cut_into_windows_as_in_training(trained: Trained) -> None:
    run = trained.train("long", context="bigru", seeds=1, modalities=("text",))
    asked = [Asked(None, f"{number} times I love it") for number in range(97)]
    found = np.stack([answer.output for answer in predict_clips(run, asked, device="cpu")])
    halves = [predict_clips(run, part, device="cpu") for part in (asked[:49], asked[49:])]
    wanted = np.stack([answer.output for half in halves for answer in half])
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_numbers_are_predicted_as_numbers(trained: Trained) -> None:
    run = trained.train("valence", target="valence", seeds=2)
    record = predict_clips(run, [Asked(None, "it starts at nine")], device="cpu")[0].record(run)
    assert isinstance(record["value"], float)
    assert "probabilities" not in record


def test_every_class_of_a_set_that_is_likelier_than_not_is_predicted(make_run: Callable[..., Path]) -> None:
    run = Run.open(make_run("tags", target="tags"))
    for shares, named in (((0.5, 0.25), ["loud"]), ((0.75, 1.0), ["loud", "fast"]), ((0.0, 0.25), [])):
        record = Answer(Asked(None, "words"), np.array(shares), np.array([0.125, 0.0]), ("text",), {}).record(run)
        assert record["prediction"] == named
        assert record["probabilities"] == dict(zip(("loud", "fast"), shares, strict=True))
        assert record["std_over_models"] == {"loud": 0.125, "fast": 0.0}


def test_the_command_prints_a_table_and_json(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    asked = trained.asked(str(trained.store.utterances.keys[-1]))
    arguments = ["predict", str(trained.run.path), str(asked.clip), "--text", str(asked.text), "--device", "cpu"]
    for extra in ([], ["--json"]):
        with pytest.raises(SystemExit) as left:
            main([*arguments, *extra])
        assert left.value.code in (0, None)
    printed = capsys.readouterr().out
    assert "prediction" in printed
    record = json.loads(printed[printed.index('{"run"') :])
    clip = record["clips"][0]
    assert sum(clip["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert clip["prediction"] == max(clip["probabilities"], key=clip["probabilities"].get)


def test_a_clip_that_fails_leaves_the_others_their_answers(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = trained.asked(str(trained.store.utterances.keys[-1])).clip
    broken = synthetic.text_as_media(tmp_path / "[broken].mp4")
    empty = tmp_path / "empty"
    empty.mkdir()
    clips = [tmp_path / "gone.mp4", good, empty, broken, good]
    for extra in ([], ["--json"]):
        with pytest.raises(SystemExit) as left:
            main(["predict", str(trained.run.path), *map(str, clips), "--device", "cpu", *extra])
        assert left.value.code == 1
    told = capsys.readouterr()
    assert told.err.count("mer: 3 of 5 could not be used; the reasons stand with their answers\n") == 2
    assert "without audio: gone.mp4: no such file; name a clip\n" in told.out
    assert "without face: empty: is a folder without media files\n" in told.out
    assert "without audio: [broken].mp4: " in told.out
    answers = json.loads(told.out[told.out.index('{"run"') :])["clips"]
    assert [answer["failed"] for answer in answers] == [True, False, True, True, False]
    assert [answer["used"] for answer in answers] == [[], ["audio", "face"], [], [], ["audio", "face"]]
    alone = predict_clips(trained.run, [Asked(good, None)], device="cpu")[0]
    for row in (1, 4):
        assert list(answers[row]["probabilities"].values()) == pytest.approx(alone.output, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such.mp4"], "no such file"),
        (["{folder}"], "is a folder without media files"),
        ([], "nothing to predict"),
        (["{clip}", "--text", "a", "--text", "b"], "1 clips and 2 texts"),
    ],
)
def test_wrong_input_is_told_in_one_line(
    trained: Trained, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], words: str
) -> None:
    clip = str(trained.asked(str(trained.store.utterances.keys[0])).clip)
    with pytest.raises(SystemExit) as left:
        main(["predict", str(trained.run.path), *(part.format(clip=clip, folder=tmp_path) for part in arguments)])
    assert left.value.code == 1
    told = capsys.readouterr().err.strip()
    assert words in told
    assert "\n" not in told


def test_nothing_to_go_by_is_an_error(trained: Trained, tmp_path: Path) -> None:
    path = synthetic.text_as_media(tmp_path / "text.mp4")
    with pytest.raises(MerError, match="nothing to go by"):
        predict_clips(trained.run, [Asked(path, None)], device="cpu")


def test_another_encoder_than_the_runs_is_refused(trained: Trained) -> None:
    spec = trained.run.specs["audio"]
    weights = replace(spec, encoder={**spec.encoder, "weights_sha256": "0" * 64})
    with pytest.raises(SpecMismatchError, match=r"weights_sha256 \(0{12}… then"):
        restore_encoder(weights)
    with pytest.raises(SpecMismatchError, match="is not the one these features were made with"):
        restore_encoder(
            trained.run.specs["text"], "demo-text" if spec.modality == "text" else str(_other_text(trained))
        )
    with pytest.raises(MerError, match="name it with --audio-encoder"):
        restore_encoder(replace(spec, name="my-own", encoder={**spec.encoder, "checkpoint": "my-own"}))


def test_a_folder_is_found_again_by_its_digest_and_under_any_name(trained: Trained, tmp_path: Path) -> None:
    """What `mer predict` asks for: a run names the folder it was trained on by its last name and its digest."""
    mine = tmp_path / "here" / "roberta-base"  # a name that the catalogue has too
    shutil.copytree(demo_folder("demo-text"), mine)
    spec = make_encoder("text", str(mine)).resolve().spec({})
    assert spec.encoder["checkpoint"] == "roberta-base"
    assert restore_encoder(spec).found.folder == str(mine.resolve())
    moved = mine.rename(tmp_path / "elsewhere")
    with pytest.raises(MerError, match=r"folder of the user's: name it with --text-encoder"):
        restore_encoder(spec)
    found = restore_encoder(spec, str(moved))
    assert found.spec({}).fingerprint == spec.fingerprint
    assert restore_encoder(spec).found.folder == str(moved.resolve())  # remembered where it was found last


def test_a_known_name_that_is_a_folder_too_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "roberta-base").mkdir()
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("WARNING", "mer.encoders"):
        assert make_encoder("text", "roberta-base").checkpoint == "FacebookAI/roberta-base"
    assert "the known one is taken, ./roberta-base is the folder" in caplog.text


def test_code_that_a_run_names_is_not_imported_unless_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unasked.py").write_text("from odd_encoders import Counting\n")
    monkeypatch.syspath_prepend(tmp_path)
    plain = Counting().spec({})
    spec = replace(plain, encoder={**plain.encoder, "checkpoint": "unasked:Counting"})
    with pytest.raises(MerError, match=r"asks to run Python code, unasked:Counting; .*--trust-remote-code"):
        restore_encoder(spec)
    assert "unasked" not in sys.modules
    assert restore_encoder(plain, "odd_encoders:Counting") == Counting()
    with pytest.raises(SpecMismatchError, match="checkpoint"):
        restore_encoder(spec, trust_remote_code=True)
    assert "unasked" in sys.modules


def _other_text(trained: Trained) -> Path:
    """A text checkpoint of the right kind with other settings."""
    folder = trained.folder / "other-text"
    shutil.copytree(demo_folder("demo-text"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    return folder


def test_a_face_detector_of_the_users_own_is_found_where_it_is_named(trained: Trained, tmp_path: Path) -> None:
    file = tmp_path / "mine.onnx"
    file.write_bytes(b"weights of a detector")
    spec = trained.run.specs["face"]
    own = replace(spec, inputs={**spec.inputs, **resolve_finder(str(file)).identity()})
    assert restore_finder(own, file).model == file
    assert restore_finder(own).model == file.resolve()  # remembered by its digest
    other = tmp_path / "other.onnx"
    other.write_bytes(b"other weights")
    with pytest.raises(SpecMismatchError, match=r"weights_sha256 .* --face-detector"):
        restore_finder(own, other)
    found = replace(spec, inputs={**spec.inputs, "detector": "cascade"})
    with pytest.raises(MerError, match="found with cascade; leave out --face-detector"):
        restore_finder(found, file)


def test_another_face_algorithm_than_the_runs_is_refused(trained: Trained) -> None:
    spec = trained.run.specs["face"]
    assert restore_finder(spec).identity().items() <= spec.inputs.items()
    with pytest.raises(SpecMismatchError, match="algorithm"):
        restore_finder(replace(spec, inputs={**spec.inputs, "algorithm": "0.0"}))


def test_a_run_that_was_handed_on_predicts_equal_numbers(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/shared/run"
    push_run(trained.run.path, url)
    monkeypatch.setenv("MER_CACHE", str(tmp_path / "of another user"))
    fetched = open_run(url)
    asked = [trained.asked(str(key)) for key in trained.store.utterances.keys[:2]]
    monkeypatch.delenv("MER_CACHE")  # the encoders are at hand for both
    own, other = (predict_clips(run, asked, device="cpu") for run in (trained.run, fetched))
    for one, two in zip(own, other, strict=True):
        assert np.array_equal(one.output, two.output)


def test_a_report_shows_the_faces_that_were_kept(trained: Trained, tmp_path: Path) -> None:
    face = next(name for name in trained.store.sets if name.startswith("face"))
    keys = [str(trained.store.utterances.keys[row]) for row in np.flatnonzero(trained.store.sets[face].ok)[:2]]
    found = faces_of(trained.run, keys)
    assert list(found) == keys
    assert all(picture.startswith('<img src="data:image/jpeg;base64,') for picture in found.values())
    assert faces_of(trained.run, ["no such utterance"]) == {}
