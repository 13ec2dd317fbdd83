"""Names without a network: told in seconds, or loaded from the cache; the hub that is asked is the user's."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from shell import COMMAND, ENVIRONMENT

from mcr_lens.models import hub

# A guard against minutes of retries, not a speed.
SECONDS = 60
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


def online(cache: Path, endpoint: str) -> dict[str, str]:
    """An environment that allows the network, with an empty cache and a hub of our own."""
    kept = {name: value for name, value in ENVIRONMENT.items() if name not in OFFLINE}
    proxies = {name for name in kept if name.lower().endswith("_proxy")}
    return {name: value for name, value in kept.items() if name not in proxies} | {
        "HF_HOME": str(cache),
        "HF_ENDPOINT": endpoint,
    }


@pytest.fixture
def nobody() -> str:
    """A hub on a port where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """A hub that takes connections and never says anything."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def in_python(code: str, environment: dict[str, str]) -> dict[str, Any]:
    """What a program of its own prints as JSON, and the seconds it took."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=4 * SECONDS
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "seconds": time.monotonic() - started}


TRY = """
import json, time
import mcr_lens as mcr
tiny = mcr.load_model("tiny")
told, times = [], []
for attempt in (
    lambda: mcr.load_model("gpt2"),
    lambda: mcr.load_model("some-org/some-name", backend="bridge", revision="step1"),
    lambda: mcr.load_prompts("hf:openai/gsm8k", tiny, config="main", split="test"),
    lambda: mcr.load_prompts("hf:openai/gsm8k", tiny, config="main", split="test"),
):
    started = time.monotonic()
    try:
        attempt()
    except mcr.InputError as error:
        told.append(str(error))
    times.append(time.monotonic() - started)
from huggingface_hub import constants
import datasets
print(json.dumps({"told": told, "times": times,
                  "left": [constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE]}))
"""


@pytest.mark.parametrize("kind", ["nobody", "silent"])
def test_names_are_refused_in_seconds_with_the_way_out(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    endpoint = request.getfixturevalue(kind)
    found = in_python(TRY, online(tmp_path, endpoint))
    assert len(found["told"]) == 4
    for told, seconds in zip(found["told"], found["times"], strict=True):
        assert "\n" not in told
        assert endpoint in told
        assert "does not answer" in told
        assert "connect" in told
        assert "folder" in told
        assert seconds < 15  # the retries of the hub's client alone take more
    assert found["left"] == [False, False]


def test_in_the_shell_it_is_one_line_and_exit_code_2(nobody: str, tmp_path: Path) -> None:
    prompts = tmp_path / "p.txt"
    prompts.write_text("one two three\n")
    out = tmp_path / "run.nc"
    started = time.monotonic()
    done = subprocess.run(
        [*COMMAND, "profile", "gpt2", str(prompts), "--out", str(out)],
        env=online(tmp_path / "cache", nobody),
        capture_output=True,
        text=True,
        timeout=4 * SECONDS,
    )
    assert time.monotonic() - started < SECONDS
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("mcr-lens: ")
    assert "does not answer" in done.stderr
    assert not out.exists()


def test_what_is_in_the_cache_loads_without_a_network(
    llama_folder: Path, nobody: str, tmp_path: Path
) -> None:
    commit = "0" * 40
    model = tmp_path / "hub" / "models--some-org--some-name"
    shutil.copytree(llama_folder, model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    code = (
        "import json, mcr_lens as mcr\n"
        "model = mcr.load_model('some-org/some-name')\n"
        "print(json.dumps({'name': mcr.models.model_facts(model).name, 'bos': model.tokenizer.bos_token}))\n"
    )
    found = in_python(code, online(tmp_path, nobody))
    assert (found["name"], found["bos"]) == ("some-org/some-name", "<bos>")
    assert found["seconds"] < SECONDS


def test_a_local_folder_asks_nobody(llama_folder: Path, silent: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.jsonl").write_text('{"text": "w1 w2 w3"}\n')
    code = (
        "import json, mcr_lens as mcr\nfrom mcr_lens.models import hub\n"
        "def asked(): raise AssertionError('the hub was asked')\n"
        "hub.hub_silence = asked\n"
        f"model = mcr.load_model({str(llama_folder)!r})\n"
        f"prompts = mcr.load_prompts({'hf:' + str(data)!r}, model, split='train')\n"
        "print(json.dumps({'n': len(prompts)}))\n"
    )
    found = in_python(code, online(tmp_path / "cache", silent))
    assert found["n"] == 1
    assert found["seconds"] < SECONDS


class Answer(BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012

    def do_HEAD(self) -> None:
        self.asked.append(self.headers["Host"])
        self.send_response(404)
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def answering() -> Iterator[str]:
    """A hub that has nothing, and says so."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str | None]:
    """Asks a hub in this process, which is offline otherwise."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def silence_of(endpoint: str) -> str | None:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        return hub.hub_silence()

    return silence_of


def test_any_answer_counts_even_that_there_is_nothing(
    answering: str, nobody: str, ask: Callable[[str], str | None]
) -> None:
    assert ask(answering) is None
    assert nobody in str(ask(nobody))


def test_a_proxy_is_asked_where_there_is_one(answering: str, tmp_path: Path) -> None:
    """The hub itself is a name that nobody has: only the proxy can answer for it."""
    environment = {**online(tmp_path, "http://hub.invalid"), "http_proxy": answering}
    Answer.asked.clear()
    code = "import json; from mcr_lens.models import hub; print(json.dumps({'x': hub.hub_silence()}))"
    assert in_python(code, environment)["x"] is None
    assert Answer.asked == ["hub.invalid"]


def test_a_slow_network_may_be_given_more_time(
    silent: str, ask: Callable[[str], str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "1")
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
    assert silent in str(ask(silent))


def test_where_the_hub_may_not_be_asked_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    monkeypatch.setattr("huggingface_hub.get_session", lambda: pytest.fail("it was asked"))
    with hub.hub_or_cache() as silence:
        assert silence is not None and "unset HF_HUB_OFFLINE" in silence
