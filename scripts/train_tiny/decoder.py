"""The decoder that `train_tiny.train` trains: Qwen2's architecture, written for speed on a CPU.

Its parameters carry Hugging Face's names, so that its state dict *is* the state dict of a
`Qwen2ForCausalLM` of the same shape. Blocks are compiled one by one (`compile_blocks`), and attention
is written out, because the fused kernels are slow backwards in bfloat16 on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["Decoder", "Shape", "Trace"]


@dataclass(frozen=True)
class Shape:
    """The size of a decoder."""

    vocabulary: int = 1024
    width: int = 128
    layers: int = 8
    heads: int = 8
    hidden: int = 256
    window: int = 512
    rope_theta: float = 10000.0
    tied: bool = True

    @property
    def head_width(self) -> int:
        """Dimensions of one head."""
        return self.width // self.heads

    def to_config(self, bos: int, eos: int) -> dict[str, Any]:
        """The `config.json` of the equal Hugging Face model."""
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "intermediate_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "hidden_act": "silu",
            "max_position_embeddings": self.window,
            "initializer_range": 0.02,
            "rms_norm_eps": 1e-6,
            "rope_theta": self.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "tie_word_embeddings": self.tied,
            "use_sliding_window": False,
            "attention_dropout": 0.0,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "pad_token_id": eos,
            "torch_dtype": "float16",
        }


@dataclass(frozen=True)
class Trace:
    """What a forward pass left behind: residual states (depths 0..L), patterns, logits."""

    residuals: list[Float[Tensor, "batch pos width"]]
    patterns: list[Float[Tensor, "batch head query key"]]
    logits: Float[Tensor, "batch pos vocabulary"]


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (wide * scale * self.weight.float()).to(x.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.head_width = shape.heads, shape.head_width
        self.q_proj = nn.Linear(shape.width, shape.width)
        self.k_proj = nn.Linear(shape.width, shape.width)
        self.v_proj = nn.Linear(shape.width, shape.width)
        self.o_proj = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        split = (*x.shape[:2], self.heads, self.head_width)
        q, k, v = (
            projection(x).view(split).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q = _rotate(q, cos, sin) * self.head_width**-0.5
        scores = torch.matmul(q, _rotate(k, cos, sin).transpose(-1, -2)).float() + mask
        pattern = scores.softmax(-1)
        mixed = torch.matmul(pattern.to(v.dtype), v).transpose(1, 2).reshape(x.shape)
        return self.o_proj(mixed), pattern


class MLP(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down_proj = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.width)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.width)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        mixed, pattern = self.self_attn(self.input_layernorm(x), cos, sin, mask)
        x = x + mixed
        return x + self.mlp(self.post_attention_layernorm(x)), pattern

    def step(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """The block's output alone, so that a compiled block keeps no pattern."""
        return self.forward(x, cos, sin, mask)[0]


class Stack(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width)


class Decoder(nn.Module):
    """A pre-norm decoder with rotary attention (biases on q, k and v) and gated MLPs."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Stack(shape)
        self.lm_head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        if shape.tied:
            self.lm_head.weight = self.model.embed_tokens.weight
        self._steps = [block.step for block in self._blocks()]

    def _blocks(self) -> list[Block]:
        return [block for block in self.model.layers if isinstance(block, Block)]

    def compile_blocks(self) -> None:
        """Compile every block for fixed shapes; one compilation a length serves all layers."""
        torch._dynamo.config.recompile_limit = 64
        self._steps = [torch.compile(block.step, dynamic=False) for block in self._blocks()]

    def _tables(self, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        exponent = torch.arange(0, self.shape.head_width, 2).float() / self.shape.head_width
        angle = torch.outer(torch.arange(length).float(), self.shape.rope_theta**-exponent)
        angle = torch.cat((angle, angle), dim=-1)
        mask = torch.full((length, length), float("-inf")).triu(1)
        return angle.cos().to(dtype), angle.sin().to(dtype), mask

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocabulary"]:
        """Logits of windows that begin with `<bos>`; right padding needs no mask."""
        x = self.model.embed_tokens(tokens)
        cos, sin, mask = self._tables(tokens.shape[1], x.dtype)
        for step in self._steps:
            x = step(x, cos, sin, mask)
        return self.lm_head(self.model.norm(x))

    def loss(self, tokens: Int[Tensor, "batch pos"], targets: Int[Tensor, "batch pos"]) -> Tensor:
        """Next-token cross-entropy in nats, the mean over targets that are not -100."""
        return F.cross_entropy(self(tokens).float().flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def trace(self, tokens: Int[Tensor, "batch pos"]) -> Trace:
        """A forward pass that keeps every depth and every pattern."""
        x = self.model.embed_tokens(tokens)
        cos, sin, mask = self._tables(tokens.shape[1], x.dtype)
        residuals, patterns = [x], []
        for block in self._blocks():
            x, pattern = block(x, cos, sin, mask)
            residuals.append(x)
            patterns.append(pattern)
        return Trace(residuals, patterns, self.lm_head(self.model.norm(x)))
