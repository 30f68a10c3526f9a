"""What is around each candidate is scanned again: what the scans agree on is looked at first."""

from types import SimpleNamespace

import numpy as np
import pytest

from medeyes_monai.errors import ConfigError
from medeyes_monai.experts import AnnotationExpert, Candidate, Reading, Verdict
from medeyes_monai.geometry import Box
from medeyes_monai.navigator import Navigator
from medeyes_monai.navigator.tiles import scan_around
from medeyes_monai.scenes import Finding, ImageScene

LARGE, BESIDE = Box((100, 100), (140, 140)), Box((136, 104), (143, 111))
WHOLE = "image"


class Told:
    """Proposes each finding of what it is shown, as sure as a rule says by the part's name and the label."""

    name, reads_key = "told", True

    def __init__(self, rule):
        self.rule, self.scanned = rule, []

    def scan(self, scene, query):
        self.scanned.append(scene.key)
        sure = [(finding, self.rule(scene.key, finding.label)) for finding in scene.findings]
        return [Candidate(finding.box, c, finding.label) for finding, c in sure if c is not None]

    def drill(self, scene, box, query):
        return Verdict(0.1, "something")


def image(**boxes):
    findings = [Finding(box, label) for label, box in boxes.items()]
    return ImageScene(np.zeros((1, 300, 300), np.uint8), key=WHOLE, findings=findings)


def surest(regions, confidences):
    return max(range(len(regions)), key=confidences.__getitem__)


def around(expert, scene, rounds, **more):
    return scan_around(expert, scene, "where?", expert.scan(scene, "where?"), rounds, **more)


def test_what_the_scan_of_the_whole_overlooks_is_found_beside_what_it_finds():
    expert = Told(lambda key, label: None if (key, label) == (WHOLE, "spot") else 0.5)
    found = around(expert, image(disc=LARGE, spot=BESIDE), 1)
    assert [(c.finding, c.box) for c in found] == [("disc", LARGE), ("spot", BESIDE)]
    assert expert.scanned == [WHOLE, f"{WHOLE}@95,95,145,145"]  # 1.25 times 40 pixels about the disc


def test_a_thing_is_what_the_scans_that_propose_it_say_on_average():
    expert = Told(lambda key, label: 0.4 if key == WHOLE else 0.6)
    (disc,) = around(expert, image(disc=LARGE), 1)
    assert disc.confidence == pytest.approx(0.5)  # (0.4 + 0.6) / 2
    assert disc.disagreement == pytest.approx(0.2)  # twice the standard deviation, 0.1
    (overlooked,) = around(Told(lambda key, label: 0.4 if key == WHOLE else None), image(disc=LARGE), 1)
    assert overlooked.confidence == pytest.approx(0.4)  # a scan that overlooks it says nothing of it


@pytest.mark.parametrize(("rounds", "believed"), [(0, True), (1, True), (2, True), (3, False)])
def test_what_less_than_a_third_of_the_scans_propose_is_not_believed(rounds, believed):
    expert = Told(lambda key, label: 0.9 if key == WHOLE else None)
    assert bool(around(expert, image(disc=LARGE), rounds)) is believed
    assert len(expert.scanned) == rounds + 1


def test_a_piece_is_replaced_by_the_whole_and_what_a_part_cuts_off_does_not_count():
    piece = Candidate(Box((100, 100), (140, 111)), 0.9, "piece")
    expert = Told(lambda key, label: 0.5)
    scene = image(disc=LARGE, bar=Box((90, 60), (110, 280)))
    found = scan_around(expert, scene, "where?", [piece], 3)
    assert [(c.box, c.finding) for c in found] == [(LARGE, "disc")]


def test_what_was_scanned_is_not_scanned_again_nor_is_what_is_plain():
    expert = Told(lambda key, label: 0.5)
    around(expert, image(disc=Box((20, 20), (290, 290))), 4)
    assert expert.scanned == [WHOLE]  # around it lies the whole, each time
    plain = Told(lambda key, label: 0.0)
    assert [c.confidence for c in around(plain, image(disc=LARGE), 2)] == [0.0]
    assert plain.scanned == [WHOLE]


def test_no_scan_is_begun_after_the_budget():
    answers = iter((False, True))
    expert = Told(lambda key, label: 0.5)
    found = around(expert, image(disc=LARGE, ring=Box((200, 200), (230, 230))), 4, stop=lambda: next(answers))
    assert len(expert.scanned) == 2
    assert len(found) == 2
    late = iter(
        (False, False, False, True)
    )  # before the first look, after it, before the one round, after it
    search = Navigator(Told(lambda key, label: 0.5), finer=1).search(
        image(disc=LARGE, ring=Box((200, 200), (230, 230))), "where?", surest, lambda: next(late)
    )
    assert [d.reason for d in search.decisions] == ["no_gain", "budget"]


def test_a_search_scans_around_its_candidates_once():
    expert = Told(
        lambda key, label: {"disc": 0.3, "ring": 0.2}[label] + 0.1 * (key != WHOLE and label == "ring")
    )
    scene = image(disc=LARGE, ring=Box((200, 200), (230, 230)))
    path = Navigator(expert, rescans=2, min_extent=40).navigate(scene, "where?", surest)
    assert len(path.boxes) == 2
    parts = [key for key in expert.scanned if key != WHOLE]
    assert len(parts) == len(set(parts)) == 4


def test_where_nothing_is_believed_the_first_scan_is_looked_at():
    expert = Told(lambda key, label: 0.9 if key == WHOLE else None)
    path = Navigator(expert, rescans=3).navigate(image(disc=LARGE), "where?", surest)
    assert path.boxes == (LARGE,)


class AskedFor:
    """Reads the label that a question ends with as its answer."""

    def read(self, query, seen, candidates):
        found = next((label for label in seen if query.endswith(f"{label}?")), None)
        return Reading(found, decisive=found is not None)


def test_a_noisy_expert_finds_more_of_what_is_asked_for_in_two_looks():
    labels = ("disc", "ring", "star", "bar", "cross", "spot")
    corners = [(40 + 35 * n, 60 + 35 * m) for n in range(3) for m in range(2)]
    there = {label: Box((x, y), (x + 30, y + 30)) for label, (x, y) in zip(labels, corners, strict=True)}
    scene, hits = image(**there), {0: 0, 8: 0}
    for seed in range(12):
        noise = {"miss_rate": 0.2, "confidence_noise": 0.2, "jitter": 3, "min_extent": 8}
        expert = AnnotationExpert(AskedFor(), **noise, seed=seed)
        for rescans in hits:
            navigator = Navigator(expert, rescans=rescans, max_steps=2, xi=2.0)
            path = navigator.navigate(scene, "Where is the star?", surest)
            hits[rescans] += any(box.iou(there["star"]) >= 0.3 for box in path.boxes)
    assert hits[0] <= 8
    assert hits[8] == 12


def test_settings_and_scenes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="rescans must not be negative, got 0 and -1"):
        Navigator(Told(lambda *_: 0.5), rescans=-1)
    bare = SimpleNamespace(key="a", shape=(300, 300), findings=())
    with pytest.raises(ConfigError, match=r"SimpleNamespace has no parts.*rescans=0"):
        Navigator(Told(lambda *_: 0.5), rescans=1).navigate(bare, "where?", surest)
