"""`mer corpora` and `mer corpora check`, through the command line and on files with something wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from corpora.trees import MELD_CLIPS, TREES, meld, put
from synthetic import text_as_media, truncate, write_clip, zero_bytes

from mer.pipeline.cli import main
from mer.stages.registry import CORPORA


class Outcome:
    """What a command left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as left:
            main(list(arguments))
        captured = capsys.readouterr()
        return Outcome(int(left.value.code or 0), captured.out, captured.err)

    return call


def kinds(outcome: Outcome, attention: bool = True) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for finding in outcome.json["findings"]:
        if finding["attention"] == attention:
            found.setdefault(finding["kind"], []).append(finding["name"])
    return found


def test_every_corpus_is_listed(run: Any) -> None:
    shown = run("corpora")
    assert shown.code == 0
    assert all(name in shown.out for name in CORPORA)
    facts = {entry["name"]: entry for entry in run("corpora", "--json").json}
    assert list(facts) == list(CORPORA)
    assert facts["iemocap"]["gated"]
    assert facts["meld"]["labels"]["emotion"]["classes"][0] == "neutral"
    assert all(entry["license"] for entry in facts.values())
    assert all(entry["url"] for name, entry in facts.items() if name not in ("demo", "folder"))


@pytest.mark.parametrize("name", TREES)
def test_every_tree_goes_through_the_check(run: Any, tmp_path: Path, name: str) -> None:
    TREES[name](tmp_path)
    outcome = run(
        "corpora", "check", name.removesuffix("-sdk").removesuffix("-first"), "--root", str(tmp_path), "--json"
    )
    known_gaps = {
        "crema-d": {"count", "missing"},
        "ravdess": {"missing"},
        "folder": set(),
        "meld-dyadic": {"count", "duplicate"},
    }
    expected = known_gaps.get(name, {"count"} if name not in ("mer2024",) else set())
    assert set(kinds(outcome)) == expected
    assert outcome.code == (1 if expected else 0)
    assert outcome.json["clips"] > 0
    assert outcome.json["hours"] > 0


def test_a_table_for_people(run: Any, tmp_path: Path) -> None:
    meld(tmp_path)
    outcome = run("corpora", "check", "meld", "--root", str(tmp_path))
    assert outcome.code == 1
    assert "differs" in outcome.out
    assert "findings need attention" in outcome.out
    assert outcome.err == ""


def test_what_is_wrong_with_clips_is_found(run: Any, tmp_path: Path) -> None:
    meld(tmp_path)
    train, dev = (tmp_path / MELD_CLIPS[split] for split in ("train", "dev"))
    (train / "dia0_utt3.mp4").unlink()
    text_as_media(dev / "dia0_utt0.mp4")
    put(train / "dia60_utt0.mp4")
    outcome = run("corpora", "check", "meld", "--root", str(tmp_path), "--json")
    attention, rest = kinds(outcome), kinds(outcome, attention=False)
    assert attention["missing"] == ["train/dia0_utt3"]
    assert attention["unreadable"] == ["dev/dia0_utt0"]
    assert rest["extra"] == ["train/train_splits/dia60_utt0.mp4"]
    assert {"train/dia125_utt3", "dev/dia110_utt7", "test/dia38_utt4"} <= set(rest["known"])


@pytest.mark.parametrize("spoil", [zero_bytes, truncate])
def test_cut_off_files_are_unreadable(run: Any, tmp_path: Path, spoil: Any) -> None:
    TREES["folder"](tmp_path)
    spoil(tmp_path / "clips/a.mp4")
    outcome = run("corpora", "check", "folder", "--root", str(tmp_path), "--json")
    assert (outcome.code, kinds(outcome)) == (1, {"unreadable": ["a"]})


def test_clips_without_sound_or_picture_are_readable(run: Any, tmp_path: Path) -> None:
    TREES["folder"](tmp_path)
    write_clip(tmp_path / "clips/a.mp4", 0.5, sound=None)
    write_clip(tmp_path / "clips/b.mp4", 0.5, faces=None)
    for extra in ((), ("--decode",)):
        outcome = run("corpora", "check", "folder", "--root", str(tmp_path), "--json", *extra)
        assert (outcome.code, kinds(outcome)) == (0, {})


def test_equal_bytes_across_splits_need_attention(run: Any, tmp_path: Path) -> None:
    TREES["folder"](tmp_path)
    shutil.copyfile(tmp_path / "clips/a.mp4", tmp_path / "clips/b.mp4")
    outcome = run("corpora", "check", "folder", "--root", str(tmp_path), "--json")
    assert (outcome.code, kinds(outcome)) == (1, {"duplicate": ["a"]})
    (detail,) = [f["detail"] for f in outcome.json["findings"] if f["kind"] == "duplicate"]
    assert detail == "the same bytes as b across test, train"


def test_rows_of_one_file_across_splits_need_attention(run: Any, tmp_path: Path) -> None:
    TREES["folder"](tmp_path)
    with (tmp_path / "manifest.csv").open("a") as file:
        file.write("d,clips/a.mp4,Hello there.,ann,test,joy,0.5\n")
    outcome = run("corpora", "check", "folder", "--root", str(tmp_path), "--json")
    assert (outcome.code, kinds(outcome)) == (1, {"duplicate": ["a"]})
    (detail,) = [f["detail"] for f in outcome.json["findings"] if f["kind"] == "duplicate"]
    assert detail == "the same media file and span as d across test, train"
    assert {f["name"]: f["detail"] for f in outcome.json["findings"] if f["kind"] == "column"}["valence"] == (
        "label, kind real"
    )


def test_the_known_duplicate_of_meld_is_no_alarm(run: Any, tmp_path: Path) -> None:
    meld(tmp_path)
    row = 'Same words,Joey,joy,positive,{},{},6,4,"00:10:18,743","00:10:21,536"\r\n'
    for split, place in (("train", (12, 7)), ("test", (85, 0))):
        with (tmp_path / f"{split}_sent_emo.csv").open("a", newline="") as file:
            file.write("9," + row.format(*place))
        put(tmp_path / MELD_CLIPS[split] / f"dia{place[0]}_utt{place[1]}.mp4")
    outcome = run("corpora", "check", "meld", "--root", str(tmp_path), "--json")
    assert "duplicate" not in kinds(outcome)
    assert kinds(outcome, attention=False)["duplicate"] == ["train/dia12_utt7"]


def test_an_inventory_list_tells_absent_utterances_and_wrong_durations(run: Any, tmp_path: Path) -> None:
    meld(tmp_path)
    entries = [
        {"key": "meld-dia0_utt0-train", "length": 0.8, "emo": "joy"},
        {"key": "meld-dia0_utt3-train", "length": 4.9, "emo": "sadness"},
        {"key": "meld-dia7_utt7-test", "length": 1.0, "emo": "joy"},
    ]
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(map(json.dumps, entries)))
    outcome = run("corpora", "check", "meld", "--root", str(tmp_path), "--inventory", str(path), "--json")
    assert kinds(outcome)["duration"] == ["train/dia0_utt3"]
    assert kinds(outcome)["missing"] == ["test/dia7_utt7"]
    assert outcome.json["listed"] == 3
    path.write_text('{"key": 3}')
    outcome = run("corpora", "check", "meld", "--root", str(tmp_path), "--inventory", str(path))
    assert outcome.code == 1
    assert "line 1: is not an entry of an EmoBox list" in outcome.err


@pytest.mark.parametrize("name", ["meld", "ravdess", "crema-d", "emodb", "iemocap", "m3ed"])
def test_keys_of_real_lists_are_ours(shared_data: Path, tmp_path: Path, name: str) -> None:
    from mer.stages.corpora.inventory import read_lists

    corpus = TREES[name](tmp_path)
    folder = shared_data / "annotations/emobox" / name.replace("-", "")
    listed = read_lists(corpus, sorted(folder.rglob("*_test_fold_1.jsonl")))
    assert listed
    shapes = {"meld": r"(train|dev|test)/dia\d+_utt\d+", "ravdess": r"01(-\d\d){5}", "crema-d": r"\d{4}_[A-Z_]+"}
    shapes |= {"emodb": r"\d\d[ab]\d\d[A-Z][a-f]", "iemocap": r"Ses0\dF?M?_\w+_[FM]\d{3}", "m3ed": r"[a-z]+_\d+_\d+"}
    import re

    assert all(re.fullmatch(shapes[name], key) for key in listed)
    assert all(entry.seconds is not None and entry.seconds > 0 for entry in listed.values())


def test_real_ravdess_agrees_with_its_list(run: Any, shared_data: Path) -> None:
    """All 1,440 clips: found, readable, as long as EmoBox says, and the one double recording of this copy is told."""
    listed = shared_data / "annotations/emobox/ravdess/ravdess.jsonl"
    root = shared_data / "speech/ravdess_16k_flac"
    outcome = run("corpora", "check", "ravdess", "--root", str(root), "--inventory", str(listed), "--json")
    assert (outcome.code, kinds(outcome)) == (0, {})
    assert kinds(outcome, attention=False) == {"duplicate": ["01-03-01-02-01-07"]}
    assert outcome.json["clips"] == outcome.json["listed"] == 1440
    assert 1.47 < outcome.json["hours"] < 1.49


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("meldd", "--root", "."), "did you mean 'meld'"),
        (("meld", "--root", "no-such-folder"), "corpus folder no-such-folder is not there"),
        (("meld", "--root", ".", "--labels", "4"), "has no named label sets"),
        (("iemocap", "--root", ".", "--labels", "5"), "label set '5' is unknown"),
    ],
)
def test_what_cannot_be_checked_is_told_in_one_line(run: Any, arguments: tuple[str, ...], what: str) -> None:
    outcome = run("corpora", "check", *arguments)
    assert outcome.code == 1
    assert what in outcome.err
    assert outcome.err.count("\n") == 1


def test_transcripts_are_compared_with_what_is_said(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jiwer", reason="word error rates are an extra: pip install 'mer-toolkit[listen]'")
    from mer.stages.speech.transcribe import Heard

    monkeypatch.setenv("MER_CACHE", str(tmp_path / "own"))
    texts = {"a": "The kids are talking.", "b": "The dogs are sitting here.", "c": "Nobody says this."}
    said = {4000: "the dogs are sitting here", 8000: "the kids are talking", 12000: ""}
    asked: list[int] = []

    def listen(waves: list[Any], model: str, device: str, language: str | None) -> list[Heard]:
        asked.extend(len(wave) for wave in waves)
        return [Heard(said[len(wave)]) for wave in waves]

    monkeypatch.setattr("mer.stages.speech.transcribe.listen", listen)
    root = tmp_path / "clips"
    root.mkdir()
    for number, key in enumerate(texts, 1):
        write_clip(root / f"{key}.wav", seconds=number / 4, fps=0)
    rows = [f"{key},{key}.wav,{text}" for key, text in texts.items()]
    (root / "manifest.csv").write_text("\n".join(["id,path,text", *rows]) + "\n")
    words = ("corpora", "check", "folder", "--root", str(root), "--listen", "a/listener", "--language", "en", "--json")
    found = run(*words)
    assert found.code == 1
    assert [(one["key"], one["other"]) for one in found.json["elsewhere"]] == [("a", "b"), ("b", "a")]
    assert found.json["unheard"] == ["c"]
    assert found.json["of_clips"]["a"] == pytest.approx(3 / 4)  # two words replaced, one added
    assert run(*words).json == found.json
    assert asked == [4000, 8000, 12000]  # what was heard is remembered
    shown = run(*words[:-1])
    assert "words of another clip: 2" in shown.out
    assert "nothing heard in 1 clips" in shown.out
