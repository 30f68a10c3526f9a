"""Laterality, options, pictures side by side, and templates."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medeyes_monai.data.items import item_from
from medeyes_monai.data.slake_regions import Region, boxes_named
from medeyes_monai.data.templates import QUARTERS, Marked, Noun, templated
from medeyes_monai.data.tiling import open_picture, tile
from medeyes_monai.data.wording import letter_of, names_a_side, option_named
from medeyes_monai.errors import ConfigError, UnreadableImageError
from medeyes_monai.geometry import Box

NOUNS = {"a": Noun("cyst", "cysts"), "b": Noun("nodule", "nodules"), "c": Noun("effusion", "effusions")}


@pytest.mark.parametrize(
    "text",
    [
        "Which lung is on the left?",
        "RIGHT",
        "left-sided effusion",
        "On which side is it?",
        "Is the RUL clear?",
        "Rt. lung",
        "There is an R in the corner",
        "Is there dextrocardia?",
        "situs inversus",
        "病变在左肺",
        "哪一侧",
        "In the upper left quarter",
    ],
)
def test_words_of_a_side_forbid_mirroring(text):
    assert names_a_side(text)
    assert names_a_side("What is it?", None, "no", text)
    assert item_from({"image": "a.png", "question": "What is it?", "options": [text, "no"]}, 0).names_a_side


@pytest.mark.parametrize(
    "text",
    [
        "Is the heart large?",
        "bright spot",
        "upright film",
        "cleft",
        "inside",
        "Are both lungs clear?",
        "肺",
        "",
    ],
)
def test_words_within_words_name_no_side(text):
    assert not names_a_side(text, None)


def test_an_option_is_named_by_text_or_letter_and_not_by_both_if_they_differ():
    options = ["Left lung", "The heart", "2 cm"]
    named = {"left lung.": 0, "B": 1, "(c)": 2, "b: heart": 1, "A) left lung": 0}
    assert {text: option_named(text, options) for text in named} == named
    assert {option_named(text, options) for text in ("D", "b: lung", "lung", "", "3 cm")} == {None}


@given(st.lists(st.text("abcdAB .:()12肺", min_size=1, max_size=8), min_size=1, max_size=6))
@settings(deadline=None)
def test_every_option_names_an_option_of_the_same_words(options):
    for option in options:
        found = option_named(option, options)
        assert found is not None
        assert options[found] == option or option_named(options[found], options) == found


def test_a_letter_of_an_answer_key_means_a_place_whatever_the_options_say():
    assert [letter_of(letter, ["C", "B", "A"]) for letter in "ABC"] == [0, 1, 2]
    with pytest.raises(ConfigError, match="none of the 3 options; wanted a letter from A to C"):
        letter_of("D", ["C", "B", "A"])


def test_an_answer_outside_the_options_is_refused_in_a_datalist():
    item = {"image": "a.png", "question": "?", "options": ["cyst", "nodule"]}
    assert item_from({**item, "answer": "(b)"}, 0).answer == "(b)"
    with pytest.raises(ConfigError, match="item 4: the answer is none of the 2 options"):
        item_from({**item, "answer": "mass"}, 4)
    assert item_from({**item, "answer": "mass", "scoring": "exact"}, 0).answer == "mass"


def test_an_item_with_several_images_is_told_what_to_do():
    with pytest.raises(ConfigError, match=r"item 2: has 3 images, .*medeyes_monai\.data\.tiling\.tile"):
        item_from({"image": ["a.png", "b.png", "c.png"], "question": "?"}, 2)


def test_metadata_come_through_and_must_be_an_object():
    item = {"image": "a.png", "question": "?"}
    assert item_from({**item, "metadata": {"modality": "CT"}}, 0).metadata == {"modality": "CT"}
    with pytest.raises(ConfigError, match="metadata must be an object, got list"):
        item_from({**item, "metadata": []}, 0)


def test_sides_of_regions_count_only_against_each_other():
    regions = [
        Region("Left Kidney", (0, 0, 1, 1)),
        Region("Right Kidney", (1, 0, 2, 1)),
        Region("Liver", (2, 0, 3, 1)),
    ]

    def named(text):
        return [region.label for region in boxes_named(regions, text)]

    assert named("Is the left kidney healthy?") == ["Left Kidney"]
    assert named("Which is larger, the left or the right kidney?") == ["Left Kidney", "Right Kidney"]
    assert named("Are the kidneys healthy?") == ["Left Kidney", "Right Kidney"]
    assert named("Is the liver on the left?") == ["Liver"]
    assert named("What is shown?") == []


# several pictures on one sheet


@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=7))
@settings(max_examples=25, deadline=None)
def test_every_pixel_of_every_picture_is_on_the_sheet_where_its_box_says(sizes):
    pictures = [
        Image.fromarray(np.random.default_rng(n).integers(0, 256, (rows, columns, 3), np.uint8))
        for n, (columns, rows) in enumerate(sizes)
    ]
    tiled = tile(pictures)
    sheet = np.asarray(tiled.sheet)
    places = [tiled.moved(Box.whole(picture.size), n) for n, picture in enumerate(pictures)]
    for n, (place, picture) in enumerate(zip(places, pictures, strict=True)):
        assert place.is_inside(tiled.sheet.size)
        (left, top), (right, bottom) = place.start, place.stop
        assert (sheet[top:bottom, left:right] == np.asarray(picture)).all()
        assert not any(place.intersection(other) for other in places[:n])


def test_a_moved_box_shows_the_same_pixels():
    picture = Image.fromarray(np.arange(30 * 40, dtype=np.uint8).reshape(30, 40))
    tiled = tile([picture, picture, picture])
    box = Box((3, 5), (20, 9))
    (left, top), (right, bottom) = tiled.moved(box, 2).start, tiled.moved(box, 2).stop
    assert (np.asarray(tiled.sheet)[top:bottom, left:right, 0] == np.asarray(picture)[5:9, 3:20]).all()


def test_a_sheet_is_bounded_and_needs_a_picture_of_eight_bits():
    with pytest.raises(ConfigError, match="there are no pictures"):
        tile([])
    with pytest.raises(UnreadableImageError, match="2 pictures side by side need"):
        tile([Image.new("L", (50, 50))] * 2, max_pixels=5000)
    with pytest.raises(UnreadableImageError, match="8 bits a channel"):
        tile([Image.new("I;16", (9, 9))])


def test_a_picture_is_opened_whole_upright_and_within_a_limit(fixtures):
    content = fixtures.encoded(fixtures.drawn(1))
    assert open_picture(content).size == (96, 80)
    with pytest.raises(UnreadableImageError, match="declares 96x80 pixels"):
        open_picture(content, max_pixels=96 * 80 - 1)
    for cut in range(0, len(content) - 12, 97):
        with pytest.raises(UnreadableImageError):
            open_picture(content[:cut])
    with pytest.raises(UnreadableImageError, match="neither PNG nor JPEG"):
        open_picture(fixtures.encoded(fixtures.drawn(1), "BMP"))


# templates

boxes = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 30), st.integers(1, 30)).map(
    lambda c: Box((c[0], c[1]), (c[0] + c[2], c[1] + c[3]))
)
images = st.lists(st.tuples(boxes, st.sampled_from("abc")), max_size=9).map(
    lambda marks: Marked(
        str(len(marks)), tuple(box for box, _ in marks), tuple(label for _, label in marks), size=(90, 90)
    )
)


@given(images, st.integers(0, 99))
@settings(deadline=None)
def test_templates_say_what_the_boxes_say(image, seed):
    items = {item["family"]: item for item in templated(image, NOUNS, seed)}
    kind = {noun.one: label for label, noun in NOUNS.items()} | {
        noun.many: label for label, noun in NOUNS.items()
    }
    for family, item in items.items():
        named = {label for noun, label in kind.items() if noun in item["question"]}
        assert item["metadata"] == {"templated": True}
        marked = [
            list(box.corners) for box, label in zip(image.boxes, image.labels, strict=True) if label in named
        ]
        assert item["boxes"] == marked
        numbers = [image.labels.count(label) for label in sorted(named)]
        if family == "presence":
            assert item["answer"] == ("yes" if numbers[0] else "no")
        elif family == "count":
            assert (item["answer"], item["scoring"]) == (str(numbers[0]), "numeric")
        elif family == "place":
            assert numbers == [1]
            x, y = image.boxes[image.labels.index(named.pop())].centre
            assert item["answer"] == f"{'lower' if y > 45 else 'upper'} {'right' if x > 45 else 'left'}"
            assert item["options"] == list(QUARTERS)
            assert min(abs(x - 45), abs(y - 45)) >= 8.9
        else:
            first, second = item["question"].removeprefix("Are there more ").split(" in ")[0].split(" than ")
            more = image.labels.count(kind[first]) - image.labels.count(kind[second])
            assert item["answer"] == ("yes" if more > 0 else "no")
            assert more != 0


def test_presence_is_asked_of_present_and_absent_classes_alike():
    answers = Counter(
        templated(Marked(str(n), (Box((0, 0), (9, 9)),), ("a",)), NOUNS)[0]["answer"] for n in range(300)
    )
    assert 120 < answers["yes"] < 180  # of 300 fair draws, outside in 1 of 3,000


def test_templates_depend_on_image_and_seed_alone():
    image = Marked("x", (Box((0, 0), (9, 9)),), ("a",), size=(40, 40))
    assert templated(image, NOUNS, 3) == templated(image, NOUNS, 3)
    assert len({str(templated(image, NOUNS, seed)) for seed in range(20)}) > 1
    assert {item["family"] for item in templated(image, {"a": NOUNS["a"]})} == {"presence", "count", "place"}
    assert templated(Marked("x", (), ()), {}) == []
