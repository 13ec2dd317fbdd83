"""Plans: sizes from configurations, memory part by part, and one prediction held against a real run."""

from __future__ import annotations

import json
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
from mcr_lens.host import in_words
from mcr_lens.models import model_facts
from mcr_lens.planning import Machine, memory_needed, model_shape, plan, result_bytes
from mcr_lens.planning.machine import from_to, number_of_bytes, three_digits
from mcr_lens.planning.seconds import seconds_needed
from mcr_lens.planning.settings import ALLOCATOR, batches_of
from mcr_lens.planning.shape import loaded_shape
from mcr_lens.planning.speed import SpectrumSpeed, Speed
from mcr_lens.tiny import weights_folder

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "plan_check.py"
LLAMA_70B = {
    "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
    "intermediate_size": 28672, "vocab_size": 128256, "max_position_embeddings": 8192,
}  # fmt: skip
MACHINE = {"memory": "80GB", "host_memory": "512GB", "flops": 4e14}
SPEED = Speed(flops=1e12, call=1e-3, activation=1e-9, pattern=1e-10, residual=1e-10, measured=False)
ALONE = SpectrumSpeed(cube=1e-9, gram=1e11, threads=1)


def large(**changes: Any) -> Any:
    return AutoConfig.for_model("llama", tie_word_embeddings=False, **{**LLAMA_70B, **changes})


def refused(call: Callable[[], object], *parts: str) -> None:
    with pytest.raises(mcr.InputError) as raised:
        call()
    assert "\n" not in str(raised.value)
    for part in parts:
        assert part in str(raised.value)


def test_a_softcap_makes_new_logits_of_the_old(family_folder: Callable[[str], Path]) -> None:
    options: Any = {"batch": 1, "longest": 64, "n_prompts": 1, "chunk": None, "dtype": "float32"}
    for family, copies in (("gemma2", 2), ("llama", 1)):
        shape = model_shape(family_folder(family))
        loaded = loaded_shape(mcr.load_model(family_folder(family)))
        for each in (shape, loaded):
            needed = memory_needed(each, backend="bridge", **options)
            assert needed.moments["logits"] == 64 * shape.d_vocab * 4 * copies


def test_what_no_plan_is_for(tmp_path: Path) -> None:
    for config in (BertConfig(architectures=["BertForMaskedLM"]), T5Config()):
        config.save_pretrained(tmp_path)
        refused(lambda: plan(tmp_path, [16]), str(tmp_path), "decoder")


@pytest.mark.parametrize("bits", [None, 4])
def test_quantised_weights_are_told(bits: int | None) -> None:
    told = large(quantization_config={"quant_method": "gptq", "bits": 4})
    sentences = plan(told, [512], bits=bits, **MACHINE).sentences()
    assert any("quantised weights (gptq)" in sentence for sentence in sentences) == (bits is None)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2", "mistral"])
def test_the_shape_from_the_configuration_is_the_loaded_model(
    family: str, family_folder: Callable[[str], Path]
) -> None:
    shape, model = model_shape(family_folder(family)), mcr.load_model(family_folder(family))
    facts = model_facts(model)
    assert (shape.n_layers, shape.n_heads, shape.d_model) == (facts.n_layers, facts.n_heads, facts.d_model)
    assert (shape.d_vocab, shape.n_ctx, shape.windows) == (facts.d_vocab, facts.n_ctx, facts.windows)
    assert shape.d_head == model.cfg.d_head
    # The bridge may hold the same numbers twice, as views; the Hugging Face model says how many there are.
    assert shape.parameters == sum(p.numel() for p in eager(family_folder(family)).parameters())
    assert shape.joint_qkv == (family in ("gpt2", "gpt_neox"))


def test_the_bundled_model_is_counted_as_it_is_stored() -> None:
    """Tied embeddings once."""
    assert model_shape("tiny").parameters == sum(p.numel() for p in eager(weights_folder()).parameters())


def test_published_sizes_are_found_without_weights() -> None:
    shape = model_shape(large())
    assert shape.parameters == pytest.approx(70.6e9, rel=0.001)
    sparse = AutoConfig.for_model(
        "gpt_oss", hidden_size=2880, num_hidden_layers=36, num_attention_heads=64, num_key_value_heads=8,
        head_dim=64, num_local_experts=128, num_experts_per_tok=4, intermediate_size=2880, vocab_size=201088,
    )  # fmt: skip
    shape = model_shape(sparse)
    # 117 billion, of which 5.1 work on a token, says its model card; the unembedding counts, embedding not.
    assert shape.parameters == pytest.approx(116.8e9, rel=0.001)
    assert shape.active_parameters == pytest.approx(5.1e9, rel=0.03)
    assert shape.windows[:2] == (128, None)


def test_the_result_is_as_large_as_predicted(llama_profile: mcr.Profile, llama_folder: Path) -> None:
    assert llama_profile.data.nbytes == pytest.approx(result_bytes(model_shape(llama_folder), 3), rel=0.05)


@given(st.lists(st.integers(2, 6000), min_size=1, max_size=40), st.one_of(st.just("auto"), st.integers(1, 9)))
def test_no_batch_of_the_engine_is_larger(lengths: list[int], size: Any) -> None:
    prompts = mcr.Prompts.from_tokens([[1] * length for length in lengths])
    cost = mcr.prompts.BatchCost(64, 4096)
    engine = [tuple(batch.tokens.shape) for batch in prompts.batches(None if size == "auto" else size, cost)]
    planned = batches_of(lengths, size)
    if size == "auto":
        assert max(rows * longest for rows, longest in engine) <= max(4096, max(lengths))
        assert planned[0][0] >= engine[0][0]
    else:
        assert planned == engine


def needed(**changes: Any) -> Any:
    options = {"batch": 1, "longest": 4096, "n_prompts": 4, "chunk": None, "dtype": "bfloat16"}
    return memory_needed(model_shape(large()), **{**options, "backend": "bridge", **changes})


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
    shape = model_shape(AutoConfig.for_model("mistral", num_hidden_layers=2, sliding_window=512))
    sizes = {"batch": 1, "n_prompts": 1, "chunk": 256, "dtype": "bfloat16", "backend": "bridge"}
    short, long = (memory_needed(shape, longest=longest, **sizes).cache for longest in (512, 8192))
    assert short == long


def test_seventy_billion_parameters_need_several_devices() -> None:
    one = plan(large(), [2048] * 8, **MACHINE)
    by_name = {(s.dtype, s.placement): s for s in one.settings}
    assert not by_name["bfloat16", "1 device"].fits
    assert by_name["bfloat16", "offload to CPU"].fits
    assert by_name["bfloat16", "cpu"].fits
    eight = plan(large(), [2048] * 8, **{**MACHINE, "memory": "8x80GB"})
    assert eight.chosen is not None and eight.chosen.placement == "8 devices"
    assert 'device_map="auto"' in repr(eight)


def test_where_nothing_fits_it_says_so() -> None:
    none = plan(large(), [2048] * 8, memory="8GB", host_memory="1GB", flops=1e12)
    assert none.chosen is None
    assert "Nothing fits" in repr(none)
    assert "no: both" in repr(none)


def test_loading_counts_on_the_host() -> None:
    """A device takes a model that was on the host; ``device_map`` hands it on piece by piece."""
    config = large(num_hidden_layers=20)
    by_name = {s.placement: s for s in plan(config, [2048], dtype="bfloat16", **{
        **MACHINE, "memory": "2x80GB"}).settings}  # fmt: skip
    one, two = by_name["1 device"], by_name["2 devices"]
    assert one.loading_bytes > one.memory.weights > one.host_bytes
    assert two.loading_bytes < one.loading_bytes / 3
    small = plan(config, [2048], dtype="bfloat16", memory="2x80GB", host_memory="20GB", flops=4e14)
    fits = {s.placement: s.why_not for s in small.settings}
    assert fits["1 device"] == "host" and fits["2 devices"] == ""
    assert "no: host" in repr(small)


def test_a_conversion_holds_the_model_twice() -> None:
    """The second time in float32 whatever the dtype, and embeddings that were shared apart."""
    shape = model_shape(AutoConfig.for_model("gpt2"))
    options = {"batch": 1, "longest": 64, "n_prompts": 1, "chunk": None, "backend": "hooked_transformer"}
    whole, half = (memory_needed(shape, dtype=dtype, **options) for dtype in ("float32", "bfloat16"))
    embedding = 50257 * 768
    assert shape.tied_parameters == embedding
    assert whole.weights == 4 * (shape.parameters + embedding) == 2 * half.weights
    assert whole.loading == 2 * whole.weights
    assert half.loading == 2 * shape.parameters + 2 * whole.weights // 2 + 2 * embedding


def test_files_of_another_dtype_are_mapped_beside_the_weights() -> None:
    stored = model_shape(AutoConfig.for_model("gpt2", dtype="bfloat16"))
    options = {"batch": 1, "longest": 64, "n_prompts": 1, "chunk": None, "backend": "bridge"}
    assert memory_needed(stored, dtype="float32", **options).mapped == 2 * stored.parameters
    assert memory_needed(stored, dtype="bfloat16", **options).mapped == 0


def test_long_prompts_are_chunked_and_a_chunk_that_is_given_stays() -> None:
    shape = {"num_hidden_layers": 16, "hidden_size": 2048, "max_position_embeddings": 2**17}
    config = large(**shape, intermediate_size=8192, head_dim=32)
    found = plan(config, [32768], **MACHINE).chosen
    assert found is not None and found.chunk is not None and found.batch == 1
    given = plan(config, [32768], chunk=64, **MACHINE).chosen
    assert given is not None and given.chunk == 64


def test_time_grows_with_the_work() -> None:
    shape = model_shape("tiny")

    def seconds(batches: list[tuple[int, int]], spectrum: SpectrumSpeed = ALONE, **options: Any) -> Any:
        lengths = [longest for _, longest in batches]
        return seconds_needed(shape, batches, lengths, SPEED, spectrum, backend="bridge", **options)

    one = seconds([(1, 128)])
    two = seconds([(1, 128)] * 2)
    assert two.total == pytest.approx(2 * one.total)
    low, high = one.between
    assert low < one.total < high
    assert seconds([(1, 128)], moved=5.0).total == pytest.approx(one.total + 5)
    # Four chunks: four times the calls, and keys that come later are not looked at.
    chunked = seconds([(1, 128)], chunk=32)
    assert chunked.overhead == 4 * one.overhead
    assert chunked.patterns == pytest.approx(one.patterns * 5 / 8)


@pytest.mark.parametrize(("threads", "on_device"), [(1, False), (2, False), (8, False), (8, True)])
def test_threads_save_no_time_that_is_not_there(threads: int, on_device: bool) -> None:
    """Never faster than the threads allow, and never slower than one after the other."""
    shape, spectrum = model_shape("tiny"), SpectrumSpeed(cube=1e-8, gram=1e11, threads=threads)
    made = seconds_needed(
        shape, [(4, 256)], [256] * 4, SPEED, spectrum, backend="bridge", on_device=on_device
    )
    others = made.total + made.saved - made.spectra
    assert max(others, made.spectra / threads) <= made.total <= others + made.spectra
    assert (made.saved > 0) == (threads > 1)


def test_numbers_are_written_for_people() -> None:
    assert three_digits(860.0) == "860" and three_digits(295.395) == "295"
    assert from_to(51, 119) == "51-119 s".replace("119", "120")
    assert from_to(31.5 * 60, 99 * 60) == "32-99 min"
    assert from_to(4e6, 9e6) == "46-100 days"


@pytest.mark.parametrize(
    ("text", "size"), [("80GB", 80 * 10**9), ("1.5GiB", 3 * 2**29), ("512", 512), ("2tb", 2 * 10**12)]
)
def test_sizes_in_words_are_read(text: str, size: int) -> None:
    assert number_of_bytes(text) == size
    assert number_of_bytes(in_words(80e9)) == 80 * 10**9


@pytest.mark.parametrize("memory", ["", "80 apples", "x80GB", "0x80GB", "-1GB", "iB", "8xGB", "nan"])
def test_a_size_that_is_none_is_refused(memory: str) -> None:
    refused(lambda: Machine.told(memory), "80GB")


def test_what_cannot_be_planned_is_refused_in_one_line(tmp_path: Path, llama_folder: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    sizes = [16] * 2
    refused(lambda: plan(tmp_path, sizes), "configuration could not be read")
    refused(lambda: plan(tmp_path / "missing", sizes), "not a folder")
    refused(lambda: plan(tmp_path.parent, sizes), "no config.json")
    refused(lambda: plan("nobody/nothing", sizes), "nobody/nothing")
    refused(lambda: plan(AutoConfig.for_model("t5"), sizes), "not a decoder")
    refused(lambda: plan(llama_folder, [500]), "context", "256")
    refused(lambda: plan(llama_folder, [1, 5]), "at least 2")
    refused(lambda: plan(llama_folder, []), "nothing to measure")
    refused(lambda: plan(llama_folder, sizes, dtype="int8"), "dtype")
    refused(lambda: plan(llama_folder, sizes, bits=0), "bits")
    refused(lambda: plan(llama_folder, sizes, batch_size=0), "batch_size")
    refused(lambda: plan(llama_folder, sizes, chunk=-3), "chunk")
    refused(lambda: plan(large(), ["a text"]), "no tokenizer")
    config = json.loads((llama_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 0}))
    refused(lambda: plan(tmp_path, sizes), "no parameters")


def test_prompts_are_counted_by_the_tokenizer_alone(llama_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((llama_folder / name).read_bytes())
    planned = plan(tmp_path, ["w1 w2 w3", "w4 w5"], memory="cpu", flops=1e10)
    assert planned.lengths == (4, 3)  # with the BOS
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    refused(lambda: plan(tmp_path, ["w1 w2"]), "no tokenizer", "--tokens")


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux to read a peak resident set")
def test_the_memory_of_a_run_is_predicted_within_a_third(tmp_path: Path) -> None:
    """Peak resident set of a process of its own, libraries included, and what it holds beyond them."""
    check = runpy.run_path(str(BENCHMARK))
    source = check["folder_of"]("small", tmp_path)
    shape = check["SHAPES"]["small"]
    setting = plan(source, shape["lengths"], dtype="float32", memory="cpu", flops=1e10).settings[0]
    assert setting.placement == "cpu" and setting.batch == 8
    environment = {**os.environ, **check["ALLOCATOR"], "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(BENCHMARK), "--one", "small", "--source", source]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    measured = json.loads(done.stdout.splitlines()[-1])
    # This run's allocator keeps nothing.
    assert 0.75 < measured["peak"] / (setting.host_bytes - ALLOCATOR) < 1.34
    assert measured["loaded"] < setting.loading_bytes
    held = setting.memory.weights + setting.memory.work
    assert 0.6 < (measured["peak"] - measured["libraries"]) / held < 1.6
