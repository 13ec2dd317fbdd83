"""The page of results says what the commands printed; what the benchmarks share measures what it says."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PRINTED = """tokens  seconds
   512      1.5

ratio: b/a, llama, bridge: 1.25
ratio: memory, one: of two: 6.1e-05
no ratio: here
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a benchmark by name, as a command in its folder would; its constants may be set."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> Any:
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return load


@pytest.fixture
def results(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """``results`` with a folder of its own, and commands that take no time."""
    module = script("results")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr(module, "HISTORY", tmp_path / "history.csv")
    monkeypatch.setattr(module, "commit", lambda: "abc1234")
    (tmp_path / "one.py").write_text(f"print({PRINTED!r}, end='')")
    (tmp_path / "two.py").write_text("import sys\nprint(sys.argv[1:], 'ratio: none')")
    parts = {
        "one": module.Part("The first", "one.py"),
        "two": module.Part("The second", "two.py --shape 'a b'"),
        "gone": module.Part("Elsewhere", "gone.py"),
        "gpu": module.Part("On a GPU", "one.py", gpu=True),
    }
    monkeypatch.setattr(module, "PARTS", parts)
    return module


def check_page(module: Any, text: str) -> int:
    """Every number of a table was printed in that part, or stands in the history; how many there are."""
    history, checked = module.read_history(), 0
    for name, part in module.PARTS.items():
        section = text.split(f"## {part.title}\n")[1].split("\n## ")[0]
        rows = [row for row in history if row["part"] == name]
        block = re.search(r"^```text\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
        printed = {} if block is None else dict(module.RATIO.findall(block[1]))
        newest = [row for row in rows if row["date"] == rows[-1]["date"]] if rows else []
        assert {row["ratio"]: row["value"] for row in newest} == printed
        for line in re.findall(r"^\| (?!ratio \|)(.+) \|$", section, re.MULTILINE):
            ratio, *values = line.split(" | ")
            known = [row["value"] for row in rows if row["ratio"] == ratio]
            assert values[-1] == printed[ratio]
            assert set(values) - {""} <= set(known)
            checked += len(values)
    return checked


def test_the_page_in_the_repository_says_what_was_printed(script: Any) -> None:
    module = script("results")
    text = module.RESULTS.read_text(encoding="utf-8")
    check_page(module, text)
    assert text == module.page(module.read_bodies(text), module.read_history())
    for part in module.PARTS.values():
        assert f"## {part.title}\n" in text


def test_a_part_is_told_word_for_word(results: Any, tmp_path: Path) -> None:
    assert results.main([]) == 0
    text = (tmp_path / "RESULTS.md").read_text()
    assert f"$ python one.py\n{PRINTED.strip()}\n```" in text
    assert "$ python two.py --shape 'a b'\n['--shape', 'a b'] ratio: none\n```" in text
    assert "| b/a, llama, bridge | 1.25 |" in text and "| memory, one: of two | 6.1e-05 |" in text
    assert "Not run: gone.py is not there." in text
    if not torch.cuda.is_available():
        assert "Not run: it needs a CUDA device, and there was none." in text
    assert "abc1234" in text and torch.__version__ in text
    assert check_page(results, text) >= 2
    assert [row["ratio"] for row in results.read_history()][:2] == [
        "b/a, llama, bridge",
        "memory, one: of two",
    ]


def test_the_history_is_kept(results: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    days = iter(f"2030-01-{day:02d} 00:00 UTC" for day in range(1, 32))
    for run in range(8):
        day = next(days)
        monkeypatch.setattr(results, "today", lambda day=day: day)
        (tmp_path / "one.py").write_text(f"print('ratio: b/a: {run}.5')\nprint('ratio: run {run}: 1')")
        assert results.main(["--only", "one"]) == 0
        check_page(results, (tmp_path / "RESULTS.md").read_text())
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| b/a | 2.5 | 3.5 | 4.5 | 5.5 | 6.5 | 7.5 |" in text
    assert "| run 7 |  |  |  |  |  | 1 |" in text and "run 6" not in text
    assert next(row["value"] for row in results.read_history() if row["ratio"] == "b/a") == "0.5"
    assert "Not run yet." in text


def test_what_was_measured_elsewhere_stays(results: Any, tmp_path: Path) -> None:
    """On a machine that cannot run a part; before anybody ran it, the page says why."""
    (tmp_path / "gone.py").write_text("print('ratio: far: 7')")
    assert results.main(["--only", "one"]) == 0
    (tmp_path / "gone.py").unlink()
    assert results.main(["--only", "gone"]) == 0
    assert "Not run: gone.py is not there." in (tmp_path / "RESULTS.md").read_text()
    (tmp_path / "gone.py").write_text("print('ratio: far: 7')")
    assert results.main(["--only", "gone"]) == 0
    (tmp_path / "gone.py").unlink()
    assert results.main(["--only", "gone"]) == 0
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| far | 7 |" in text and "not there" not in text
    check_page(results, text)


def test_a_command_that_fails_leaves_what_was_there(results: Any, tmp_path: Path) -> None:
    results.main([])
    files = [tmp_path / "RESULTS.md", tmp_path / "history.csv"]
    before = [path.read_text() for path in files]
    (tmp_path / "one.py").write_text("print('ratio: b/a: 9')\nraise SystemExit(3)")
    assert results.main(["--only", "one"]) == 1
    assert [path.read_text() for path in files] == before
    with pytest.raises(SystemExit):
        results.main(["--only", "nothing"])


def test_ratio_lines_are_read_as_they_were_printed(script: Any) -> None:
    measuring = script("measuring")
    line = measuring.ratio_line("b/a, llama, bridge", 1.23456)
    assert measuring.RATIO.findall(f"x\n{line}\ny") == [("b/a, llama, bridge", "1.23")]


def test_an_exponent_is_read_back(script: Any) -> None:
    exponents = script("context_scaling").exponents
    tokens = [512, 1024, 2048, 4096]
    for power in (1.0, 2.0):
        slope, error, last = exponents(tokens, [3.0 * n**power for n in tokens])
        assert (slope, last) == pytest.approx((power, power)) and error < 1e-6
    # A square that only shows late is seen in the last two.
    _, _, last = exponents(tokens, [1e7 + n**2 for n in tokens])
    assert last > exponents(tokens, [1e7 + n for n in tokens])[2] + 0.5


def in_a_new_process(code: str, *given: object) -> Any:
    """What a script beside the benchmarks prints, read as JSON: this process has freed memory to hand out."""
    command = [sys.executable, "-c", code, *map(str, given)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), str(BENCHMARKS.parent)])}
    return json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)


PEAK = """
import json, measuring, numpy as np
np.ones(40 * 2**17)  # 40 MiB, forgotten below
before = measuring.forget_peak()
np.ones(20 * 2**17)
print(json.dumps(measuring.peak() - before))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="needs Linux to read a peak")
def test_a_peak_is_what_was_held_since() -> None:
    assert 15 < in_a_new_process(PEAK) < 35


def test_on_a_gpu_events_are_the_clock(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is needed to see the order of calls."""
    done: list[str] = []
    event = SimpleNamespace(record=lambda: done.append("record"), elapsed_time=lambda other: 1500.0)
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: done.append("wait"))
    assert script("measuring").clock(lambda: done.append("call"), "cuda") == 1.5
    assert done == ["wait", "record", "call", "record", "wait"]


ONE_LENGTH = """
import argparse, json, sys, context_scaling as scaling
from pathlib import Path
scaling.SHAPES["small"] = (2, 32, 2, 64)
source = scaling.make_model("small", 128, "float32", Path(sys.argv[1]))
row = scaling.run_one(argparse.Namespace(
    tokens=[96], backend=["bridge"], device="cpu", dtype="float32", source=source, shape="small", chunk=32,
    whole=128,
))
print(json.dumps(row))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="needs Linux to read a peak")
def test_one_length_is_measured_and_compared(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = in_a_new_process(ONE_LENGTH, tmp_path)
    scaling = script("context_scaling")
    monkeypatch.setitem(scaling.SHAPES, "small", (2, 32, 2, 64))
    assert 0 <= row["difference"] < 1e-4 and row["seconds"] > 0 and row["held"] > row["above"] > 0
    assert scaling.cache_size("small", 1024, "bfloat16") == 2 * 2 * 1024 * 32 * 2 / 2**20
