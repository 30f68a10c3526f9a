"""What is wrong with a copy is said with file and row, and under ``skip`` only that row is left out."""

import json
import zipfile

import pytest

from medeyes_monai.data.blobs import PictureStore
from medeyes_monai.data.catalogue import open_release
from medeyes_monai.data.mmmu import listed
from medeyes_monai.data.prepare import prepare
from medeyes_monai.data.texts import csv_records, json_records, read_text
from medeyes_monai.errors import ConfigError, UnreadableImageError


def edit(file, change):
    content = json.loads(file.read_text("utf-8"))
    change(content)
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def refused(name, folder, message, kept=None, **settings):
    """Check that a copy is refused with a message, and what is left of train where bad rows are skipped."""
    with pytest.raises((ConfigError, UnreadableImageError), match=message):
        prepare(open_release(name, folder, **settings), name, folder / "out", quiet=True)
    if kept is not None:
        release = open_release(name, folder, **settings)
        done = prepare(release, name, folder / "out", on_bad="skip", quiet=True)
        assert done.found["train"].questions == kept
        assert len(done.left_out) == 1
        assert "## Left out\n\n1 rows" in (done.folder / "card.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "slake",
            r"holds none of train\.json, validate\.json, test\.json; it holds Train\.json and imgs|it holds",
        ),
        ("pmc_vqa", r"holds none of train_2\.csv, test_2\.csv, test_clean\.csv; it holds Train\.json"),
        (
            "vqa_rad",
            r"holds none of VQA_RAD Dataset Public\.json, train\.jsonl, data/train-\*\.parquet; it holds",
        ),
        ("path_vqa", r"holds none of train-\*\.parquet, validation-\*\.parquet, test-\*\.parquet; it holds"),
        ("mmmu", r"holds none of dev-\*\.parquet"),
        ("bccd", r"holds none of train\.jsonl, val\.jsonl"),
    ],
)
def test_renamed_files_are_answered_with_what_is_wanted_and_what_is_there(tmp_path, name, said):
    pytest.importorskip("pyarrow")
    (tmp_path / "Train.json").write_text("[]")
    with pytest.raises(ConfigError, match=said):
        open_release(name, tmp_path)
    with pytest.raises(ConfigError, match="is no folder"):
        open_release(name, tmp_path / "absent")


def test_a_missing_picture_names_its_row(copied):
    folder = copied("slake")
    (folder / "imgs" / "xmlab0" / "source.jpg").rename(folder / "imgs" / "xmlab0" / "Source.jpg")
    refused("slake", folder, r"^train\.json, row 1: the picture 'xmlab0/source\.jpg' is missing from")


def test_a_missing_picture_of_one_row_can_be_skipped(copied):
    folder = copied("vqa_rad_osf")
    (folder / "VQA_RAD Image Folder" / "synpic2.jpg").unlink()
    refused("vqa_rad", folder, r"Public\.json, row 5: the picture 'synpic2\.jpg' is missing", kept=4)


def test_a_missing_image_folder_is_said(copied):
    folder = copied("vqa_rad_osf")
    (folder / "VQA_RAD Image Folder").rename(folder / "VQA-RAD pictures")
    with pytest.raises(ConfigError, match=r"there are no pictures: none of .*VQA_RAD Image Folder"):
        open_release("vqa_rad", folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda whole: whole[:-500], "is truncated or damaged"),
        (lambda whole: b"", "is neither PNG nor JPEG"),
        (lambda whole: b"GIF89a" + whole, "is neither PNG nor JPEG"),
    ],
)
def test_a_truncated_picture_names_its_row(copied, content, said):
    folder = copied("vqa_rad_osf")
    file = folder / "VQA_RAD Image Folder" / "synpic2.jpg"
    file.write_bytes(content(file.read_bytes()))
    refused("vqa_rad", folder, rf"Public\.json, row 5: {said}", kept=4)


def test_a_truncated_picture_in_an_archive_or_table_names_its_row(copied, fixtures):
    folder = copied("pmc_vqa")
    with zipfile.ZipFile(folder / "images_2.zip", "w") as pack:
        for name in ("PMC1_F1_1.jpg", "PMC1_F1_2.jpg", "PMC3_F2_0.jpg"):
            whole = fixtures.encoded(fixtures.drawn(1), "JPEG")
            pack.writestr(f"figures/{name}", whole[:-900] if name == "PMC1_F1_2.jpg" else whole)
    refused("pmc_vqa", folder, r"^train_2\.csv, row 2: is truncated", kept=1)
    folder = copied("vqa_rad_tables")
    file = next(folder.glob("data/train-*"))
    cut = {"bytes": fixtures.encoded(fixtures.drawn(1))[:-300], "path": None}
    rows = [{"image": cut, "question": "is it?", "answer": "no"}] * 2
    rows[0] = {**rows[0], "image": fixtures.cell(fixtures.drawn(1))}
    fixtures.put_table(file, rows)
    refused("vqa_rad", folder, rf"data/{file.name}, row 2: is truncated", kept=1)


def test_a_table_without_bytes_is_refused(copied, fixtures):
    folder = copied("vqa_rad_tables")
    row = {"image": {"bytes": None, "path": "x.jpg"}, "question": "is it?", "answer": "no"}
    fixtures.put_table(next(folder.glob("data/train-*")), [row])
    refused("vqa_rad", folder, "row 1: the table holds no bytes of the picture")


def test_a_damaged_table_is_refused_and_one_without_a_column_too(copied, fixtures):
    folder = copied("vqa_rad_tables")
    file = next(folder.glob("data/train-*"))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=rf"{file.name}: is no readable parquet file"):
        open_release("vqa_rad", folder)
    file.write_bytes(whole[:8] + bytes(len(whole) // 2) + whole[8 + len(whole) // 2 :])
    refused("vqa_rad", folder, rf"{file.name}, (after row \d+: is truncated|row 1)|{file.name}: is no")
    fixtures.put_table(file, [{"picture": 1, "question": "is it?", "answer": "no"}])
    with pytest.raises(ConfigError, match="lacks the column 'image'; it has picture, question, answer"):
        open_release("vqa_rad", folder)


def test_two_rows_with_one_id_are_both_named(copied):
    folder = copied("slake")
    edit(folder / "train.json", lambda rows: rows[1].update(qid=0))
    refused("slake", folder, r"row 2: has the id 'slake-0', as train\.json, row 1 has", kept=3)


def test_an_answer_outside_the_options_names_its_row(copied):
    folder = copied("pmc_vqa")
    text = (folder / "train_2.csv").read_text("utf-8")
    (folder / "train_2.csv").write_text(text.replace(",C,train", ",E,train"), encoding="utf-8")
    refused("pmc_vqa", folder, r"^train_2\.csv, row 2: the answer is none of the 4 options; .*A to D", kept=1)


@pytest.mark.parametrize(
    "row", [{"q_lang": "fr"}, {"answer_type": "SOMETIMES"}, {"qid": None}, {"question": 5.0}]
)
def test_a_field_that_says_something_else_names_its_row(copied, row):
    folder = copied("slake")
    edit(folder / "train.json", lambda rows: rows[0].update(row))
    if row == {"question": 5.0}:
        release = open_release("slake", folder)
        question = release.questions(release.records("train")[0])[0]
        assert question.item["question"] == "5.0"  # a number is text in digits
        return
    refused("slake", folder, r"^train\.json, row 1: wanted", kept=3)


@pytest.mark.parametrize(
    "marks", [{"Liver": [1, 2, 3, 4]}, [{"Liver": [1, 2, 3]}], [["Liver"]], "no", [{"Liver": "wide"}]]
)
def test_detections_of_another_form_name_the_row_and_the_file(copied, marks):
    folder = copied("slake")
    (folder / "imgs" / "xmlab0" / "detection.json").write_text(json.dumps(marks))
    refused("slake", folder, r"^train\.json, row 1: xmlab0/detection\.json: wanted")


def test_a_box_outside_its_image_names_the_row_and_one_over_the_edge_is_clipped(copied):
    folder = copied("slake")
    file = folder / "imgs" / "xmlab0" / "detection.json"
    file.write_text(json.dumps([{"Left Lung": [200, 10, 20, 20]}]))
    refused("slake", folder, r"^train\.json, row 1: box .* lies outside")
    file.write_text(json.dumps([{"Left Lung": [-3.4, 70, 20, 20]}]))
    done = prepare(open_release("slake", folder), "slake", folder / "clipped", quiet=True)
    row = json.loads((done.folder / "train.jsonl").read_text("utf-8").splitlines()[0])
    assert row["boxes"] == [[0, 70, 17, 80]]  # -3.4 + 20 = 16.6, and the image has 80 rows


def test_a_mask_of_another_size_names_the_row(copied, fixtures):
    folder = copied("slake")
    fixtures.put(folder / "imgs" / "xmlab0" / "mask.png", fixtures.drawn(1, (40, 40)))
    refused("slake", folder, r"^train\.json, row 1: the mask has \(40, 40\) pixels, its picture \(96, 80\)")


def test_a_wrong_line_of_the_masks_names_is_said(copied):
    folder = copied("slake")
    (folder / "mask.txt").write_text("70:Liver\nHeart\n")
    with pytest.raises(ConfigError, match=r"mask\.txt, line 2: wanted a value and a name"):
        open_release("slake", folder)


@pytest.mark.parametrize(
    ("xml", "said"),
    [
        ("<annotation><object>", "is not XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "declares a document type"),
        ("<annotation><object><name>RBC</name></object></annotation>", "box of 'RBC' lacks a corner"),
    ],
)
def test_a_wrong_annotation_names_its_row_and_file(copied, xml, said):
    folder = copied("bccd")
    (folder / "Annotations" / "BloodImage_00001.xml").write_text(xml)
    refused("bccd", folder, rf"^train\.txt, row 2: .*{said}")


def test_a_missing_annotation_and_an_unknown_class_name_the_row(copied):
    folder = copied("bccd")
    file = folder / "Annotations" / "BloodImage_00000.xml"
    file.write_text(file.read_text().replace("WBC", "Blast"))
    refused(
        "bccd", folder, r"^train\.txt, row 1 .*the class 'Blast' has no noun; known are RBC, WBC, Platelets"
    )
    file.unlink()
    refused("bccd", folder, r"^train\.txt, row 1: BloodImage_00000\.xml does not exist")


def test_what_is_not_coco_is_refused(copied):
    folder = copied("coco")
    (folder / "train" / "_annotations.coco.json").write_text('{"images": []}')
    with pytest.raises(ConfigError, match=r"_annotations\.coco\.json: is not in COCO's form"):
        open_release("detection", folder)


# encodings


def test_a_byte_order_mark_changes_nothing(copied):
    folder = copied("pmc_vqa")
    file = folder / "train_2.csv"
    before = csv_records(file, ["index"])
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert csv_records(file, ["index"]) == before


def test_another_encoding_names_the_line_and_can_be_said(copied):
    folder = copied("pmc_vqa")
    file = folder / "train_2.csv"
    text = file.read_text("utf-8").replace("“", '""').replace("”", '""').replace(',Which ""', ',"Which ""')
    file.write_bytes(text.replace("is used?", 'is used?"').encode("latin-1"))
    refused("pmc_vqa", folder, r"train_2\.csv, line \d+: is not utf-8-sig \(byte 0xef\).*name its encoding")
    release = open_release("pmc_vqa", folder, encoding="latin-1")
    assert [r.fields["Caption"] for r in release.records("train")][1] == "Naïve cells (µm)."
    with pytest.raises(ConfigError, match="no encoding 'latin-99'"):
        read_text(file, "latin-99")


@pytest.mark.parametrize(("name", "form"), [("rows.json", "[{}]"), ("rows.jsonl", "{}\n")])
def test_chinese_text_survives_whole(tmp_path, name, form):
    row = '{"question": "左肺有病变吗\u2028是"}'
    (tmp_path / name).write_text(form.replace("{}", row), encoding="utf-8")
    (record,) = json_records(tmp_path / name)
    assert record.text("question") == "左肺有病变吗\u2028是"


# rows


def test_rows_that_are_no_rows_are_flaws_of_their_own(tmp_path):
    (tmp_path / "rows.json").write_text('[{"a": 1}, 5]')
    assert [record.flaw for record in json_records(tmp_path / "rows.json")] == [
        "",
        "wanted an object, got int",
    ]
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n3\n\n4,5\n")
    records = csv_records(tmp_path / "rows.csv", ["a"])
    assert [(r.place, r.flaw) for r in records] == [
        ("rows.csv, row 1", ""),
        ("rows.csv, row 2", "has 1 cells, the header has 2"),
        ("rows.csv, row 4", ""),
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("rows.json", "{}", "wanted a list of objects, got dict"),
        ("rows.json", "[1", "is not JSON"),
        ("rows.json", "[" * 100_000, "is not JSON"),
        ("rows.json", f"[{'9' * 5000}]", "is not JSON"),
        ("rows.csv", 'a,b\n"1', "unexpected end of data"),
        ("rows.csv", "b\n1", r"lacks the column 'a'; its header is \['b'\]"),
        ("rows.csv", "", "lacks the column 'a'"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=rf"{name}.*{said}"):
        json_records(tmp_path / name) if name.endswith("json") else csv_records(tmp_path / name, ["a"])


@pytest.mark.parametrize(
    "text", ["['a', 1]", "a", "{'a': 1}", "__import__('os').getcwd()", "[" * 9000, "'" * 30_000, "[f'{1}']"]
)
def test_a_list_in_text_is_never_evaluated(text):
    with pytest.raises(ConfigError, match=r"wanted a list of texts|above the limit"):
        listed(text)


# pictures


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/hostname", "a/../../secret.png", "..\\secret.png", ""]
)
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "imgs").mkdir()
    with pytest.raises(UnreadableImageError, match="leads out of the data set's folder"):
        PictureStore([tmp_path / "imgs"]).blob(name)


def test_an_archive_finds_members_by_the_end_of_their_path_unless_that_is_ambiguous(tmp_path):
    with zipfile.ZipFile(tmp_path / "imgs.zip", "w") as pack:
        pack.writestr("imgs/a/source.jpg", b"1")
        pack.writestr("imgs/b/source.jpg", b"2")
    store = PictureStore([tmp_path / "absent", tmp_path / "imgs.zip"])
    assert (store.blob("a/source.jpg").read(), store.blob("b/source.jpg").read()) == (b"1", b"2")
    with pytest.raises(UnreadableImageError, match="is there 2 times in"):
        store.blob("source.jpg")
    with pytest.raises(UnreadableImageError, match=r"'c/source\.jpg' is missing from"):
        store.blob("c/source.jpg")


def test_a_damaged_archive_or_member_is_refused(tmp_path):
    (tmp_path / "imgs.zip").write_bytes(b"PK no")
    with pytest.raises(ConfigError, match=r"imgs\.zip is no readable zip archive"):
        PictureStore([tmp_path / "imgs.zip"])
    with zipfile.ZipFile(tmp_path / "imgs.zip", "w", zipfile.ZIP_DEFLATED) as pack:
        pack.writestr("a.jpg", bytes(range(256)) * 40)
    content = bytearray((tmp_path / "imgs.zip").read_bytes())
    content[60:90] = bytes(30)
    (tmp_path / "imgs.zip").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=r"a\.jpg cannot be unpacked"):
        PictureStore([tmp_path / "imgs.zip"]).blob("a.jpg").read()
