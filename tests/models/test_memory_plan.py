"""Plans: sizes from configurations, memory part by part, and one prediction held against a real run."""

from __future__ import annotations

import json
import math
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from families import eager
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, BertConfig, T5Config

import mcr_lens as mcr
from mcr_lens.host import in_words, number_of_bytes
from mcr_lens.models import model_facts, plan
from mcr_lens.models.memory import batches_of, memory_needed
from mcr_lens.models.memory_plan import ALLOCATOR
from mcr_lens.models.model_sizes import ModelSizes, configured_sizes, loaded_sizes
from mcr_lens.tiny import weights_folder

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "plan_check.py"
LLAMA_70B = {
    "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
    "intermediate_size": 28672, "vocab_size": 128256, "max_position_embeddings": 8192,
}  # fmt: skip
MACHINE: dict[str, Any] = {"memory": "80GB", "host_memory": "512GB"}


def large(**changes: Any) -> Any:
    return AutoConfig.for_model("llama", tie_word_embeddings=False, **{**LLAMA_70B, **changes})


def sizes_of(folder: Path) -> ModelSizes:
    return configured_sizes(AutoConfig.from_pretrained(folder))


def refused(call: Callable[[], object], *parts: str) -> None:
    with pytest.raises(mcr.InputError) as raised:
        call()
    assert "\n" not in str(raised.value)
    for part in parts:
        assert part in str(raised.value)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2", "mistral"])
def test_the_sizes_of_a_configuration_are_those_of_the_loaded_model(
    family: str, family_folder: Callable[[str], Path]
) -> None:
    sizes, model = sizes_of(family_folder(family)), mcr.load_model(family_folder(family))
    facts = model_facts(model)
    assert (sizes.n_layers, sizes.n_heads, sizes.d_model) == (facts.n_layers, facts.n_heads, facts.d_model)
    assert (sizes.d_vocab, sizes.n_ctx, sizes.windows) == (facts.d_vocab, facts.n_ctx, facts.windows)
    assert sizes.d_head == model.cfg.d_head
    # The bridge may hold the same numbers twice, as views; the Hugging Face model says how many there are.
    assert sizes.parameters == sum(p.numel() for p in eager(family_folder(family)).parameters())
    assert sizes.joint_qkv == (family in ("gpt2", "gpt_neox"))
    # A softcap makes new logits of the old.
    copies = 2 if family == "gemma2" else 1
    for each in (sizes, loaded_sizes(model)):
        need = memory_needed(
            each, batch=1, longest=64, n_prompts=1, chunk=None, dtype="float32", backend="bridge"
        )
        assert need.moments["logits"] == 64 * sizes.d_vocab * 4 * copies


def test_the_bundled_model_is_counted_as_it_is_stored() -> None:
    """Tied embeddings once."""
    assert sizes_of(weights_folder()).parameters == sum(
        p.numel() for p in eager(weights_folder()).parameters()
    )


def test_published_sizes_are_found_without_weights() -> None:
    assert configured_sizes(large()).parameters == pytest.approx(70.6e9, rel=0.001)
    sparse = AutoConfig.for_model(
        "gpt_oss", hidden_size=2880, num_hidden_layers=36, num_attention_heads=64, num_key_value_heads=8,
        head_dim=64, num_local_experts=128, num_experts_per_tok=4, intermediate_size=2880, vocab_size=201088,
    )  # fmt: skip
    sizes = configured_sizes(sparse)
    assert sizes.parameters == pytest.approx(116.8e9, rel=0.001)
    assert sizes.windows[:2] == (128, None) and sizes.d_mlp == 4 * 2880


def test_the_result_is_as_large_as_predicted(llama_profile: mcr.Profile, llama_folder: Path) -> None:
    need = memory_needed(
        sizes_of(llama_folder),
        batch=3,
        longest=13,
        n_prompts=3,
        chunk=None,
        dtype="float32",
        backend="bridge",
    )
    assert llama_profile.data.nbytes == pytest.approx(need.result, rel=0.05)


@given(st.lists(st.integers(2, 6000), min_size=1, max_size=40), st.one_of(st.just("auto"), st.integers(1, 9)))
def test_no_batch_of_the_engine_is_larger(lengths: list[int], size: Any) -> None:
    prompts = mcr.Prompts.from_tokens([[1] * length for length in lengths])
    cost = mcr.prompts.BatchCost(per_batch=64, max_tokens=4096)
    batches = prompts.batches(None if size == "auto" else size, cost)
    engine = [tuple(batch.tokens.shape) for batch in batches]
    planned = batches_of(lengths, size)
    if size == "auto":
        assert max(map(math.prod, engine)) <= max(4096, max(lengths))
        assert planned[0][0] >= engine[0][0]
    else:
        assert planned == engine


def needed(**changes: Any) -> Any:
    options = {"batch": 1, "longest": 4096, "n_prompts": 4, "chunk": None, "dtype": "bfloat16"}
    return memory_needed(configured_sizes(large()), **{**options, "backend": "bridge", **changes})


def test_memory_moves_the_way_it_must() -> None:
    whole = needed()
    assert needed(dtype="float32").weights == 2 * whole.weights
    assert needed(bits=4).weights < 0.3 * whole.weights
    assert needed(longest=8192).moments["pattern"] > 3.9 * whole.moments["pattern"]
    chunked = needed(chunk=256)
    assert chunked.moments["pattern"] < whole.moments["pattern"] / 15
    assert chunked.cache == whole.cache
    # Rows of 81 depths in float64.
    assert whole.states == 0 and chunked.states > 81 * 4096 * 8192 * 8
    assert needed(batch=3).cache == 3 * whole.cache
    assert needed(backend="hooked_transformer").moments["logits"] == 0 < whole.moments["logits"]


def test_a_window_bounds_the_cache() -> None:
    sizes = configured_sizes(AutoConfig.for_model("mistral", num_hidden_layers=2, sliding_window=512))
    options: Any = {"batch": 1, "n_prompts": 1, "chunk": None, "dtype": "float32", "backend": "bridge"}
    short, long = (memory_needed(sizes, longest=longest, **options) for longest in (512, 8192))
    assert short.cache == long.cache > 0


def test_a_conversion_holds_the_model_twice() -> None:
    """The second time in float32 whatever the dtype, and embeddings that were shared apart."""
    sizes = configured_sizes(AutoConfig.for_model("gpt2"))
    options: Any = {
        "batch": 1, "longest": 64, "n_prompts": 1, "chunk": None, "backend": "hooked_transformer",
    }  # fmt: skip
    whole, half = (memory_needed(sizes, dtype=dtype, **options) for dtype in ("float32", "bfloat16"))
    embedding = 50257 * 768
    assert sizes.tied_parameters == embedding
    assert whole.weights == 4 * (sizes.parameters + embedding) == 2 * half.weights
    assert whole.loading == 2 * whole.weights
    assert half.loading == 2 * sizes.parameters + 2 * whole.weights // 2 + 2 * embedding


def test_a_large_model_on_one_device_and_on_eight() -> None:
    one = plan(large(), [2048] * 8, **MACHINE)
    assert one.best is None and [setting.shortage for setting in one.settings] == ["device"] * 2
    assert "Nothing fits" in repr(one) and "mcr_lens.models.offload" in repr(one)
    eight = plan(large(), [2048] * 8, devices=8, **MACHINE)
    assert eight.best is not None and eight.best.dtype == "float32"
    assert 'device_map="auto"' in repr(eight) and "8 x 80 GB" in repr(eight)
    # The layers are spread evenly.
    (setting,) = plan(large(), [2048] * 8, devices=8, dtype="bfloat16", **MACHINE).settings
    assert setting.memory.weights / 8 < setting.device_bytes < setting.memory.weights / 4
    # device_map hands the weights on piece by piece; to one device they come by way of the host.
    (alone,) = plan(large(), [2048] * 8, dtype="bfloat16", **MACHINE).settings
    assert alone.loading_bytes > alone.memory.weights > 10 * setting.loading_bytes
    host = plan(large(), [2048] * 8, devices=0, host_memory="512GB").best
    assert host is not None and host.device_bytes == 0 and host.host_bytes > host.memory.weights


def test_where_nothing_fits_it_says_so() -> None:
    none = plan(large(), [2048] * 8, memory="8GB", host_memory="1GB")
    assert none.best is None
    assert "no: device and host" in repr(none)


@pytest.mark.parametrize("bits", [None, 4])
def test_quantised_weights_are_told(bits: int | None) -> None:
    config = large(quantization_config={"quant_method": "gptq", "bits": 4})
    sentences = plan(config, [512], bits=bits, **MACHINE).sentences()
    assert any("quantised weights" in sentence for sentence in sentences) == (bits is None)


def test_long_prompts_are_chunked_and_a_chunk_that_is_given_stays() -> None:
    sizes = {"num_hidden_layers": 16, "hidden_size": 2048, "max_position_embeddings": 2**17}
    config = large(**sizes, intermediate_size=8192, head_dim=32)
    found = plan(config, [32768], **MACHINE).best
    assert found is not None and found.chunk is not None and found.batch == 1
    kept = plan(config, [32768], chunk=64, **MACHINE).best
    assert kept is not None and kept.chunk == 64


@pytest.mark.parametrize(
    ("text", "size"), [("80GB", 80 * 10**9), ("1.5GiB", 3 * 2**29), (" 512 kb", 512_000), ("2tb", 2 * 10**12)]
)
def test_sizes_in_words_are_read(text: str, size: int) -> None:
    assert number_of_bytes(text) == size
    assert number_of_bytes(in_words(80e9)) == 80 * 10**9


@pytest.mark.parametrize(
    ("memory", "way_out"),
    [
        ("24", "24GB"),
        ("1.5", "1.5GB"),
        ("80 apples", "80GB"),
        ("8x80GB", "80GB"),
        ("-1GB", "80GB"),
        ("0GB", "80GB"),
    ],
)
def test_a_size_needs_a_unit(memory: str, way_out: str) -> None:
    refused(lambda: plan("tiny", [16], memory=memory), f"memory {memory!r}", way_out)


def test_what_cannot_be_planned_is_refused_in_one_line(tmp_path: Path, llama_folder: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    sizes = [16] * 2
    refused(lambda: plan(tmp_path, sizes), "its configuration cannot be read")
    refused(lambda: plan(tmp_path / "missing", sizes), "not a folder")
    refused(lambda: plan(tmp_path.parent, sizes), "no config.json")
    refused(lambda: plan("nobody/nothing", sizes), "nobody/nothing")
    refused(lambda: plan(AutoConfig.for_model("t5"), sizes), "not a decoder")
    refused(lambda: plan(llama_folder, [500]), "context", "256")
    refused(lambda: plan(llama_folder, [1, 5]), "at least 2")
    refused(lambda: plan(llama_folder, []), "tokens of each prompt")
    refused(lambda: plan(llama_folder, ["a text"]), "tokens of each prompt")  # type: ignore[list-item]
    refused(lambda: plan(llama_folder, sizes, dtype="int8"), "dtype")
    refused(lambda: plan(llama_folder, sizes, bits=0), "bits")
    refused(lambda: plan(llama_folder, sizes, batch_size=0), "batch_size")
    refused(lambda: plan(llama_folder, sizes, chunk=-3), "chunk")
    refused(lambda: plan(llama_folder, sizes, devices=999), "memory of each", "80GB")
    config = json.loads((llama_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 0}))
    refused(lambda: plan(tmp_path, sizes), "its configuration cannot be read")
    for encoder in (BertConfig(architectures=["BertForMaskedLM"]), T5Config()):
        encoder.save_pretrained(tmp_path)
        refused(lambda: plan(tmp_path, sizes), str(tmp_path), "decoder")


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux to read a peak resident set")
def test_the_memory_of_a_run_is_predicted_within_a_third(tmp_path: Path) -> None:
    """Peak resident set of a process of its own, libraries included, and what it holds beyond them."""
    check = runpy.run_path(str(BENCHMARK))
    source = check["folder_of"]("small", tmp_path)
    shape = check["SHAPES"]["small"]
    setting = plan(source, shape["lengths"], dtype="float32", devices=0, batch_size="auto").settings[0]
    assert setting.batch == 8
    environment = {**os.environ, **check["ALLOCATOR"], "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(BENCHMARK), "--one", "small", "--source", source]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    measured = json.loads(done.stdout.splitlines()[-1])
    # This run's allocator keeps nothing.
    assert 0.75 < measured["peak"] / (setting.host_bytes - ALLOCATOR) < 1.34
    assert measured["loaded"] < setting.loading_bytes
    held = setting.memory.weights + setting.memory.work
    assert 0.6 < (measured["peak"] - measured["libraries"]) / held < 1.6
