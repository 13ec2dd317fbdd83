"""What the paper's figures cost on the paper's models: arithmetic on their shapes, nothing measured.

    python benchmarks/paper/cost.py
    python benchmarks/paper/cost.py --petaflops 0.312 --utilisation 0.3     # another GPU

A forward pass takes 2 FLOPs a parameter and token, every depth that is read out 2 x width x vocabulary more.
Time is FLOPs over what one GPU gives: 0.99 PFLOPS (an H100 in bfloat16) at a utilisation of 20 %, low because
batches are short and attention runs unfused so that its pattern can be read. Loading weights is not in it.
"""

import argparse
from dataclasses import dataclass

import pandas as pd

GIB = 2**30


@dataclass(frozen=True)
class Shape:
    parameters: float  # billions, as are the active ones
    layers: int
    width: int
    heads: int
    vocabulary: int
    bits: float = 16
    active: float | None = None

    def forward(self, tokens: float) -> float:
        """FLOPs of a forward pass."""
        return 2 * (self.active or self.parameters) * 1e9 * tokens

    def readout(self, tokens: float) -> float:
        """FLOPs of reading every depth out through the unembedding."""
        return 2 * self.width * self.vocabulary * (self.layers + 1) * tokens

    @property
    def weights(self) -> float:
        """GiB of the published checkpoint."""
        return self.parameters * 1e9 * self.bits / 8 / GIB


# As their configurations on the hub and their papers give them. gpt-oss: 4-bit experts with their scales.
MODELS = {
    "EleutherAI/pythia-410m": Shape(0.405, 24, 1024, 16, 50304),
    "bigscience/bloom-1b7": Shape(1.72, 24, 2048, 16, 250880),
    "EleutherAI/pythia-6.9b": Shape(6.86, 32, 4096, 32, 50432),
    "Qwen/Qwen2-7B": Shape(7.62, 28, 3584, 28, 152064),
    "meta-llama/Meta-Llama-3-8B": Shape(8.03, 32, 4096, 32, 128256),
    "google/gemma-7b": Shape(8.54, 28, 3072, 16, 256000),
    "meta-llama/Meta-Llama-3-70B": Shape(70.6, 80, 8192, 64, 128256),
    "openai/gpt-oss-120b": Shape(116.8, 36, 2880, 64, 201088, bits=4.5, active=5.1),
}

# Tokens: GSM8K questions of about 64; WikiText-2 test about 290,000; ARC-Easy 2,376 questions x 4 answers
# of about 35, HellaSwag 10,042 x 4 of about 100, WinoGrande 1,267 x 2 of about 30.
STUDY_PASSES = 1 + 6 * 5  # the baseline, and six arms at five doses
RUNS = {
    "profile, GSM8K test": lambda shape: shape.forward(1_319 * 64),
    "ablation, 64 questions": lambda shape: STUDY_PASSES * (shape.forward(4_096) + shape.readout(4_096)),
    "lens, WikiText-2": lambda shape: shape.forward(290_000) + shape.readout(290_000),
    "ARC-Easy": lambda shape: shape.forward(2_376 * 4 * 35) + shape.readout(2_376 * 4 * 10),
    "HellaSwag": lambda shape: shape.forward(10_042 * 4 * 100) + shape.readout(10_042 * 4 * 30),
    "WinoGrande": lambda shape: shape.forward(1_267 * 2 * 30) + shape.readout(1_267 * 2 * 15),
}
# A batch of 8 prompts of 256 tokens: one layer's pattern, as the model has it and in float32, and the Grams
# of one depth in float64 with the residual stream in float32 beside them.
BATCH, LENGTH = 8, 256


def working_memory(shape: Shape) -> float:
    """GiB beside the weights that measuring one batch takes: one layer at a time, nothing is cached."""
    pattern = BATCH * shape.heads * LENGTH**2 * (2 + 4)
    spectrum = BATCH * min(LENGTH, shape.width) ** 2 * 8 + BATCH * LENGTH * shape.width * (2 + 4)
    logits = BATCH * LENGTH * shape.vocabulary * 4
    return (pattern + spectrum + logits) / GIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--petaflops", type=float, default=0.99, help="peak of one GPU")
    parser.add_argument("--utilisation", type=float, default=0.2, help="share of it that is reached")
    arguments = parser.parse_args()
    rate = arguments.petaflops * 1e15 * arguments.utilisation
    memory = pd.DataFrame(
        {
            name: {
                "weights GiB": round(shape.weights, 1),
                "beside them GiB": round(working_memory(shape), 1),
                "80 GB GPUs": -(-(shape.weights + working_memory(shape)) // (80e9 / GIB * 0.9)),
            }
            for name, shape in MODELS.items()
        }
    ).T
    time = pd.DataFrame(
        {
            name: {run: _told(flops(shape) / rate) for run, flops in RUNS.items()}
            for name, shape in MODELS.items()
        }
    ).T
    with pd.option_context("display.width", 200, "display.max_columns", 20):
        print(memory.astype({"80 GB GPUs": int}), time, sep="\n\n")


def _told(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1g} s"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


if __name__ == "__main__":
    main()
