"""``Plan``: what was predicted, as tables and sentences."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from mcr_lens.host import in_words
from mcr_lens.models.backend import Backend
from mcr_lens.planning.machine import Machine, from_to, three_digits
from mcr_lens.planning.seconds import Seconds
from mcr_lens.planning.settings import USABLE, Setting
from mcr_lens.planning.shape import ModelShape

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """What a profile will take, before anything is loaded.

    Attributes:
        shape: the sizes of the model.
        lengths: tokens of every prompt.
        machine: the memory at hand, or told of.
        settings: one a dtype and placement, fitting or not; the first that fits is ``chosen``.
        seconds: estimated time of each setting.
        result: bytes of the result, which the file does not exceed by much.
        is_measured: whether the speed was measured on this machine.
        bits: bits a weight of the blocks, where it was told.
    """

    shape: ModelShape
    backend: Backend
    lengths: tuple[int, ...]
    machine: Machine
    settings: tuple[Setting, ...]
    seconds: tuple[Seconds, ...]
    result: int
    is_measured: bool
    bits: float | None = None

    @property
    def chosen(self) -> Setting | None:
        """The first setting that fits; the fastest placements and the more exact dtypes come first."""
        return next((setting for setting in self.settings if setting.fits), None)

    def table(self) -> pd.DataFrame:
        """A row a setting: whether it fits, prompts a batch, tokens a chunk, GB needed, estimated minutes.

        The host's GB are the larger of loading and running.
        """
        index, rows = [], []
        for setting, seconds in zip(self.settings, self.seconds, strict=True):
            verdict = "fits" if setting.fits else f"too large ({setting.why_not})"
            index.append(f"{setting.dtype}, {setting.placement}: {verdict}")
            low, high = seconds.between
            rows.append(
                {
                    "batch": setting.batch,
                    "chunk": setting.chunk,
                    "device_GB": setting.device_bytes / 1e9 if setting.device_bytes else None,
                    "host_GB": setting.host_peak / 1e9,
                    "disk_GB": setting.disk_bytes / 1e9 if setting.disk_bytes else None,
                    "minutes_from": float(f"{low / 60:.2g}"),
                    "minutes_to": float(f"{high / 60:.2g}"),
                }
            )
        table = pd.DataFrame(rows, index=pd.Index(index, name="setting"))
        floats = ["device_GB", "host_GB", "disk_GB", "minutes_from", "minutes_to"]
        return table.astype({"chunk": "Int64", **dict.fromkeys(floats, "float64")})

    def summary(self) -> pd.DataFrame:
        """The table for reading: text with few digits, times in the unit that suits; no empty columns."""
        rows = []
        for setting, seconds in zip(self.settings, self.seconds, strict=True):
            short = "both" if " and " in setting.why_not else setting.why_not
            sizes = {"device GB": setting.device_bytes, "host GB": setting.host_peak}
            sizes |= {"disk GB": setting.disk_bytes}
            rows.append(
                {
                    "setting": f"{setting.dtype}, {setting.placement}",
                    "fits": f"no: {short}" if short else "yes",
                    "batch": f"{setting.batch:,}",
                    "chunk": f"{setting.chunk:,}" if setting.chunk else "",
                    **{name: three_digits(size / 1e9) if size else "" for name, size in sizes.items()},
                    "time": from_to(*seconds.between),
                }
            )
        table = pd.DataFrame(rows).set_index("setting")
        return table.loc[:, (table != "").any()]

    def parts(self, setting: Setting | None = None) -> pd.DataFrame:
        """Where the memory goes in one setting, in GB: the chosen one, or the last where none fits.

        Of the moments, which pass, only the largest counts.
        """
        memory = (setting or self.chosen or self.settings[-1]).memory
        sizes = {
            "weights": memory.weights,
            "KV cache": memory.cache,
            "patterns the bridge keeps": memory.patterns,
            "states between chunks": memory.states,
        }
        sizes |= {f"moment: {name}": size for name, size in memory.moments.items()}
        sizes |= {"host: spectra and result": memory.host, "host: weights while loading": memory.loading}
        return pd.DataFrame({"GB": {name: size / 1e9 for name, size in sizes.items()}}).rename_axis("part")

    @property
    def headline(self) -> str:
        """Model and prompts in one line."""
        shape = self.shape
        return (
            f"{shape.name}: {_count(shape.parameters)} parameters, {shape.n_layers} layers x "
            f"{shape.n_heads} heads, d_model {shape.d_model}; {len(self.lengths)} prompts of up to "
            f"{max(self.lengths)} tokens, {sum(self.lengths):,} in all"
        )

    def sentences(self) -> list[str]:
        """What there is to say beside the table."""
        devices = self.machine.devices
        each = f"{len(devices)} device(s) of {in_words(min(devices))}, " if devices else "no accelerator, "
        each += f"{in_words(self.machine.host)} on the host"
        said = [f"Memory: {each}; {100 * (1 - USABLE):.0f} % of each is left free."]
        said.append("The host's GB are the larger of loading and running: weights come to the host first.")
        if self.shape.quantised and self.bits is None:
            said.append(
                f"The configuration is of quantised weights ({self.shape.quantised}), planned here in full: "
                "bits (--bits) plans them as they are stored, loaded by you and handed in."
            )
        chosen = self.chosen
        if chosen is None:
            said.append("Nothing fits: fewer or shorter prompts, a smaller dtype, or more memory.")
        else:
            seconds = self.seconds[self.settings.index(chosen)]
            said.append(f"Take {chosen.dtype}, {chosen.placement}: {_call(chosen)}.")
            share = {
                "calls": seconds.overhead,
                "forward pass": seconds.forward,
                "patterns": seconds.patterns,
                "residual streams": seconds.residuals,
                "spectra": seconds.spectra,
                "bringing weights in": seconds.transfer,
            }
            work = sum(share.values())
            parts = [f"{name} {part / work:.0%}" for name, part in share.items() if part]
            beside = f" ({in_threads})" if (in_threads := _beside(seconds)) else ""
            said.append(f"Time, an estimate without loading: {', '.join(parts)}{beside}.")
        how = (
            "measured on this machine just now" if self.is_measured else "as told, memory-bound work guessed"
        )
        said.append(f"Speed: {how}; the host, which computes the spectra, is taken to be this one.")
        said.append(f"The result: about {in_words(self.result)}.")
        return said

    def __repr__(self) -> str:
        told = "\n".join(f"- {sentence}" for sentence in self.sentences())
        return f"{self.headline}\n{self.summary().to_string()}\n{told}"


def _count(parameters: int) -> str:
    if parameters < 1e6:
        return f"{parameters:,}"
    if parameters < 999.5e6:
        return f"{three_digits(parameters / 1e6)} million"
    return f"{three_digits(parameters / 1e9)} billion"


def _beside(seconds: Seconds) -> str:
    saved = seconds.saved / (seconds.total + seconds.saved)
    return f"{saved:.0%} saved by threads" if saved >= 0.005 else ""


def _call(setting: Setting) -> str:
    """What to write to run it so."""
    options = [] if setting.batch_size == "auto" else [f"batch_size={setting.batch_size}"]
    options += [f"chunk={setting.chunk}"] if setting.chunk else []
    load = f'load_model(..., dtype="{setting.dtype}"'
    load += ', device_map="auto")' if setting.placement.endswith("devices") else ")"
    if setting.is_offloaded:
        load += ' on device="cpu", then offload(model, device'
        load += ", folder=...)" if setting.disk_bytes else ")"
    return f"{load}; profile({', '.join(['model, prompts', *options])})"
