"""Pictures, curves and the page: boxes where the looks were, nothing mirrored, nothing run."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from PIL import Image, ImageColor

from medeyes_monai.errors import ConfigError
from medeyes_monai.geometry import Box
from medeyes_monai.metrics import Table
from medeyes_monai.reports import curves_png, draw_overview, gaze_path_figure, read_records, write_report
from medeyes_monai.reports.curves import panels_of
from medeyes_monai.reports.gaze import COLOURS, TAG
from medeyes_monai.scenes import Case, Finding, ImageScene, VolumeScene
from medeyes_monai.trajectory import Episode, Fixation, Trajectory

HOSTILE = "<script>alert('x')</script> & \"quoted\" </pre></style>"
VOID = {"meta", "img", "br"}


def make_case(findings=(), text="Is there an effusion?", key="case-1", answer="yes"):
    image = np.zeros((1, 256, 128), np.uint8)
    image[0, :64, :32] = 255  # bright at small x and small y: top left of the picture
    scene = ImageScene(image, key=key, findings=findings, overview_pixels=128 * 64)
    return Case(key=key, scene=scene, question=text, answer=answer, family="presence")


def make_episode(case, boxes=(), said="look here", answer="yes", right=1.0, defect=None):
    looks = tuple(Fixation(said, box) for box in boxes)
    scene = case.scene
    return Episode(
        case=case.key,
        stream="policy",
        draw=0,
        token_ids=torch.zeros(1, dtype=torch.int64),
        response_mask=torch.ones(1, dtype=torch.bool),
        behaviour_logprobs=torch.zeros(1),
        pictures=(scene.overview().pixels, *(scene.look(box).pixels for box in boxes)),
        turns=(*(f"{said} {n}" for n, _ in enumerate(boxes)), f"so {answer}"),
        trajectory=Trajectory(looks, "so", answer),
        defect=defect,
        reward=0.9,
        reward_parts={"accuracy": right, "grammar": 1.0},
    )


class Page(HTMLParser):
    """Reads a page and notes what a browser would make of it."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attr) for attr in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def colour_of(number):
    return np.array(ImageColor.getrgb(COLOURS[number - 1]))


def test_a_box_is_drawn_where_the_look_was():
    # The scene has 256 x 128 pixels and its overview 128 x 64, enlarged 4 times to 512 x 256: a factor of 2.
    case = make_case()
    assert case.scene.frame == (128, 64)
    picture = draw_overview(make_episode(case, [Box((100, 40), (160, 100))]), case)
    assert picture.shape == (256, 512, 3)
    rows, columns = np.where((picture == colour_of(1)).all(-1))
    inside = rows >= 80  # the tag sits above the box
    assert (columns[inside].min(), columns.max(), rows[inside].min(), rows.max()) == (200, 319, 80, 199)


def test_the_picture_is_not_mirrored():
    case = make_case()
    picture = draw_overview(make_episode(case), case)
    assert picture[:64, :128].min() == 255
    assert picture[64:].max() == 0
    assert picture[:, 128:].max() == 0


def test_numbers_stay_inside_the_picture_at_every_corner():
    case = make_case()
    corners = [
        Box((0, 0), (8, 8)),
        Box((248, 0), (256, 8)),
        Box((0, 120), (8, 128)),
        Box((248, 120), (256, 128)),
    ]
    picture = draw_overview(make_episode(case, corners), case)
    for number in range(1, 5):
        assert (picture == colour_of(number)).all(-1).sum() > TAG * TAG / 3


def test_a_second_look_at_the_same_place_keeps_the_first_visible():
    case = make_case()
    box = Box((100, 40), (160, 100))
    once = (draw_overview(make_episode(case, [box]), case) == colour_of(1)).all(-1).sum()
    picture = draw_overview(make_episode(case, [box, box]), case)
    assert (picture == colour_of(1)).all(-1).sum() > 0.9 * once
    assert (picture == colour_of(2)).all(-1).sum() > 0.9 * once


def test_findings_are_outlined_only_where_they_are_wanted():
    case = make_case(findings=[Finding(Box((150, 50), (200, 90)), "mass")])
    episode = make_episode(case)
    with_findings, without = draw_overview(episode, case), draw_overview(episode, case, findings=False)
    rows, columns = np.where((with_findings != without).any(-1))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (300, 399, 100, 179)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_box_of_a_volume_is_drawn_about_what_it_holds_on_the_contact_sheet(side):
    image = np.zeros((1, 64, 64, 32), np.int16)
    box = Box((40 if side == "left" else 8, 16, 13), (52 if side == "left" else 20, 28, 18))
    image[0][box.slices] = 300  # three quarters of white, as no label is
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])  # x to the left, y to the back
    finding = Finding(box, "mass")
    scene = VolumeScene(MetaTensor(image, affine), key="a", findings=[finding], window=(200.0, 400.0))
    case = Case("a", scene, "Where?", answer=side)
    episode = make_episode(case, [box.expand(scene.shape, minimum=(16, 16, 5))])
    picture = draw_overview(episode, case, findings=False)
    rows, columns = np.where((picture == colour_of(1)).all(-1))
    factor = picture.shape[0] // scene.sheet.size[1]
    panel = next(one for one in scene.sheet.panels if one.region.contains(box.centre))
    (x1, y1), (x2, y2) = (np.array(corner) * factor for corner in (panel.place.start, panel.place.stop))
    inside = (x1 <= columns) & (columns < x2) & (y1 <= rows) & (rows < y2)
    assert inside.mean() > 0.5  # the frame; the tag may stand over the panel above
    top, bottom, first, last = (pick(v[inside]) for v in (rows, columns) for pick in (np.min, np.max))
    frame = picture[top : bottom + 1, first : last + 1]
    assert (frame == 191).all(-1).sum() >= 0.9 * (picture[y1:y2, x1:x2] == 191).all(-1).sum() > 0
    assert (draw_overview(episode, case) != picture).any()


def test_a_box_that_is_smaller_than_a_pixel_of_the_contact_sheet_is_drawn():
    dot = Finding(Box((200, 201, 7), (201, 202, 8)), "dot")
    scene = VolumeScene(np.zeros((1, 512, 512, 40), np.int16), key="a", findings=[dot], window=(0.0, 9.0))
    case = Case("a", scene, "Where?", answer="there")
    picture = draw_overview(make_episode(case, [Box((300, 301, 20), (301, 302, 21))]), case)
    assert (picture == colour_of(1)).all(-1).any()


@pytest.mark.parametrize("looks", [0, 1, 3])
def test_the_figure_of_a_gaze_path_is_a_picture_that_grows_with_the_looks(tmp_path, looks):
    case = make_case(text="How much is $2 and $3_x?")
    gaze_path_figure(
        make_episode(case, [Box((10, 10), (60, 60))] * looks, said="$x^"), case, tmp_path / "path.png"
    )
    with Image.open(tmp_path / "path.png") as picture:
        assert picture.width == pytest.approx(150 * (4.4 + 1.9 * looks), abs=1)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.dictionaries(st.sampled_from(["policy/a", "expert/a", "b"]), st.floats()), max_size=8))
def test_every_finite_value_is_in_exactly_one_panel_and_no_other_value(records):
    values = [np.isfinite(v) for record in records for v in record.values()]
    panels = panels_of(records)
    assert sum(series.shape[1] for panel in panels.values() for series in panel.values()) == sum(values)


def test_of_a_step_that_was_logged_twice_the_last_value_counts():
    panels = panels_of([{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "loss": 1.0}])
    assert panels["loss"][""].tolist() == [[1, 2], [3, 1]]


@pytest.mark.parametrize("steps", [1, 60])
def test_curves_are_a_picture_from_the_first_step_on(steps):
    names = ["policy/reward", "expert/reward", "policy/$x_", "gradient_cosine", "e", "f"]
    records = [{"step": step, **{name: step * 0.1 for name in names}} for step in range(steps)]
    with Image.open(io.BytesIO(curves_png(records, title="a $b_"))) as picture:
        assert picture.format == "PNG"
        assert picture.width == 4 * 310


def test_diagnostics_are_read_back_and_broken_ones_refused(tmp_path):
    path = tmp_path / "diagnostics.jsonl"
    path.write_text('{"step": 1, "loss": NaN, "policy/reward": 0.5}\n{"step": 2, "loss": null}\n')
    assert [sorted(record) for record in read_records(path)] == [["loss", "policy/reward", "step"], ["step"]]
    path.write_text('{"step": 1}\n{"step": ')
    with pytest.raises(ConfigError, match="line 2"):
        read_records(path)
    with pytest.raises(ConfigError, match="no such file"):
        read_records(tmp_path / "missing.jsonl")
    with pytest.raises(ConfigError, match="no diagnostics"):
        curves_png([])


def written(tmp_path, **overrides):
    case = make_case(
        text=HOSTILE, key=HOSTILE, answer=HOSTILE, findings=[Finding(Box((9, 9), (30, 30)), HOSTILE)]
    )
    episode = make_episode(case, [Box((10, 10), (60, 60))] * 2, said=HOSTILE, answer=HOSTILE, defect=HOSTILE)
    arguments = {
        "title": HOSTILE,
        "tables": {HOSTILE: Table((HOSTILE, "n"), ((HOSTILE, HOSTILE),))},
        "curves": curves_png([{"loss": 1.0}]),
        "episodes": [(episode, case)],
        "notes": [HOSTILE],
    }
    return write_report(tmp_path / "run" / "report", **(arguments | overrides)).read_text("utf-8")


def test_text_from_data_and_model_is_shown_and_never_run(tmp_path):
    text = written(tmp_path)
    page = Page(text)
    assert "script" not in page.tags
    assert text.count("</style>") == 1
    assert page.text.count(HOSTILE) >= 12
    assert [value for _, name, value in page.attributes if name == "alt"][1].count(HOSTILE) == 1
    assert page.open == []


def test_the_page_stands_alone(tmp_path):
    page = Page(written(tmp_path))
    assert not {"script", "link", "iframe", "a", "form"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name == "href"]
    sources = [value for _, name, value in page.attributes if name == "src"]
    assert len(sources) == 4  # curves, overview, two crops
    for source in sources:
        kind, data = source.split(",")
        assert kind == "data:image/png;base64"
        Image.open(io.BytesIO(base64.b64decode(data))).verify()
    assert "url(" not in page.text
    assert (
        "meta",
        "content",
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'",
    ) in page.attributes


def test_every_picture_has_a_text_in_its_place(tmp_path):
    page = Page(written(tmp_path))
    assert page.tags.count("img") == sum(bool(value) for _, name, value in page.attributes if name == "alt")


def test_what_experts_said_of_a_look_stands_beside_it_and_nothing_beside_a_policys_own(tmp_path):
    case, box = make_case(), Box((10, 10), (60, 60))
    known = [
        Fixation("", box, "scan", confidence=0.5, disagreement=0.25),
        Fixation("", box, "drill", confidence=1, disagreement=0.0),
        Fixation("", box),
    ]
    episode = replace(make_episode(case, [box] * 3), trajectory=Trajectory(tuple(known), "so", "yes"))
    text = Page(written(tmp_path, episodes=[(episode, case)])).text
    said = re.findall(r"(?:scan|drill), confidence \d\.\d\d(?:, disagreement \d\.\d\d)?", text)
    assert said == ["scan, confidence 0.50, disagreement 0.25", "drill, confidence 1.00"]
    gaze_path_figure(episode, case, tmp_path / "path.png")
    assert "confidence" not in Page(written(tmp_path)).text


@pytest.mark.parametrize(("right", "word"), [(1.0, "right"), (0.0, "wrong"), (0.5, "wrong")])
def test_an_episode_is_marked_right_or_wrong_in_words(tmp_path, right, word):
    case = make_case()
    page = Page(written(tmp_path, episodes=[(make_episode(case, right=right), case)]))
    assert re.findall(r"[✓✗] (right|wrong)", page.text) == [word]


def test_the_page_is_written_when_there_is_nothing_but_a_title(tmp_path):
    path = write_report(tmp_path, title="a run", tables={})
    assert Page(path.read_text("utf-8")).tags.count("h2") == 0
    assert [item.name for item in tmp_path.iterdir()] == ["index.html"]


def test_letters_that_no_file_can_hold_do_not_stop_the_page(tmp_path):
    case = make_case()
    episode = make_episode(case, said="half a pair \ud800 and a zero \x00")
    assert write_report(tmp_path, title="a run", tables={}, episodes=[(episode, case)]).is_file()
