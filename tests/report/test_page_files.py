"""The page as a file: whole, without a script in its data, and the way to it in words."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import sys

import pytest
from run_folders import make_run

from soundgan import report
from soundgan.errors import UserError
from soundgan.report import page
from soundgan.report.run_contents import describe


def test_it_is_written_whole_and_names_no_run_that_is_none(tmp_path):
    run_dir = make_run(tmp_path / "run")
    path = report.write_page(run_dir)
    assert path == run_dir / "index.html"
    text = path.read_text()
    assert "PAGE_DATA" not in text
    assert "_HASH" not in text
    assert not [name for name in os.listdir(run_dir) if "tmp" in name]
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


# ---- what others put there -----------------------------------------------------------------------


def test_the_page_of_somebody_else_is_left_alone(tmp_path, capsys):
    run_dir = make_run(tmp_path / "run")
    for path in (tmp_path / "index.html", run_dir / "index.html"):
        path.write_text("<title>My own page</title>")
    for _ in range(2):
        page.write_pages(run_dir)
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(" is no page of this program")[0] for line in said] == [
        *(str(run_dir / "index.html"), str(tmp_path / "index.html")),
    ]
    assert (tmp_path / "index.html").read_text() == "<title>My own page</title>"
    assert (run_dir / "index.html").read_text() == "<title>My own page</title>"


def test_the_page_of_this_program_is_replaced_and_no_link_is_followed(tmp_path):
    run_dir = make_run(tmp_path / "run")
    path = report.write_page(run_dir)
    whole = path.read_text()
    mark = '<meta name="generator" content="soundgan">\n'
    assert whole.count(mark) == 1
    path.write_text(whole.replace(mark, "").replace("epoch", "age"))  # of an earlier version
    assert report.write_page(run_dir).read_text() == whole
    (tmp_path / "kept.html").write_text(whole + "!")
    path.unlink()
    path.symlink_to(tmp_path / "kept.html")
    assert report.write_page(run_dir).read_text() == whole
    assert (tmp_path / "kept.html").read_text() == whole + "!"
    path.unlink()
    os.mkfifo(path)  # is not waited for
    report.write_page(run_dir)
    path.unlink()
    path.symlink_to(tmp_path / "gone.html")
    report.write_page(run_dir)
    assert not (tmp_path / "gone.html").exists()


def test_only_regular_files_are_read(tmp_path):
    run_dir = make_run(tmp_path / "run")
    for name in ("log.csv", "scores.csv", "scores.json"):
        (run_dir / name).unlink()
        os.mkfifo(run_dir / name)
    for name in ("a.wav", "a.png"):
        (run_dir / "samples" / "epoch_0003" / name).unlink()
        os.mkfifo(run_dir / "samples" / "epoch_0003" / name)
    problems = describe(run_dir, [])["problems"]
    assert [text.split(" ")[0] for text in problems] == ["log.csv", "scores.json", "scores.csv"]
    assert all("no regular file" in text for text in problems)
    embedded = page.embedded_page(run_dir)
    assert '"samples/epoch_0003/b.wav": "data:' in embedded
    assert '"samples/epoch_0003/a.wav": "data:' not in embedded


def test_a_log_that_a_spreadsheet_saved_is_shown(tmp_path):
    run_dir = make_run(tmp_path / "run")
    whole = describe(run_dir, [])["log"]
    text = (run_dir / "log.csv").read_text()
    (run_dir / "log.csv").write_bytes(text.replace(",", ";").replace(".", ",").encode("utf-16"))
    assert describe(run_dir, [])["log"] == whole
    assert whole["epochs"] == [1, 2, 3, 4, 5]
    assert whole["columns"]["critic_loss"] == [1, 0.5, 0.333333, 0.25, 0.2]
    (run_dir / "log.csv").write_text("a\n1\n")
    assert describe(run_dir, [])["log"] == {"epochs": [], "columns": {}}


def test_a_sound_is_embedded_as_it_is_not_as_its_header_says(tmp_path):
    run_dir = make_run(tmp_path / "run", names=["a"], epochs=[1])
    path = run_dir / "samples" / "epoch_0001" / "a.wav"
    content = bytearray(path.read_bytes())
    content[40:44] = (2**31).to_bytes(4, "little")  # bytes of its samples
    path.unlink()
    path.write_bytes(content)
    assert '"samples/epoch_0001/a.wav": "data:' in page.embedded_page(run_dir)
    path.write_bytes(b"no sound")
    assert '"samples/epoch_0001/a.wav": "data:' not in page.embedded_page(run_dir)


@pytest.mark.parametrize("value", [None, 1e300, -1, "x; touch /tmp/x", [], {"a": [{}]}, True, "\0"])
def test_whatever_a_foreign_run_says_there_is_a_page(tmp_path, value):
    """And what it says to type names no other command."""
    run_dir = make_run(tmp_path / "run")
    content = json.loads((run_dir / "config.json").read_text())
    changed = {"a; touch /tmp/x": value, "run_name": value, "tf32": value}
    hostile = content | {"changed": changed, "versions": value, "device": value}
    hostile["config"] = content["config"] | {"epochs": value, "output_dir": value, "sound": value}
    (run_dir / "config.json").write_text(json.dumps(hostile))
    report.write_page(run_dir)
    report.write_overview(tmp_path)
    page.embedded_page(run_dir)
    words = shlex.split(describe(run_dir, [])["commands"]["train"])
    assert words[:3] == ["python", "train.py", "sn-wgan-gp"]
    assert "touch" not in words
    assert "a; touch /tmp/x" in " ".join(words)


def test_a_page_does_not_fail_for_what_is_deeply_nested(tmp_path):
    run_dir = make_run(tmp_path / "run")
    content = json.loads((run_dir / "config.json").read_text())
    deep = "[" * 500 + "]" * 500
    text = json.dumps(content | {"device": "DEEP"}).replace('"DEEP"', deep)
    (run_dir / "config.json").write_text(text)
    (run_dir / "scores.json").write_text('{"rows": {}, "notes": ' + deep + "}")
    assert '"device": [[[' in report.write_page(run_dir).read_text()
    assert '"name": "run"' in report.write_overview(tmp_path).read_text()
