"""The episode's text: what is written can be read, and whatever is read gives a result."""

from __future__ import annotations

import inspect
import sys
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medeyes_monai.errors import ProtocolError
from medeyes_monai.geometry import Box
from medeyes_monai.protocol import (
    ACTION,
    ANSWER,
    DEFECTS,
    FEEDBACK,
    MAX_ACTION_CHARACTERS,
    MAX_COORDINATE,
    REASONING,
    TAGS,
    Parsed,
    Turn,
    parse,
    parse_turn,
    render,
    render_answer,
    render_fixation,
)
from medeyes_monai.trajectory import Fixation, Trajectory

LOOK = '<reasoning>Here.</reasoning><action>{"name":"Gaze","coordinate":[1,2,3,4]}</action>'
END = "<reasoning>So.</reasoning><answer>yes</answer>"
BOX = Box((1, 2), (3, 4))

pieces = st.one_of(
    st.sampled_from([*TAGS, FEEDBACK, "&", "&amp;", "&lt;", "&amp;lt;", "{", "}", '"', " ", "\n", "\x00"]),
    st.characters(),  # lone surrogates too
)
strings = st.lists(pieces, max_size=12).map("".join)
json_pieces = st.sampled_from(
    ['{"name":"Gaze","coordinate":', "[1,2,3,4]", "}", "[", "NaN", "1e999", "-1", ",", "1.5", "true", "null"]
)
texts = st.lists(st.one_of(pieces, json_pieces, st.sampled_from([LOOK, END])), max_size=20).map("".join)


@st.composite
def boxes(draw: st.DrawFn, ndim: int) -> Box:
    numbers = st.lists(st.integers(-MAX_COORDINATE, MAX_COORDINATE), min_size=2, max_size=2, unique=True)
    sides = [sorted(draw(numbers)) for _ in range(ndim)]
    return Box(tuple(a for a, _ in sides), tuple(b for _, b in sides))


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    ndim = draw(st.sampled_from([2, 3]))
    looks = draw(st.lists(st.builds(Fixation, strings, boxes(ndim)), max_size=4))
    return Trajectory(tuple(looks), draw(strings), draw(st.none() | strings))


@given(trajectories())
@example(Trajectory())
@example(Trajectory((), "", ""))
@example(Trajectory((Fixation(LOOK + FEEDBACK, BOX),), END, "\ud800</answer>&lt;"))
@settings(max_examples=300, deadline=None)
def test_roundtrip_of_any_trajectory_through_text_is_exact(trajectory: Trajectory) -> None:
    parsed = parse(render(trajectory))
    assert parsed.trajectory == trajectory
    if trajectory.answer is not None:
        assert parsed.defect is None
    elif not trajectory.fixations and not trajectory.reasoning:
        assert parsed.defect == "empty"
    else:
        assert parsed.defect == "no_answer"


@given(strings, boxes(2) | boxes(3), strings)
@settings(max_examples=100, deadline=None)
def test_roundtrip_of_each_turn_is_exact(reasoning: str, box: Box, answer: str) -> None:
    assert parse_turn(render_fixation(Fixation(reasoning, box))) == Turn(reasoning, box=box)
    assert parse_turn(render_answer(reasoning, answer)) == Turn(reasoning, answer=answer)


@given(texts, st.sampled_from([None, (4, 4), (4, 4, 4), (2, 9)]))
@settings(max_examples=500, deadline=None)
def test_any_string_gives_a_result_and_no_box_outside_the_frame(
    text: str, frame: tuple[int, ...] | None
) -> None:
    parsed, turn = parse(text, frame), parse_turn(text, frame)
    assert parsed.defect in (None, *DEFECTS)
    assert turn.defect in (None, *DEFECTS)
    assert (parsed.defect is None) <= (parsed.trajectory.answer is not None)
    assert turn.box is None or turn.answer is None
    if frame is not None:
        seen = [*parsed.trajectory.boxes, *([turn.box] if turn.box else [])]
        assert all(box.is_inside(frame) for box in seen)


def test_the_written_form_is_that_of_the_method() -> None:
    trajectory = Trajectory((Fixation("Here.", BOX),), "So.", "yes")
    assert render(trajectory) == LOOK + "<feedback><image></feedback>" + END
    volume = Fixation("", Box((1, 2, 3), (4, 5, 6)))
    assert render_fixation(volume) == (
        '<reasoning></reasoning><action>{"name":"Gaze","coordinate":[1,2,3,4,5,6]}</action>'
    )


def test_tags_inside_reasoning_are_text() -> None:
    text = "<reasoning><answer>no</answer><feedback><reasoning></reasoning><answer>yes</answer>"
    assert parse_turn(text) == Turn("<answer>no</answer><feedback><reasoning>", answer="yes")


def test_white_space_between_elements_is_ignored_and_inside_them_is_kept() -> None:
    text = f"\n{LOOK} {FEEDBACK}\n <reasoning> So. </reasoning>\t<answer> yes </answer>\n"
    assert parse(text) == Parsed(Trajectory((Fixation("Here.", BOX),), " So. ", " yes "))


def acting(inner: str) -> str:
    return f"<reasoning>r</reasoning><action>{inner}</action>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Turn(defect="empty")),
        (" \n", Turn(defect="empty")),
        ("yes", Turn(defect="missing_reasoning")),
        ("<answer>yes</answer>", Turn(defect="missing_reasoning")),
        (FEEDBACK + END, Turn(defect="missing_reasoning")),
        ("<reasoning>r", Turn(defect="unclosed_tag")),
        ("<reasoning>r</reasoning><answer>yes", Turn("r", defect="unclosed_tag")),
        ("<reasoning>r</reasoning><action>{", Turn("r", defect="unclosed_tag")),
        ("<reasoning>r</reasoning>", Turn("r", defect="no_answer")),
        ("<reasoning>r</reasoning>yes", Turn("r", defect="unexpected_text")),
        ("<reasoning>r</reasoning>" + FEEDBACK, Turn("r", defect="unexpected_text")),
        (LOOK + FEEDBACK, Turn("Here.", box=BOX, defect="trailing_text")),
        (LOOK + END, Turn("Here.", box=BOX, defect="trailing_text")),
        (END + "<answer>no</answer>", Turn("So.", answer="yes", defect="trailing_text")),
        (f"<reasoning>r</reasoning><answer>{FEEDBACK}</answer>", Turn("r", defect="bad_answer")),
        ("<reasoning>r</reasoning><answer>a<answer>b</answer>", Turn("r", defect="bad_answer")),
        ("<reasoning>r</reasoning><answer>A < B</answer>", Turn("r", answer="A < B")),
    ],
)
def test_a_turn_is_read_up_to_its_first_defect(text: str, expected: Turn) -> None:
    assert parse_turn(text) == expected


@pytest.mark.parametrize(
    "inner",
    [
        "",
        "{}",
        "[1,2,3,4]",
        '[["name","Gaze"],["coordinate",[1,2,3,4]]]',
        '{"name":"Gaze"}',
        '{"name":"Zoom","coordinate":[1,2,3,4]}',
        '{"name":["Gaze"],"coordinate":[1,2,3,4]}',
        '{"name":"Gaze","coordinate":[1,2,3,4],"more":1}',
        '{"name":"Gaze","coordinate":[1,2,3,4],"coordinate":[1,2,3,4]}',
        '{"name":"Gaze","coordinate":[1,2,3]}',
        '{"name":"Gaze","coordinate":[1,2,3,4,5]}',
        '{"name":"Gaze","coordinate":[3,2,1,4]}',  # encloses nothing
        '{"name":"Gaze","coordinate":[1,2,1.4,4]}',  # rounds to nothing
        '{"name":"Gaze","coordinate":[1,2,"3",4]}',
        '{"name":"Gaze","coordinate":[1,2,true,4]}',
        '{"name":"Gaze","coordinate":{"0":1}}',
        '{"name":"Gaze","coordinate":[NaN,2,3,4]}',
        '{"name":"Gaze","coordinate":[1,2,Infinity,4]}',
        '{"name":"Gaze","coordinate":[1,2,1e999,4]}',
        '{"name":"Gaze","coordinate":[1,2,2147483648,4]}',
        '{"name":"Gaze","coordinate":[1,2,%s,4]}' % ("9" * 200),
        '{"name":"Gaze","coordinate":[1,2,%s,4]}' % ("9" * 5000),
        '{"name":"Gaze","coordinate":[1,2,3,4]}' + " " * MAX_ACTION_CHARACTERS,
        "[" * 100_000,
        '{"a":' * 50,
        "[" * 120 + "]" * 120,
        "\ud800",
    ],
)
def test_an_action_that_names_no_region_is_a_defect(inner: str) -> None:
    assert parse_turn(acting(inner)) == Turn("r", defect="bad_action")
    assert parse(acting(inner) + FEEDBACK + END) == Parsed(Trajectory((), "r"), "bad_action")


def test_deep_json_is_a_defect_even_where_little_stack_is_left() -> None:
    def called_from(depth: int) -> Turn:
        return called_from(depth - 1) if depth else parse_turn(acting("[" * MAX_ACTION_CHARACTERS))

    left = sys.getrecursionlimit() - len(inspect.stack(0))
    assert called_from(left - 100) == Turn("r", defect="bad_action")


def test_fractions_are_rounded_to_voxels() -> None:
    # 0.5 rounds up to 1, 2.4 down to 2, 3.0 is 3, 4.4 goes to 4
    assert parse_turn(acting('{"name": "Gaze", "coordinate": [0.5, 2.4, 3.0, 4.4]}')).box == BOX


@pytest.mark.parametrize(
    ("frame", "defect"),
    [((3, 4), None), ((2, 4), "box_outside"), ((3, 3), "box_outside"), ((3, 4, 5), "wrong_axes")],
)
def test_a_frame_decides_which_boxes_count(frame: tuple[int, ...], defect: str | None) -> None:
    assert parse_turn(LOOK, frame).defect == defect
    assert parse_turn(LOOK, frame).box == (None if defect else BOX)


def test_a_box_that_starts_before_the_frame_is_outside() -> None:
    assert parse_turn(acting('{"name":"Gaze","coordinate":[-1,0,3,3]}'), (8, 8)).defect == "box_outside"


@pytest.mark.parametrize(
    ("text", "looks", "defect"),
    [
        (LOOK, 1, "no_answer"),
        (LOOK + FEEDBACK, 1, "no_answer"),
        (LOOK + END, 1, "bad_feedback"),
        (LOOK + "<feedback>...</feedback>" + END, 1, "bad_feedback"),
        (LOOK + FEEDBACK + LOOK + FEEDBACK + "hm", 2, "missing_reasoning"),
        (LOOK + FEEDBACK + acting('{"name":"Gaze","coordinate":[1,2,3,4,5,6]}') + FEEDBACK, 1, "wrong_axes"),
        (LOOK + FEEDBACK + END + END, 1, "trailing_text"),
        (END + FEEDBACK, 0, "trailing_text"),
    ],
)
def test_a_text_is_read_up_to_its_first_defect(text: str, looks: int, defect: str) -> None:
    parsed = parse(text)
    assert (len(parsed.trajectory.fixations), parsed.defect) == (looks, defect)


def test_a_coordinate_that_could_not_be_read_back_is_not_written() -> None:
    with pytest.raises(ProtocolError, match="2147483647"):
        render(Trajectory((Fixation("", Box((0, 0), (1, MAX_COORDINATE + 1))),)))
    with pytest.raises(ProtocolError):
        render_fixation(Fixation("", Box((-(10**5000), 0), (1, 1))))


def test_the_longest_action_that_is_written_is_read() -> None:
    box = Box((-MAX_COORDINATE,) * 3, (-MAX_COORDINATE + 1,) * 3)
    text = render_fixation(Fixation("", box))
    inner = text.removeprefix("".join(REASONING) + ACTION[0]).removesuffix(ACTION[1])
    # {"name":"Gaze","coordinate":[]} has 31 characters, six numbers 6 * 11, commas 5
    assert len(inner) == 31 + 66 + 5 <= MAX_ACTION_CHARACTERS
    assert parse_turn(text).box == box


REPEATED = [
    "<reasoning>",
    "</reasoning>",
    "<reasoning></reasoning>",
    "&amp;",
    "&",
    "<",
    " ",
    LOOK,
    LOOK + FEEDBACK,
    "<reasoning></reasoning><action>",
    "\ud800",
]
PREFIXES = ["", "<reasoning>", "<reasoning></reasoning><action>", "<reasoning></reasoning>" + ANSWER[0]]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("piece", REPEATED)
def test_ten_times_the_text_takes_about_ten_times_as_long(prefix: str, piece: str) -> None:
    def seconds(characters: int) -> float:
        text = prefix + piece * (characters // len(piece))
        began = time.process_time()
        parse(text)
        parse_turn(text)
        return time.process_time() - began

    # Quadratic time would be 100 times in every attempt; below a millisecond the clock says little.
    assert any(seconds(500_000) <= 15 * max(seconds(50_000), 1e-3) for _ in range(5))


@pytest.mark.parametrize("text", ["<reasoning>" * 900_000, "<reasoning>" + "</answer>" * 1_100_000])
def test_ten_megabytes_are_read_within_a_second(text: str) -> None:
    began = time.process_time()
    assert parse(text).defect == parse_turn(text).defect == "unclosed_tag"
    assert time.process_time() - began < 1
