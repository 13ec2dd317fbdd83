"""What is checked of every model family, against the Hugging Face model of the same weights.

A check returns nothing, or what is left out and why; it fails as an assertion, or lets the `InputError`
through with which the package refuses. So a table of what works can be made of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from families import VOCABULARY, eager
from hugging_face_oracle import model_oracle, record

import mcr_lens as mcr

N_LAYERS, N_HEADS, POSITION = 3, 4, 2


class Case:
    """One family on one backend: loaded, measured and asked of Hugging Face once, when first needed."""

    def __init__(self, backend: str, folder: Path) -> None:
        self.backend, self.folder = backend, folder
        rng = np.random.default_rng(0)
        # Ragged; one beyond every window and longer than the residual stream is wide.
        self.tokens = [[1, *rng.integers(3, VOCABULARY, n - 1).tolist()] for n in (40, 2, 17, 9)]
        self.prompts = mcr.Prompts.from_tokens(self.tokens)

    @cached_property
    def model(self) -> Any:
        return mcr.load_model(self.folder, backend=self.backend)  # type: ignore[arg-type]

    @cached_property
    def reference(self) -> Any:
        return eager(self.folder)

    @cached_property
    def whole(self) -> Any:
        return mcr.profile(self.model, self.prompts, batch_size=3, progress=False).data

    def under(self, hooks: list[Any], names: list[str]) -> dict[str, torch.Tensor]:
        """Activations of the third prompt at named points under hooks, by hooks of our own."""
        seen: dict[str, torch.Tensor] = {}

        def keep(name: str) -> Any:
            return name, lambda tensor, hook: seen.__setitem__(name, tensor.detach().clone())

        with torch.no_grad():
            self.model.run_with_hooks(torch.tensor([self.tokens[2]]), fwd_hooks=[*hooks, *map(keep, names)])
        return seen


def profile(case: Case) -> str | None:
    """Every variable of every prompt equals the oracle's."""
    data = case.whole
    broken = data.attrs["failed_checks"].get("residual_sum")
    for prompt, tokens in enumerate(case.tokens):
        expected = model_oracle(case.reference, tokens)
        if broken is not None:  # what a block adds is not its two writes
            expected = {name: values for name, values in expected.items() if "_write_" not in name}
        for name, values in expected.items():
            absolute = 1e-4 if "entropy" in name else 2e-6
            found = data[name].sel(prompt=prompt).values
            np.testing.assert_allclose(
                found, values, rtol=1e-4, atol=absolute, err_msg=f"{name} of prompt {prompt}"
            )
        assert set(data.data_vars) == set(expected), "the oracle does not know all that is measured"
    return None if broken is None else f"without the writes: {broken}"


def ablate(case: Case) -> None:
    """With dose 1 a block leaves behind resid_pre + attn_out at the position, and the rest as it was."""
    points = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
    names = [f"blocks.1.{point}" for point in points]
    before = case.under([], names)
    after = case.under(mcr.ablate_mlp_write([1], POSITION, dose=1.0), names)
    pre, attention, write, post = (before[name] for name in names)
    others = [i for i in range(post.shape[1]) if i != POSITION]
    assert torch.equal(after[names[0]], pre)
    assert torch.equal(after[names[1]], attention)
    assert (after[names[2]][:, POSITION] == 0).all()
    assert write[:, POSITION].norm() > 0.1
    left = after[names[3]]
    assert torch.equal(left[:, others], post[:, others])
    torch.testing.assert_close(left[:, POSITION], (pre + attention)[:, POSITION], rtol=1e-6, atol=1e-6)
    # The same by what Hugging Face's modules write.
    seen = record(case.reference, case.tokens[2])
    expected = seen["states"][1][POSITION] + seen["attention"][1][POSITION]
    np.testing.assert_allclose(left[0, POSITION], expected, rtol=1e-4, atol=1e-4)


def pattern_edit(case: Case) -> None:
    """What a head collects without one key is what it collected less that key's share of its value."""
    names = [f"blocks.1.attn.{point}" for point in ("hook_pattern", "hook_v", "hook_z")]
    off = mcr.block_attention_to(0, [1], renormalise=False)
    pattern, values, z = (case.under([], names)[name] for name in names)
    edited = case.under(off, names)[names[2]]
    first = values[:, 0].repeat_interleave(N_HEADS // values.shape[2], dim=1)
    share = pattern[:, :, :, 0].transpose(1, 2).clone()
    assert share[:, 1:].max() > 0.01
    share[:, 0] = 0  # the token's own row is not edited
    torch.testing.assert_close(
        edited.flatten(2), (z - (share[..., None] * first[:, None]).reshape(z.shape)).flatten(2),
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def lens(case: Case) -> None:
    """At the last depth the logit lens gives the loss and the entropy of the Hugging Face model."""
    data = mcr.measure(case.model, case.prompts, [mcr.LogitLens(case.model)], progress=False)
    last = data.isel(depth=-1)
    np.testing.assert_allclose(last.lens_kl, 0, atol=1e-6)
    for prompt, tokens in enumerate(case.tokens):
        ids = torch.tensor([tokens])
        with torch.no_grad():
            log_p = case.reference(ids).logits[0].double().log_softmax(-1)
        loss = -log_p[:-1].gather(1, ids[0, 1:, None]).mean()
        found = last.sel(prompt=prompt)
        np.testing.assert_allclose(found.lens_loss, loss, rtol=1e-4)
        np.testing.assert_allclose(found.lens_entropy, -(log_p.exp() * log_p).sum(-1).mean(), rtol=1e-4)


def chunked(case: Case) -> None:
    """Fed in chunks, shorter than the windows (8) and longer, a profile is the same."""
    for chunk in (5, 11):
        data = mcr.profile(case.model, case.prompts, chunk=chunk, batch_size=3, progress=False).data
        assert set(data.data_vars) == set(case.whole.data_vars)
        for name in data.data_vars:
            np.testing.assert_allclose(
                data[name], case.whole[name], rtol=1e-5, atol=1e-5, err_msg=f"{name}, chunk {chunk}"
            )


CHECKS: dict[str, Callable[[Case], str | None]] = {
    "profile": profile,
    "ablate": ablate,
    "pattern edit": pattern_edit,
    "lens": lens,
    "chunked": chunked,
}


def outcome(case: Case, check: str) -> str | None:
    """`None` where it works, else what is left out, or the one line with which it is refused."""
    try:
        return CHECKS[check](case)
    except mcr.InputError as refusal:
        return f"refused: {refusal}".replace(str(case.folder), "the folder")
