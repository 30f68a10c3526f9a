"""The questionnaire in a real browser: filled in, left and opened again, saved, and analysed."""

import json
import shutil

import pytest
from reader_studies import HOSTILE, make_items

pytest.importorskip("playwright")
pytest.importorskip("krippendorff")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium among the programs"),
]

from playwright.sync_api import Page, expect, sync_playwright  # noqa: E402

from medeyes_monai.reports.reader_study import (  # noqa: E402
    analyse,
    design_study,
    read_answers,
    write_questionnaires,
)

JUDGED = {
    "reader-1": {"SOURCE-a": 5, "SOURCE-b": 2, "SOURCE-c": 2, "SOURCE-d": 1},
    "reader-2": {"SOURCE-a": 4, "SOURCE-b": 3, "SOURCE-c": 4, "SOURCE-d": 5},
}


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def study(tmp_path):
    items = make_items(4, looks=2, said=HOSTILE)
    key = design_study(items, 2, seed=0)
    return key, write_questionnaires(tmp_path / "questionnaires", key, items)


@pytest.fixture
def page(browser):
    """A page that must not ask the network for anything, nor fail in its script, nor break its policy."""
    context = browser.new_context(accept_downloads=True)
    opened = context.new_page()
    wrong = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda message: wrong.append(message.text))
    opened.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    opened.on("request", lambda request: wrong.append(request.url) if "http" in request.url[:4] else None)
    yield opened
    context.close()
    assert wrong == []


def case(page: Page):
    """Return the case that is shown."""
    return page.locator("section:visible")


def rate(page: Page, scale: str, value: int, look: int = 0) -> None:
    case(page).locator(f'fieldset[data-rating="{scale}"]').nth(look).locator("input").nth(value - 1).check()


def rate_all(page: Page, correctness: int) -> None:
    rate(page, "correctness", correctness)
    rate(page, "confidence", 4)
    rate(page, "trust", 3)
    for look in range(case(page).locator('[data-rating="usefulness"]').count()):
        rate(page, "usefulness", 5 - look, look)


def go(page: Page, button: str) -> None:
    page.get_by_role("button", name=button, exact=True).click()


def save(page: Page, folder):
    with page.expect_download() as download:
        go(page, "Save answers as a file")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_two_readers_fill_in_their_pages_and_agree_as_by_hand(page, study, tmp_path):
    key, pages = study
    files = []
    for (reader, shown), path in zip(key.readers.items(), pages, strict=True):
        page.goto(path.as_uri())
        go(page, "Begin")
        for number, one in enumerate(shown, start=1):
            expect(case(page).locator("h2")).to_have_text(f"Case {number} of 4")
            assert case(page).get_by_text("Where the model looked").count() == one.path
            rate_all(page, JUDGED[reader][one.item])
            go(page, "Next")
        expect(page.locator("#done")).to_have_text("4 of 4 cases done")
        files.append(save(page, tmp_path))
    rated = read_answers(files, key)
    assert {one.reader: one.state for one in rated} == dict.fromkeys(JUDGED, "rated")
    assert {(one.reader, one.item): one.correctness for one in rated} == {
        (reader, item): value for reader, values in JUDGED.items() for item, value in values.items()
    }
    assert {one.usefulness for one in rated} == {(), (5, 4)}
    # They take the answers for 1 -1 -1 -1 and 1 0 1 1: as worked out in test_reader_study.
    agreement = analyse(rated, resamples=20).agreement
    assert agreement["judgement, reader-1 and reader-2: Cohen's kappa"].value == pytest.approx(1 / 13)
    assert agreement["judgement, all: Fleiss' kappa"].value == pytest.approx(-10 / 38)


def test_a_case_is_not_passed_unrated_without_saying_so(page, study, tmp_path):
    key, pages = study
    page.goto(pages[0].as_uri())
    go(page, "Begin")
    rate(page, "correctness", 2)
    go(page, "Next")
    expect(case(page).locator("h2")).to_have_text("Case 1 of 4")
    expect(page.get_by_role("alert")).to_contain_text("Not rated yet")
    expect(page.get_by_role("alert")).not_to_contain_text("Is the model's answer correct?")
    page.get_by_label("I go on without rating case 1 in full").check()
    go(page, "Next")
    for number in (2, 3, 4):
        expect(case(page).locator("h2")).to_have_text(f"Case {number} of 4")
        rate_all(page, 3)
        go(page, "Next")
    expect(page.locator("#summary")).to_have_text(
        "3 of 4 cases are rated in full, 1 are left without, 0 are open."
    )
    rated = read_answers([save(page, tmp_path)], key)
    assert [one.state for one in rated] == ["left", "rated", "rated", "rated"]
    assert (rated[0].correctness, rated[0].trust) == (2, None)


def test_answers_outlive_going_back_and_reloading_and_another_reader_starts_afresh(page, study, tmp_path):
    key, pages = study
    page.goto(pages[0].as_uri())
    go(page, "Begin")
    rate_all(page, 5)
    case(page).get_by_label("Comment").fill(HOSTILE)
    go(page, "Next")
    rate(page, "trust", 1)
    page.reload()
    expect(case(page).locator("h2")).to_have_text("Case 2 of 4")
    expect(case(page).locator('[data-rating="trust"] input').first).to_be_checked()
    go(page, "Back")
    expect(case(page).get_by_label("Comment")).to_have_value(HOSTILE)
    expect(page.locator("#done")).to_have_text("1 of 4 cases done")
    go(page, "Next")
    page.goto(pages[1].as_uri())
    expect(page.locator("#done")).to_have_text("0 of 4 cases done")
    page.goto(pages[0].as_uri())
    for _ in range(3):
        rate_all(page, 4)
        go(page, "Next")
    rated = read_answers([save(page, tmp_path)], key)
    assert [one.correctness for one in rated] == [5, 4, 4, 4]
    assert rated[0].comment == HOSTILE


def test_the_keyboard_is_enough(page, study):
    _, pages = study
    page.goto(pages[0].as_uri())
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(case(page).locator("h2")).to_be_focused()
    groups = case(page).locator("fieldset").count()
    for _ in range(groups):
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.type("typed")
    page.keyboard.press("Tab")  # the box that says that one goes on
    page.keyboard.press("Tab")  # back
    page.keyboard.press("Tab")  # next
    page.keyboard.press("Enter")
    expect(case(page).locator("h2")).to_have_text("Case 2 of 4")
    kept = json.loads(page.evaluate("localStorage.getItem(localStorage.key(0))"))
    first = kept["answers"][0]
    assert [first["correctness"], first["confidence"], first["trust"], first["comment"]] == [2, 2, 2, "typed"]


def test_what_a_browser_kept_and_cannot_be_read_is_said(page, study):
    _, pages = study
    page.goto(pages[0].as_uri())
    page.evaluate("localStorage.setItem(localStorage.key(0), '{broken')")
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("could not be read")


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_screen(page, study, width):
    _, pages = study
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(pages[0].as_uri())
    for _ in range(3):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if page.get_by_role("button", name="Next").or_(page.get_by_role("button", name="Begin")).count():
            left = case(page).locator("input[type=checkbox]")
            if left.count():
                left.check()
            page.locator("#next").click()
