"""Renew benchmarks/RESULTS.md: ``python benchmarks/results.py [--only NAME ...]``; ``make bench`` does all.

The benchmarks run one after the other, each as a command of its own. What a command printed stands in
RESULTS.md word for word, with the machine, the versions and the commit it ran on; a part that is not renewed
stays as it is, and so does one whose command fails. The lines ``ratio: NAME: VALUE`` among what was printed
are appended to ``history.csv``, from which the tables of RESULTS.md are drawn. So no number stands there that
no command printed.
"""

import argparse
import csv
import datetime
import importlib.util
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from measuring import RATIO

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
HISTORY = ROOT / "benchmarks" / "history.csv"
COLUMNS = ("date", "commit", "machine", "part", "ratio", "value")
# Runs of a part that its table shows; the file keeps all.
SHOWN = 6
NEVER = "Not run yet."
PACKAGES = ("torch", "transformer-lens", "transformers", "numpy")


@dataclass(frozen=True)
class Part:
    """A command, what its numbers are, and what it needs: a module, a folder beside the project, a GPU."""

    title: str
    command: str
    module: str | None = None
    data: str | None = None
    gpu: bool = False

    def why_not(self) -> str | None:
        """What it cannot run without here, or ``None``."""
        script = shlex.split(self.command)[0]
        if not (ROOT / script).is_file():
            return f"{script} is not there"
        if self.module is not None and importlib.util.find_spec(self.module) is None:
            return f"it needs {self.module}"
        if self.data is not None and not (ROOT.parent / self.data).exists():
            return f"it needs ../{self.data}, which is not shipped"
        if self.gpu and not torch.cuda.is_available():
            return "it needs a CUDA device, and there was none"
        return None


PARTS = {
    "profile_cost": Part("What a profile costs", "benchmarks/profile_cost.py"),
    "real_prompts": Part(
        "Questions of many lengths", "benchmarks/real_prompts.py", data="shared/data/gsm8k/test.jsonl"
    ),
    "context_scaling": Part("Long contexts", "benchmarks/context_scaling.py --longest 32768"),
    "memory_flat": Part("Many prompts", "benchmarks/memory_flat.py", data="shared/data/gsm8k/test.jsonl"),
    "plan_check": Part("Plans against runs", "benchmarks/plan_check.py"),
    "sweep_workers": Part("Sweeps on several workers", "benchmarks/sweep_workers.py", module="ray"),
    "profile_cost_gpu": Part(
        "What a profile costs on a GPU",
        "benchmarks/profile_cost.py --device cuda --dtype bfloat16 --shape llama-1b --rounds 3",
        gpu=True,
    ),
    "context_scaling_gpu": Part(
        "Long contexts on a GPU",
        "benchmarks/context_scaling.py --device cuda --dtype bfloat16 --shape llama-1b --chunk 1024 "
        "--tokens 2048 4096 8192 16384 --longest 32768",
        gpu=True,
    ),
}
INTRODUCTION = """# Results

`make bench` renews this page, `python benchmarks/results.py --only NAME` one part of it. What stands in
a block was printed by the command above it, on the machine and with the versions that are named there. Speeds
are ratios of two things measured side by side in one run. The lines `ratio: NAME: VALUE` are kept in
`benchmarks/history.csv`; a table shows the last runs, oldest first.
"""


def main(given: Sequence[str] | None = None) -> int:
    """Run what was asked for; the number of commands that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), metavar="NAME", help=", ".join(PARTS))
    arguments = parser.parse_args(given)
    bodies = read_bodies(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    failed = 0
    for name in arguments.only or PARTS:
        part = PARTS[name]
        if why := part.why_not():
            print(f"{name}: not run, {why}")
            if bodies.get(name, NEVER).startswith("Not run"):
                bodies[name] = f"Not run: {why}."
        else:
            print(f"{name}: python {part.command}", flush=True)
            # Before it runs: a commit that is made meanwhile is not the one that is measured.
            where = {"date": today(), "commit": commit(), "machine": machine()}
            printed, code = run(part.command)
            if code:
                print(f"{name}: its command failed with {code}, what was there stays", file=sys.stderr)
                failed += 1
                continue
            bodies[name] = body_of(part.command, printed, where)
            keep(name, printed, where)
        # After each part: what was measured is not lost when a later one is interrupted.
        replace(RESULTS, page(bodies, read_history()))
    return failed


def run(command: str) -> tuple[str, int]:
    """What a command prints, shown while it comes, and its exit status."""
    printed = []
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    words = [sys.executable, *shlex.split(command)]
    with subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            printed.append(line)
    return "".join(printed), process.returncode


def body_of(command: str, printed: str, where: dict[str, str]) -> str:
    """A part's section: where and with what it ran, and what it printed."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("mcr-lens", *PACKAGES))
    return (
        f"{where['date']}, commit {where['commit']}; {where['machine']}; "
        f"Python {platform.python_version()}, {versions}\n\n"
        f"```text\n$ python {command}\n{printed.strip()}\n```"
    )


def read_bodies(text: str) -> dict[str, str]:
    """The sections of the page by the name of their part."""
    found = re.finditer(r"^<!-- part: (\w+) -->\n(.*?)\n<!-- /part -->$", text, re.DOTALL | re.MULTILINE)
    return {match[1]: match[2] for match in found}


def page(bodies: dict[str, str], history: list[dict[str, str]]) -> str:
    """The whole page; parts that were never run say so."""
    lines = [INTRODUCTION]
    for name, part in PARTS.items():
        body = bodies.get(name, NEVER)
        lines += [f"## {part.title}\n", f"<!-- part: {name} -->\n{body}\n<!-- /part -->\n"]
        lines += table([row for row in history if row["part"] == name])
    return "\n".join(lines)


def table(rows: list[dict[str, str]]) -> list[str]:
    """A part's history, a ratio a line and a run a column, and the machines of these runs."""
    runs = list(dict.fromkeys((row["date"], row["commit"], row["machine"]) for row in rows))[-SHOWN:]
    if not runs:
        return []
    machines = list(dict.fromkeys(where for *_, where in runs))
    heads = [f"{date[:10]}, {at}, [{machines.index(where) + 1}]" for date, at, where in runs]
    values = {(row["ratio"], (row["date"], row["commit"], row["machine"])): row["value"] for row in rows}
    shown = [name for name in dict.fromkeys(row["ratio"] for row in rows) if (name, runs[-1]) in values]
    lines = [f"| ratio | {' | '.join(heads)} |", f"|---|{'---|' * len(runs)}"]
    lines += [f"| {name} | {' | '.join(values.get((name, each), '') for each in runs)} |" for name in shown]
    return [*lines, "", *(f"[{number}] {where}" for number, where in enumerate(machines, start=1)), ""]


def keep(name: str, printed: str, where: dict[str, str]) -> None:
    """Append the ratios among what was printed to the history."""
    new = [
        {**where, "part": name, "ratio": match["name"], "value": match["value"]}
        for match in RATIO.finditer(printed)
    ]
    rows = [*read_history(), *new]
    lines = [",".join(COLUMNS), *(csv_line([row[column] for column in COLUMNS]) for row in rows)]
    replace(HISTORY, "\n".join(lines) + "\n")


def read_history() -> list[dict[str, str]]:
    if not HISTORY.is_file():
        return []
    with HISTORY.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def csv_line(values: list[str]) -> str:
    return ",".join(f'"{value}"' if "," in value else value for value in values)


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def today() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def commit() -> str:
    """The commit that is measured; a plus where files that count differ from it."""
    try:
        head = _git("rev-parse", "--short=9", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--", "mcr_lens", "benchmarks/*.py") else "")
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive
        return "unknown"


def machine() -> str:
    """Processor, cores, memory, GPUs."""
    kinds = re.findall(r"^model name\s*: (.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    memory = re.findall(r"^MemTotal:\s+(\d+) kB$", _read("/proc/meminfo"), re.MULTILINE)
    size = f"{int(memory[0]) / 2**20:.0f} GiB" if memory else "memory unknown"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    processor = " ".join((kinds or [platform.processor() or platform.machine()])[0].split())
    return f"{processor}, {os.cpu_count()} cores, {size}, {' and '.join(gpus) or 'no GPU'}"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
