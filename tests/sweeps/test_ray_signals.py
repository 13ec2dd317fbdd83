"""SIGTERM while a sweep has a cluster of its own, at every stage: with a Ray that only sets its handlers."""

from __future__ import annotations

import subprocess
import sys

from shell import ENVIRONMENT

# Sends itself the signal at one moment after the other, and says what came of it: a line each. A signal that
# nobody handles kills it.
SCRIPT = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace

def at(name):
    if name in moment:
        os.kill(os.getpid(), signal.SIGTERM)

def init(*given, _temp_dir, **options):
    places.append(Path(_temp_dir))
    at("before Ray sets its handler")
    calls.append("init")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as Ray does
    at("while Ray starts")

def shutdown():
    calls.append("shutdown")
    at("and again")

sys.modules["ray"] = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=shutdown)
from mcr_lens.sweeps.ray_engine import _connected
from mcr_lens.sweeps.run import _sigterm_as_interrupt

for moment in sys.argv[1:]:
    calls, places, code = [], [], None
    own = lambda number, frame: calls.append("own handler")
    before = own if "own handler" in moment else signal.SIG_DFL
    signal.signal(signal.SIGTERM, before)
    try:
        with _sigterm_as_interrupt(), _connected(None, 1):
            at("while cells are computed")
            calls.append("computed")
    except SystemExit as error:
        code = error.code
    assert signal.getsignal(signal.SIGTERM) is before
    assert not any(place.exists() for place in places)
    print(moment, code, *calls, sep=", ", flush=True)
"""
EXPECTED = """\
never, None, init, computed, shutdown
before Ray sets its handler, 143, shutdown
while Ray starts, 143, init, shutdown
while cells are computed, 143, init, shutdown
while cells are computed and again, 143, init, shutdown
own handler while cells are computed, None, init, own handler, computed, shutdown
"""


def test_sigterm_ends_a_sweep_in_order_whenever_it_comes() -> None:
    moments = [line.split(", ")[0] for line in EXPECTED.splitlines()]
    command = [sys.executable, "-c", SCRIPT, *moments]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, EXPECTED, "")
