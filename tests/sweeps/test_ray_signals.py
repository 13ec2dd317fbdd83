"""SIGTERM while a sweep has a cluster of its own, at every stage: with a Ray that only sets its handlers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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

def where():
    at("before Ray starts")
    return place

def init(*given, **options):
    calls.append("init")
    private.utils.set_sigterm_handler(lambda number, frame: sys.exit(number))  # as Ray does first of all
    try:
        at("while Ray starts")
    except KeyboardInterrupt:
        if "dropped" not in moment:
            raise
    signal.signal(signal.SIGTERM, lambda number, frame: os.abort())  # below Python there is no way around

def shutdown():
    calls.append("shutdown")
    at("and again")

sys.modules["ray"] = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=shutdown)
set_handler = lambda handler: signal.signal(signal.SIGTERM, handler)
private = SimpleNamespace(worker=SimpleNamespace(), utils=SimpleNamespace(set_sigterm_handler=set_handler))
sys.modules["ray._private"] = private
from mcr_lens.sweeps import cluster

place, cluster._place = Path(sys.argv[1]), where
for moment in sys.argv[2:]:
    calls, code = [], None
    own = lambda number, frame: calls.append("own handler")
    before = own if "own handler" in moment else signal.SIG_DFL
    signal.signal(signal.SIGTERM, before)
    try:
        with cluster.connected(None, 1):
            at("while cells are computed")
            calls.append("computed")
    except SystemExit as error:
        code = error.code
    assert signal.getsignal(signal.SIGTERM) is before and private.utils.set_sigterm_handler is set_handler
    assert not list(place.iterdir())
    print(moment, code, *calls, sep=", ", flush=True)
"""
EXPECTED = """\
never, None, init, computed, shutdown
before Ray starts, 143
while Ray starts, 143, init, shutdown
dropped while Ray starts, 143, init, shutdown
while cells are computed, 143, init, shutdown
while cells are computed and again, 143, init, shutdown
own handler while Ray starts, None, init, own handler, computed, shutdown
own handler while cells are computed, None, init, own handler, computed, shutdown
"""


def test_sigterm_ends_a_sweep_in_order_whenever_it_comes(tmp_path: Path) -> None:
    moments = [line.split(", ")[0] for line in EXPECTED.splitlines()]
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), *moments]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, EXPECTED, "")
