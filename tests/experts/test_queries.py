"""What an expert is asked: templates are filled in once, and a question is never taken for one."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medeyes_monai.errors import ConfigError
from medeyes_monai.experts.queries import Queries, QueryRule, QueryTemplates

SCENE = SimpleNamespace()


@given(st.text())
def test_without_templates_the_question_is_asked_as_it_is(question):
    assert QueryTemplates().fill(question, SCENE) == Queries(question, question)


@given(st.text(), st.text())
def test_what_is_put_in_is_never_read_as_a_template(question, modality):
    templates = QueryTemplates(scan="<{question}|{modality}|{question}>", modality=modality)
    assert templates.fill(question, SCENE).scan == f"<{question}|{modality}|{question}>"


def test_braces_percents_and_format_fields_in_a_question_stay_what_they_are():
    question = "{modality} {0.__class__} %s {question!r} {{}}"
    assert (
        QueryTemplates(drill="Q: {question}", modality="CT").fill(question, SCENE).drill == f"Q: {question}"
    )


def test_a_scene_that_tells_its_modality_goes_before_the_templates():
    templates = QueryTemplates(scan="{modality}", modality="image")
    assert templates.fill("?", SCENE).scan == "image"
    assert templates.fill("?", SimpleNamespace(modality="CT")).scan == "CT"
    assert templates.fill("?", SimpleNamespace(modality="")).scan == "image"


def test_the_first_rule_that_fits_question_and_modality_is_taken_and_fills_the_rest_from_the_others():
    templates = QueryTemplates(
        scan="all of {question}",
        drill="here: {question}",
        rules=(
            QueryRule(scan="nodule in CT", words=("nodule", "mass"), modality="ct"),
            QueryRule(scan="nodule", words=("nodule",)),
            QueryRule(drill="how many?", words=("how many",)),
            QueryRule(scan="liver", modality="MR"),
        ),
    )
    ask = lambda question, modality: templates.fill(question, SimpleNamespace(modality=modality))  # noqa: E731
    assert ask("A nodule?", "CT") == ("nodule in CT", "here: A nodule?")
    assert ask("A Mass?", "Ct").scan == "nodule in CT"
    assert ask("A nodule?", "CR").scan == "nodule"
    assert ask("How many spots?", "CR") == ("all of How many spots?", "how many?")
    assert ask("What is it?", "MR").scan == "liver"
    assert ask("Is it massive?", "CT").scan == "all of Is it massive?"  # not the word itself


def test_words_of_a_rule_are_no_patterns():
    templates = QueryTemplates(rules=(QueryRule(scan="x", words=("a.c", "(")),))
    assert templates.fill("abc", SCENE).scan == "abc"
    assert templates.fill("is a.c there (", SCENE).scan == "x"


@pytest.mark.parametrize("template", ["{questoin}", "{}", "{0}", "a {__class__} b"])
def test_an_unknown_placeholder_is_refused_wherever_it_stands(template):
    for make in (
        lambda: QueryTemplates(scan=template),
        lambda: QueryTemplates(drill=template),
        lambda: QueryRule(scan=template),
        lambda: QueryRule(drill=template),
    ):
        with pytest.raises(ConfigError, match=r"knows \{question\} and \{modality\}"):
            make()


def test_a_rule_without_a_template_is_refused():
    with pytest.raises(ConfigError, match="has a template"):
        QueryRule(words=("nodule",))
