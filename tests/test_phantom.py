from collections import Counter

import numpy as np
import pytest

from medeyes_monai.data.phantom import (
    ANSWERS,
    FAMILIES,
    LOOK_FAMILIES,
    PhantomReader,
    PhantomVQA,
)
from medeyes_monai.data.phantom_image import BENIGN, KINDS
from medeyes_monai.errors import ConfigError
from medeyes_monai.experts import Candidate
from medeyes_monai.scenes import Case


def fully_seen_answer(case: Case) -> str | None:
    seen = [finding.label for finding in case.scene.findings if finding.subtle]
    candidates = [Candidate(f.box, 1.0, "candidate" if f.subtle else f.label) for f in case.scene.findings]
    return PhantomReader().read(case.question, seen, candidates).answer


@pytest.mark.parametrize("split", ["train", "ood"])
def test_who_has_seen_every_finding_answers_every_question_right(split: str) -> None:
    data = PhantomVQA(split, size=84)  # type: ignore[arg-type]
    cases = [data[i] for i in range(len(data))]
    assert [fully_seen_answer(case) for case in cases] == [case.answer for case in cases]
    assert {case.family for case in cases} == set(FAMILIES)


def test_who_has_seen_nothing_can_answer_only_the_families_of_one_glance() -> None:
    data = PhantomVQA("val", size=84)
    for case in (data[i] for i in range(len(data))):
        candidates = [
            Candidate(f.box, 1.0, "candidate" if f.subtle else f.label) for f in case.scene.findings
        ]
        reading = PhantomReader().read(case.question, [], candidates)
        assert reading.decisive == (case.family not in LOOK_FAMILIES)


def test_answers_of_a_family_are_equally_frequent() -> None:
    data = PhantomVQA("val", size=12 * len(FAMILIES))
    for number, family in enumerate(FAMILIES):
        answers = Counter(data[i].answer for i in range(number, len(data), len(FAMILIES)))
        assert set(answers) == set(ANSWERS[family])
        assert max(answers.values()) == min(answers.values())


def test_an_item_is_the_same_each_time_and_differs_between_splits_and_seeds() -> None:
    def pixels(split: str, seed: int) -> np.ndarray:
        return PhantomVQA(split, size=8, seed=seed)[3].scene.overview().pixels  # type: ignore[arg-type]

    assert np.array_equal(pixels("train", 0), pixels("train", 0))
    assert not np.array_equal(pixels("train", 0), pixels("test", 0))
    assert not np.array_equal(pixels("train", 0), pixels("train", 1))


def test_the_patients_left_is_at_the_right_of_the_picture() -> None:
    data = PhantomVQA("val", size=70)
    sides = set()
    for case in (data[i] for i in range(len(data))):
        for finding in case.scene.findings:
            if finding.subtle:
                at_right_of_picture = finding.box.centre[0] > case.scene.shape[0] / 2
                assert finding.label.startswith("left") == at_right_of_picture
                sides.add(finding.label.split()[0])
    assert sides == {"left", "right"}


def test_as_many_candidates_on_each_side_in_questions_about_the_side() -> None:
    data = PhantomVQA("val", size=20, families=["laterality"])
    for case in (data[i] for i in range(len(data))):
        sides = Counter(finding.label.split()[0] for finding in case.scene.findings if finding.subtle)
        assert sides["left"] == sides["right"]


def centred_pieces(images: int, split: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Pieces around each candidate, of the overview and of a look, and the number of its kind."""
    data = PhantomVQA(split, size=images, seed=5)  # type: ignore[arg-type]
    kinds = (*KINDS, BENIGN)
    overview, look, labels = [], [], []
    for case in (data[i] for i in range(len(data))):
        whole = case.scene.overview().pixels[..., 0].astype(float)
        for finding in case.scene.findings:
            if finding.subtle:
                column, row = (round(v / 4) for v in finding.box.centre)
                overview.append(whole[row - 6 : row + 7, column - 6 : column + 7])
                look.append(case.scene.look(finding.box).pixels[..., 0].astype(float))
                labels.append(kinds.index(finding.label.split()[2]))
    # the texture's phase does not matter in a spectrum
    spectrum = np.abs(np.fft.fft2(np.stack(look) - np.mean(look)))
    return {"overview": np.stack(overview), "look": np.log1p(spectrum)}, np.array(labels)


def probe_accuracy(train: np.ndarray, kinds: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    """Accuracy of a ridge regression from pixels to kinds."""

    def flat(pieces: np.ndarray) -> np.ndarray:
        return np.column_stack(
            [(pieces.reshape(len(pieces), -1) - train.mean()) / train.std(), np.ones(len(pieces))]
        )

    x = flat(train)
    weights = np.linalg.solve(x.T @ x + 100.0 * np.eye(x.shape[1]), x.T @ np.eye(5)[kinds])
    return float(np.mean((flat(test) @ weights).argmax(1) == truth))


def test_a_look_shows_the_kind_and_the_overview_does_not() -> None:
    pieces, kinds = centred_pieces(140, "train")
    other, truth = centred_pieces(56, "val")
    chance = np.bincount(truth).max() / len(truth)
    assert probe_accuracy(pieces["overview"], kinds, other["overview"], truth) < chance + 0.12
    assert probe_accuracy(pieces["look"], kinds, other["look"], truth) > 0.85


def test_a_question_of_another_data_set_is_refused_by_the_reader() -> None:
    with pytest.raises(ConfigError, match="PhantomVQA"):
        PhantomReader().read("Is there a pneumothorax?", [], ())


@pytest.mark.parametrize(
    "arguments", [{"split": "training"}, {"size": 0}, {"families": ["shape"]}, {"families": []}]
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        PhantomVQA(**arguments)  # type: ignore[arg-type]
