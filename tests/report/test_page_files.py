"""The page as a file: whole, without a script in its data, and the way to it in words."""

from __future__ import annotations

import json
import math
import re
import sys

import pytest
from run_folders import make_run

from soundgan import report
from soundgan.errors import UserError
from soundgan.report import page


def test_it_is_written_whole_and_names_no_run_that_is_none(tmp_path):
    run_dir = make_run(tmp_path / "run")
    path = report.write_page(run_dir)
    assert path == run_dir / "index.html"
    text = path.read_text()
    assert "PAGE_DATA" not in text
    assert "_HASH" not in text
    assert not list(run_dir.glob("*.tmp"))
    assert report.write_page(run_dir).read_text() == text
    with pytest.raises(UserError, match=r"holds no config\.json"):
        report.write_page(tmp_path)


def test_nothing_in_the_data_ends_its_element():
    filled = page._fill({"name": "</script><script>alert(1)</script>&\u2028\udcff", "x": math.nan})
    (data,) = re.findall(r'id="data">(.*?)</script>', filled)
    assert not set("<>&\u2028") & set(data)
    assert json.loads(data) == {
        "name": "</script><script>alert(1)</script>&\u2028\udcff",
        "x": None,
    }


def test_outside_a_notebook_the_way_is_said(tmp_path, monkeypatch):
    run_dir = make_run(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(UserError, match=r"open .*index\.html in a browser"):
        report.show(run_dir)
    monkeypatch.undo()
    pytest.importorskip("IPython")
    with pytest.raises(UserError, match=r"holds no config\.json"):
        report.show(tmp_path)
