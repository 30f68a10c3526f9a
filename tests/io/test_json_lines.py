"""Files of JSON lines: whole lines alone, each with its place, and clear words about what is damaged."""

import pytest

from medeyes_monai.errors import ConfigError
from medeyes_monai.io import json_lines
from medeyes_monai.io.json_lines import object_of, whole_lines


def test_whole_lines_have_their_places_and_a_line_that_was_cut_off_is_left_out(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"item": 1}\n{"item": 2}\n{"it')
    found = list(whole_lines(file))
    assert found == [(b'{"item": 1}\n', "a.jsonl, line 1"), (b'{"item": 2}\n', "a.jsonl, line 2")]
    assert [object_of(line, place, "stop")["item"] for line, place in found] == [1, 2]


def test_a_line_without_end_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", 20)
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"{}\n" + b"0" * 100)
    with pytest.raises(ConfigError, match=r"a\.jsonl, line 2: has more than 20 bytes"):
        list(whole_lines(file))


@pytest.mark.parametrize("line", [b"{", b"\xff", b"[" * 100_000, b'{"n": ' + b"9" * 5000 + b"}"])
def test_a_damaged_line_is_named_with_a_way_out(line):
    with pytest.raises(ConfigError, match=r"^here: is damaged \(.*\); evaluate again$"):
        object_of(line, "here", "evaluate again")
    with pytest.raises(ConfigError, match="here: wanted an object, got list"):
        object_of(b"[]", "here", "evaluate again")
