"""The training loop: next-token cross-entropy, AdamW, a constant then falling learning rate."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from train_tiny.checkpoints import is_grid_step, save_checkpoint
from train_tiny.corpus import Corpus
from train_tiny.decoder import Decoder, Shape
from train_tiny.evaluate import headline, mean_loss, measure_depths
from train_tiny.parallel import Peers

__all__ = ["Settings", "Trainer", "Validation"]


@dataclass(frozen=True)
class Settings:
    """What a run is a function of, beside its texts."""

    steps: int
    decay_steps: int = 0
    warmup: int = 200
    lr: float = 4e-3
    weight_decay: float = 0.1
    beta2: float = 0.95
    clip: float = 1.0
    tokens_per_batch: int = 2048
    seed: int = 0
    evaluate_every: int = 250

    def lr_at(self, step: int) -> float:
        """Linear warm-up, constant, then linear to zero over the last `decay_steps`."""
        up = min(1.0, (step + 1) / self.warmup)
        down = min(1.0, (self.steps - step) / self.decay_steps) if self.decay_steps else 1.0
        return self.lr * min(up, down)


@dataclass(frozen=True)
class Validation:
    """Held-out problems: whole windows for the loss, questions of at most 128 tokens for the rest."""

    windows: list[list[int]]
    questions: list[list[int]]


class Trainer:
    """A bfloat16 copy computes gradients; float32 parameters and AdamW's state take the steps."""

    def __init__(
        self,
        shape: Shape,
        settings: Settings,
        corpus: Corpus,
        validation: Validation,
        out: Path,
        peers: Peers | None = None,
    ) -> None:
        self.settings, self.corpus, self.validation, self.out = settings, corpus, validation, out
        self.peers = peers or Peers()
        self.record: dict[str, Any] = {}
        torch.manual_seed(settings.seed)
        self.decoder = Decoder(shape)
        self.fast = Decoder(shape).bfloat16()
        self.parameters = list(self.decoder.parameters())
        self.copies = list(self.fast.parameters())
        matrices = [p for p in self.parameters if p.ndim == 2]
        vectors = [p for p in self.parameters if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": settings.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=settings.lr,
            betas=(0.9, settings.beta2),
            fused=True,
        )
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.pool, self.batch = 0, 0

    def state(self) -> dict[str, Tensor]:
        """The float32 state dict under Hugging Face's names, tied matrices once."""
        state = self.decoder.state_dict()
        if self.decoder.shape.tied:
            state.pop("lm_head.weight")
        return state

    def run(self) -> None:
        """Train until `settings.steps`, saving checkpoints, curves and a state to resume from."""
        self.fast.compile_blocks()
        first = self.peers.rank == 0
        if self.step == 0 and first:
            save_checkpoint(self.state(), self.out / "checkpoints", 0)
        started, losses = time.perf_counter() - self.seconds, []
        for batch in self._batches():
            losses.append(self._train_step(batch))
            self.seconds = time.perf_counter() - started
            at_end = self.step == self.settings.steps
            if first and (at_end or is_grid_step(self.step)):
                save_checkpoint(self.state(), self.out / "checkpoints", self.step)
            if at_end or self.step % self.settings.evaluate_every == 0:
                if first:
                    self._report(torch.stack(losses).mean().item())
                    self.save()
                losses = []
            if at_end:
                break

    def _batches(self) -> Iterator[list[list[int]]]:
        while self.step < self.settings.steps:
            batches = self.corpus.pool(self.pool)
            while self.batch < len(batches):
                self.batch += 1
                yield batches[self.batch - 1]
            self.pool, self.batch = self.pool + 1, 0

    def _train_step(self, batch: list[list[int]]) -> Tensor:
        with torch.no_grad():
            for copy, parameter in zip(self.copies, self.parameters, strict=True):
                copy.copy_(parameter)
        tokens, targets = self._arrays(self.peers.rows(batch), self.corpus.bucket_length(batch))
        count = sum(len(window) - 1 for window in batch)
        loss = self.fast.loss(tokens, targets) * ((targets >= 0).sum() / count)
        loss.backward()
        gradients = [copy.grad.float() for copy in self.copies if copy.grad is not None]
        *gradients, loss = self.peers.sum([*gradients, loss.detach().float()])
        loss = loss.clone()  # not a view that keeps every gradient
        for parameter, copy, gradient in zip(self.parameters, self.copies, gradients, strict=True):
            parameter.grad, copy.grad = gradient, None
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr_at(self.step)
        self.optimizer.step()
        self.step += 1
        self.tokens += count
        return loss

    def _arrays(self, windows: list[list[int]], length: int) -> tuple[Tensor, Tensor]:
        tokens = torch.full((len(windows), length), self.corpus.eos)
        targets = torch.full((len(windows), length), -100)
        for row, window in enumerate(windows):
            tokens[row, : len(window) - 1] = torch.tensor(window[:-1])
            targets[row, : len(window) - 1] = torch.tensor(window[1:])
        return tokens, targets

    def _report(self, train_loss: float) -> None:
        depths = measure_depths(self.decoder, self.validation.questions)
        numbers = headline(depths)
        row: dict[str, Any] = {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 1),
            "train_loss": train_loss,
            "validation_loss": mean_loss(self.decoder, self.validation.windows),
            **numbers,
            **{f"by_depth_{name}": values for name, values in depths.items()},
        }
        with (self.out / "metrics.jsonl").open("a") as lines:
            lines.write(json.dumps(row, default=float) + "\n")
        print(
            f"step {self.step:6d}  {self.tokens / 1e6:6.2f}M tokens  {self.seconds:6.0f}s"
            f"  loss {train_loss:.3f}  held-out {row['validation_loss']:.3f}"
            f"  norm ratio {numbers['norm_ratio']:6.2f} at depth {numbers['norm_ratio_depth']:.0f}"
            f"  sink rate {numbers['sink_rate']:.2f} (score {numbers['sink_score']:.2f})"
            f"  entropy fall {numbers['entropy_fall']:.2f}"
            f" ({numbers['entropy_fall_without_sink']:.2f} without)",
            flush=True,
        )

    def save(self) -> None:
        """Write the half-precision model and everything that resuming needs."""
        lines = (self.out / "metrics.jsonl").read_text().splitlines()
        record = {**self.record, "curves": [json.loads(line) for line in lines]}
        (self.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
        half = {name: value.half().contiguous() for name, value in self.state().items()}
        save_file(half, self.out / "model.safetensors", metadata={"format": "pt"})
        progress = {
            "decoder": self.decoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "counters": [self.step, self.tokens, self.seconds, self.pool, self.batch],
            "settings": asdict(self.settings),
        }
        partial = self.out / "resume.pt.partial"
        torch.save(progress, partial)
        partial.replace(self.out / "resume.pt")

    def resume(self) -> None:
        """Go on from `resume.pt`: parameters, optimizer, and the place in the corpus."""
        progress = torch.load(self.out / "resume.pt", weights_only=True)
        self.decoder.load_state_dict(progress["decoder"])
        self.optimizer.load_state_dict(progress["optimizer"])
        self.step, self.tokens, self.seconds, self.pool, self.batch = progress["counters"]
