"""Sets of prompts drawn from a population whose mean curves are known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

# The others' own normalized entropy, at every depth: kappa is 1 - entropy / REST_ENTROPY.
REST_ENTROPY = 0.9


@dataclass(frozen=True)
class Population:
    """Kinds of prompts, each with its own curves, drawn with the given shares.

    ratio, entropy: a row a kind, a column a depth. The sink token's norm is the ratio; what a block adds
    to it is its MLP's write. Around the curve of its kind a prompt has a factor of its own on the norm,
    another at every depth (both of mean 1), and noise of its own on the entropy.
    """

    ratio: np.ndarray
    entropy: np.ndarray
    shares: tuple[float, ...] = (1.0,)
    spread: float = 0.3
    noise: float = 0.05

    @property
    def mean(self) -> xr.Dataset:
        """The mean over the population, as a profile of one prompt."""
        shares = np.array(self.shares)[:, None]
        ratio, entropy = (np.sum(shares * curves, 0) for curves in (self.ratio, self.entropy))
        return dataset(ratio[None], entropy[None], np.diff(ratio)[None])

    def draw(self, n_prompts: int, rng: np.random.Generator) -> xr.Dataset:
        kind = rng.choice(len(self.shares), size=n_prompts, p=self.shares)
        own = np.exp(rng.normal(0, self.spread, (n_prompts, 1)) - self.spread**2 / 2)
        at_depth = np.exp(rng.normal(0, self.noise, self.ratio[kind].shape) - self.noise**2 / 2)
        ratio = self.ratio[kind] * own
        entropy = self.entropy[kind] + rng.normal(0, self.noise, (n_prompts, 1))
        entropy = entropy + rng.normal(0, self.noise, ratio.shape)
        return dataset(ratio * at_depth, entropy, np.diff(ratio))


def population(ratio: list, entropy: list, **options: object) -> Population:
    return Population(np.atleast_2d(ratio).astype(float), np.atleast_2d(entropy).astype(float), **options)  # type: ignore[arg-type]


def dataset(ratio: np.ndarray, entropy: np.ndarray, write: np.ndarray) -> xr.Dataset:
    depth = {"norm_ratio": ratio, "sink_norm": ratio, "normalized_entropy": entropy}
    depth |= {"matrix_entropy": 2 * entropy, "entropy_without_sink": np.full_like(entropy, 2 * REST_ENTROPY)}
    layer = {
        "mlp_write_along": write,
        "mlp_write_norm": np.abs(write),
        "attention_write_along": 0 * write,
        "attention_write_norm": 0 * write,
    }
    return xr.Dataset(
        {name: (("prompt", "depth"), values) for name, values in depth.items()}
        | {name: (("prompt", "layer"), values) for name, values in layer.items()},
        coords={"depth": range(ratio.shape[1]), "layer": range(write.shape[1])},
    )


# Where the phases are in the mean over each population is stated beside it.
POPULATIONS = {
    # abrupt: compression at depths 2-6
    "abrupt": population(
        [1, 1, 200, 210, 210, 200, 200, 5, 3], [0.9, 0.9, 0.2, 0.1, 0.1, 0.15, 0.2, 0.8, 0.8]
    ),
    # on slopes: the fall of 0.7 is half reached between depths 2 and 3, half regained between 7 and 8
    "slopes": population(
        [1, 1, 12, 40, 100, 200, 200, 150, 100, 50, 20],
        [0.9, 0.85, 0.6, 0.45, 0.3, 0.2, 0.2, 0.35, 0.52, 0.6, 0.7],
    ),
    # prompts differ: a third leaves compression after depth 4, two fifths after 5, the rest after 6
    "prompts differ": population(
        [
            [1, 1, 200, 200, 200, 9, 5, 5],
            [1, 1, 200, 200, 200, 200, 5, 5],
            [1, 1, 200, 200, 200, 200, 200, 5],
        ],
        [
            [0.9, 0.9, 0.1, 0.1, 0.1, 0.8, 0.8, 0.8],
            [0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.8, 0.8],
            [0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.8],
        ],
        shares=(0.33, 0.40, 0.27),
    ),
    # several stages: written in layers 1 and 3, taken back in layers 5 and 7
    "several stages": population(
        [1, 1, 100, 100, 200, 200, 100, 100, 4], [0.9, 0.9, 0.4, 0.4, 0.1, 0.1, 0.3, 0.35, 0.9]
    ),
    # compression that lasts to the end
    "lasting": population([1, 1, 1, 150, 150, 150], [0.9, 0.9, 0.9, 0.2, 0.2, 0.2]),
}
