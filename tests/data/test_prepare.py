"""Preparing: what is written, going on after an interruption, and what a card says."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medeyes_monai.data import slake
from medeyes_monai.data.album import Album, check_sums
from medeyes_monai.data.blobs import Blob
from medeyes_monai.data.cards import Found, card_of, mismatches
from medeyes_monai.data.catalogue import RELEASES, open_release
from medeyes_monai.data.hub import fetched
from medeyes_monai.data.parquet import HubTables
from medeyes_monai.data.prepare import prepare
from medeyes_monai.data.releases import About, Count, Question
from medeyes_monai.data.texts import Record
from medeyes_monai.errors import ConfigError, UnreadableImageError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "prepare_data.py"


class Pictures:
    """A release of made-up rows: for each picture its content and its name."""

    form = "made up"
    about = About("Pictures", "none", "", "", counts=(Count("train", "questions", (3,)),))

    def __init__(self, contents, names=None, stop_at=None, **item):
        self.contents, self.stop_at, self.item = contents, stop_at, item
        self.names = names or [f"images/{n}" for n in range(len(contents))]
        self.read = []

    def splits(self):
        return ("train",)

    def records(self, split):
        return [Record(f"rows, row {n + 1}", {"number": n}) for n in range(len(self.contents))]

    def questions(self, record):
        number = record.fields["number"]
        if number == self.stop_at:
            raise Killed
        item = {"question": "Is it?", "answer": "yes", "family": "closed", **self.item}
        return [Question(item, (Blob(str(number), lambda: self.contents[number]),), self.names[number])]


class Killed(BaseException):
    """Ends a run where it is, as a signal would."""


@pytest.fixture
def drawn(fixtures):
    return lambda number, kind="PNG": fixtures.encoded(fixtures.drawn(number), kind)


def everything(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_copy_gives_the_same_bytes_and_checksums_hold(layouts, tmp_path):
    for place in ("a", "b"):
        done = prepare(open_release("slake", layouts / "slake"), "slake", tmp_path / place, quiet=True)
        assert not done.was_done
    assert everything(tmp_path / "a") == everything(tmp_path / "b")
    lines = (tmp_path / "a" / "checksums.sha256").read_text().splitlines()
    files = set(everything(tmp_path / "a")) - {"prepared.json", "checksums.sha256"}
    assert {line.split("  ")[1] for line in lines} == files
    for line in lines:
        checksum, path = line.split("  ")
        assert hashlib.sha256((tmp_path / "a" / path).read_bytes()).hexdigest() == checksum


def test_a_finished_folder_is_compared_and_not_written_again(layouts, tmp_path):
    release = open_release("slake", layouts / "slake")
    first = prepare(release, "slake", tmp_path, quiet=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = prepare(release, "slake", tmp_path, quiet=True)
    assert again.was_done
    assert (again.found, again.warnings) == (first.found, first.warnings)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    picture = tmp_path / "images" / "xmlab0.jpg"
    picture.write_bytes(picture.read_bytes() + b" ")
    with pytest.raises(ConfigError, match=r"images/xmlab0\.jpg is missing or not as it was written"):
        prepare(release, "slake", tmp_path, quiet=True)
    (tmp_path / "prepared.json").unlink()
    prepare(release, "slake", tmp_path, quiet=True)
    assert check_sums(tmp_path) > 0


def test_a_folder_of_another_data_set_or_setting_is_not_overwritten(layouts, tmp_path):
    prepare(open_release("slake", layouts / "slake"), "slake", tmp_path, quiet=True)
    other = open_release("slake", layouts / "slake", language="zh")
    with pytest.raises(ConfigError, match=r"holds slake \(language=en.*not slake \(language=zh"):
        prepare(other, "slake", tmp_path, quiet=True)


@pytest.mark.parametrize("stop_at", range(3))
def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(tmp_path, drawn, stop_at):
    contents = [drawn(n) for n in range(3)]
    prepare(Pictures(contents), "p", tmp_path / "whole", quiet=True)
    with pytest.raises(Killed):
        prepare(Pictures(contents, stop_at=stop_at), "p", tmp_path / "cut", quiet=True)
    assert not (tmp_path / "cut" / "prepared.json").exists()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").glob("images/*")}
    assert len(written) == stop_at
    done = prepare(Pictures(contents), "p", tmp_path / "cut", quiet=True)
    assert done.resumed == stop_at
    assert everything(tmp_path / "cut") == everything(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in written} == written


@pytest.mark.parametrize("cut", [1, 4, 20, 120])
def test_what_a_crash_leaves_half_written_is_written_again(tmp_path, drawn, cut):
    contents = [drawn(n) for n in range(3)]
    with pytest.raises(Killed):
        prepare(Pictures(contents, stop_at=2), "p", tmp_path, quiet=True)
    journal = tmp_path / ".journal"
    journal.write_text(journal.read_text()[:-cut])  # the line of the second picture is cut
    (tmp_path / "images" / "0.png").unlink()
    (tmp_path / "images" / ".1.png.abc.part").write_bytes(b"half")
    done = prepare(Pictures(contents), "p", tmp_path, quiet=True)
    assert done.resumed == 1
    assert [(tmp_path / "images" / f"{n}.png").read_bytes() for n in range(3)] == contents
    assert not list(tmp_path.rglob(".*"))


def test_a_picture_under_another_name_in_another_split_is_found_by_its_content(tmp_path, drawn):
    class Splits(Pictures):
        def splits(self):
            return ("train", "test")

        def records(self, split):
            return super().records(split)[:2] if split == "train" else super().records(split)[2:]

    prepare(Splits([drawn(n) for n in (0, 1, 1)]), "p", tmp_path, quiet=True)
    text = "".join((tmp_path / f"{split}.jsonl").read_text() for split in ("train", "test"))
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["image"] for row in rows] == ["images/0.png", "images/1.png", "images/2.png"]
    assert [row["metadata"]["in_other_splits"] for row in rows] == [[], ["test"], ["train"]]


def test_a_picture_that_has_changed_meanwhile_is_written_again(tmp_path, drawn):
    with pytest.raises(Killed):
        prepare(Pictures([drawn(0), drawn(1)], stop_at=1), "p", tmp_path, quiet=True)
    prepare(Pictures([drawn(5), drawn(1)]), "p", tmp_path, quiet=True)
    assert (tmp_path / "images" / "0.png").read_bytes() == drawn(5)


def test_equal_pictures_share_a_name_and_different_ones_never_do(tmp_path, drawn):
    album = Album(tmp_path)
    one = album.keep([Blob("1", lambda: drawn(1))], "images/a")
    same = album.keep([Blob("2", lambda: drawn(1))], "images/a")
    other = album.keep([Blob("3", lambda: drawn(2))], "images/a")
    capital = album.keep([Blob("4", lambda: drawn(3))], "images/A")
    again = album.keep([Blob("5", lambda: drawn(2))], "images/a")
    assert one.path == same.path == "images/a.png"
    assert other.path == again.path
    assert len({one.path.lower(), other.path.lower(), capital.path.lower()}) == 3
    jpeg = album.keep([Blob("6", lambda: drawn(1, "JPEG"))], "images/a")
    assert jpeg.path.endswith(".jpg")
    assert jpeg.path != "images/a.jpg"


@pytest.mark.parametrize(
    "name", ["../../out", "/out", "images/../../out", "images/a b*?", "images/\x00", ".."]
)
def test_a_picture_is_never_written_outside_the_folder(tmp_path, drawn, name):
    album = Album(tmp_path / "album")
    kept = album.keep([Blob("1", lambda: drawn(1))], name)
    assert (tmp_path / "album" / kept.path).resolve().is_relative_to(tmp_path / "album")
    assert (tmp_path / "album" / kept.path).is_file()


def test_transparent_pixels_become_white_in_pictures_and_stay_in_masks(tmp_path, fixtures):
    clear = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    clear.paste((10, 20, 30, 255), (0, 0, 20, 40))
    content = fixtures.encoded(clear)
    album = Album(tmp_path)
    shown = np.asarray(Image.open(tmp_path / album.keep([Blob("1", lambda: content)], "a").path))
    assert shown[0, 0].tolist() == [10, 20, 30]
    assert shown[0, 30].tolist() == [255, 255, 255]
    kept = album.keep([Blob("2", lambda: content)], "b", as_is=True)
    assert (tmp_path / kept.path).read_bytes() == content


def test_an_unreadable_picture_leaves_nothing_behind(tmp_path, drawn):
    album = Album(tmp_path)
    with pytest.raises(UnreadableImageError, match="truncated"):
        album.keep([Blob("1", lambda: drawn(1)[:-200])], "images/a")
    assert list(tmp_path.iterdir()) == []


def test_boxes_on_several_pictures_are_refused(tmp_path, drawn):
    class Two(Pictures):
        def questions(self, record):
            (question,) = super().questions(record)
            blobs = (Blob("a", lambda: drawn(1)), Blob("b", lambda: drawn(2)))
            return [Question({**question.item, "boxes": [[0, 0, 9, 9]]}, blobs, "images/x")]

    with pytest.raises(ConfigError, match=r"rows, row 1: has boxes on one of 2 pictures"):
        prepare(Two([b""]), "p", tmp_path, quiet=True)


def test_a_datalist_that_would_be_refused_is_not_written(tmp_path, drawn):
    wrong = Pictures([drawn(1)], options=["a", "b"], scoring="choice")
    with pytest.raises(ConfigError, match=r"rows, row 1: .*the answer is none of the 2 options"):
        prepare(wrong, "p", tmp_path, quiet=True)
    with pytest.raises(ConfigError, match="on_bad is"):
        prepare(wrong, "p", tmp_path, on_bad="ignore", quiet=True)


# counts and cards


def test_counts_of_a_whole_copy_are_those_that_were_published():
    counts = {
        (name, count.split, count.kind): count.wanted
        for name, release in RELEASES.items()
        if name not in ("slake", "detection")
        for count in release.about.counts
    }
    assert counts["vqa_rad", "test", "questions"] == (451,)
    assert counts["vqa_rad", "test", "yes/no"] == (251,)
    assert set(counts["vqa_rad", "test", "closed"]) >= {272, 271}
    assert set(counts["vqa_rad", "test", "open"]) >= {179, 180}
    assert counts["path_vqa", "test", "questions"] == (6719,)
    assert (counts["path_vqa", "test", "closed"], counts["path_vqa", "test", "open"]) == ((3362,), (3357,))
    assert counts["pmc_vqa", "test_clean", "questions"] == (2000,)
    assert counts["pmc_vqa", "test_2", "questions"] == (33430,)
    assert counts["mmmu", "test", "questions"] == (1752,)
    assert counts["mmmu", "validation", "questions"] == (150,)


def test_slake_counts_are_those_of_the_language(layouts):
    def wanted(language):
        about = open_release("slake", layouts / "slake", language=language).about
        return [(count.split, count.kind, *count.wanted) for count in about.counts]

    assert wanted("en") == [
        ("train", "questions", 4919),
        ("validation", "questions", 1053),
        ("test", "questions", 1061),
        ("test", "closed", 416),
        ("test", "open", 645),
    ]
    assert ("test", "questions", 2094) in wanted("both")


def test_a_mismatch_is_said_with_both_numbers_and_ends_nothing(tmp_path, drawn):
    done = prepare(Pictures([drawn(n) for n in range(2)]), "p", tmp_path, quiet=True)
    assert done.warnings == ("train has 2 questions, a whole copy has 3",)
    card = (tmp_path / "card.md").read_text("utf-8")
    assert "**Differs from a whole copy**: train has 2 questions, a whole copy has 3." in card
    whole = prepare(Pictures([drawn(n) for n in range(3)]), "p", tmp_path / "whole", quiet=True)
    assert whole.warnings == ()
    assert "All counts that are known of a whole copy agree." in (whole.folder / "card.md").read_text("utf-8")


@pytest.mark.parametrize(("number", "agrees"), [(272, True), (271, True), (270, False)])
def test_any_of_the_published_numbers_agrees(number, agrees):
    found = {"test": Found(451, 203, {"closed": number}, 251, 451, 0, 0, 0)}
    assert (mismatches([Count("test", "closed", (272, 271))], found) == []) is agrees


def test_a_missing_split_is_a_mismatch():
    assert mismatches([Count("test", "open", (1, 2))], {}) == [
        "test is missing, a whole copy has 1 or 2 open"
    ]


@pytest.mark.parametrize("name", [name for name in RELEASES if name != "detection"])
def test_a_card_says_licence_citation_traps_and_numbers(name):
    about = slake.ABOUT if name == "slake" else RELEASES[name].about
    found = {"train": Found(1234, 56, {"closed": 1000, "open": 234}, 900, 1233, 7, 89, 3)}
    card = card_of(about, "this form", found, [], [])
    assert "| train | 1,234 | 56 | 1,000 | 234 | 900 | 7 | 89 | 3 |" in card
    assert about.licence in card
    assert "```bibtex\n@" in card
    assert all(f"- {trap}\n" in card for trap in about.traps)
    assert "89 questions name left or right" in card
    assert "1 questions have no answer" in card


def test_rows_that_were_left_out_are_listed_up_to_a_limit():
    left = [f"rows, row {n}: it is broken" for n in range(60)]
    card = card_of(About("t", "l", "", ""), "f", {}, [], left)
    assert "60 rows could not be used" in card
    assert "rows, row 49:" in card
    assert "rows, row 50:" not in card
    assert "and 10 more" in card


# the program


def test_the_program_says_what_it_found_and_what_differs(program, layouts, tmp_path, capsys):
    main = program.main
    command = ["slake", str(layouts / "slake"), str(tmp_path / "out"), "--quiet", "--set", "language=zh"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "train: 1 questions (1 closed) about 1 images" in said
    assert main(["slake", str(layouts / "slake"), str(tmp_path / "en"), "--quiet"]) == 0
    assert "differs: test has 1 questions, a whole copy has 1,061" in capsys.readouterr().out
    assert main(command) == 0
    assert f"unchanged: {tmp_path / 'out'}" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "prepared.json").read_text())["name"] == "slake"


def test_the_program_refuses_with_a_message_and_no_traceback(program, layouts, tmp_path, capsys):
    main = program.main
    for words, message in [
        (["slak", str(tmp_path), str(tmp_path)], "did you mean slake"),
        (["slake", str(tmp_path), str(tmp_path)], "holds none of train.json"),
        (["slake", str(layouts / "slake"), str(tmp_path / "o"), "--set", "lang=en"], "not 'lang'"),
        (["path_vqa", str(layouts / "path_vqa_first"), str(tmp_path / "o")], "is a pickle"),
    ]:
        assert main(words) == 2
        assert message in capsys.readouterr().err


def test_the_fixtures_refuse_an_unknown_layout(fixtures, tmp_path, capsys):
    with pytest.raises(SystemExit):
        fixtures.main([str(tmp_path), "--only", "slak"])
    assert "unknown layout 'slak'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_program_goes_on_where_it_was(tmp_path, fixtures):
    source = tmp_path / "bccd"
    for number in range(300):
        fixtures.put(source / "JPEGImages" / f"{number}.jpg", fixtures.drawn(number, mode="RGB"))
        fixtures.put(
            source / "Annotations" / f"{number}.xml", fixtures.annotation(str(number), [("WBC", 1, 1, 9, 9)])
        )
    fixtures.put(source / "ImageSets" / "Main" / "train.txt", "\n".join(map(str, range(300))))
    command = [sys.executable, str(SCRIPT), "bccd", str(source), str(tmp_path / "out"), "--quiet"]
    running = subprocess.Popen(command)  # noqa: S603
    while len(list((tmp_path / "out" / "images").glob("*.jpg"))) < 20:
        assert running.poll() is None
        time.sleep(0.005)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "out" / "prepared.json").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    resumed = int(done.stdout.split("resumed: ")[1].split()[0])
    assert 19 <= resumed < 300  # the last one may not have been noted
    prepare(open_release("bccd", source), "bccd", tmp_path / "whole", quiet=True)
    assert everything(tmp_path / "out") == everything(tmp_path / "whole")


# the hub


def test_tables_come_through_the_datasets_library_as_from_disk(layouts, tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    local = open_release("vqa_rad", layouts / "vqa_rad_tables")
    hub = HubTables(str(layouts / "vqa_rad_tables"), ("train", "test"))
    for split in local.splits():
        rows = [(dict(record.fields)) for record in hub.records(split)]
        assert len(hub.records(split)) == len(rows) == len(local.records(split))
        for row, record in zip(rows, local.records(split), strict=True):
            assert row["image"]["bytes"] == record.fields["image"]["bytes"]
            assert (row["question"], row["answer"]) == (record.fields["question"], record.fields["answer"])


def test_without_a_network_the_hub_is_refused_with_the_way_out(monkeypatch, tmp_path):
    pytest.importorskip("datasets")
    import datasets
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="without a network, give the folder of a local copy"):
        open_release("vqa_rad", "hub@main").records("train")
    with pytest.raises(ConfigError, match="without a network, give the folder of a local copy"):
        open_release("slake", "hub@0123456789")
    assert fetched(tmp_path, "a/b", ["*"]) == tmp_path


@pytest.mark.network
@pytest.mark.slow
def test_vqa_rad_of_the_hub_has_the_published_counts(tmp_path):
    pytest.importorskip("datasets", reason="needs the extra data")
    done = prepare(open_release("vqa_rad", "hub"), "vqa_rad", tmp_path, quiet=True)
    assert done.warnings == ()
