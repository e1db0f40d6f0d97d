"""Published importance corrections by name, each a setting of the two knobs of `learners.correction`.

With r_t = pi_prox(y_t) / pi_behave(y_t), pi_prox the weights at the start of the batch (`algorithm.old_logprobs:
recompute`) and pi_behave what sampled the token, every preset multiplies the loss of a token by a weight w_t that
carries no gradient:

- `tis`: min(r_t, high). Truncated importance sampling (Yao et al. 2025, "Your Efficient RL Framework Secretly Brings
  You Off-Policy RL Training"; for policy gradients IMPALA, arXiv 1802.01561).
- `seq_tis`: min(prod_t r_t, high), one weight for the answer (Liu et al. 2025, "When Speed Kills Stability").
- `icepop`: r_t where low <= r_t <= high, otherwise 0; alpha = 0.5, beta = 5 (Ring-1T, arXiv 2510.18855).
- `mis`: prod_t r_t where it is at most high, otherwise 0: masked importance sampling of whole answers (Liu et al.
  2025). `token_mis`: its form per token.
- `decoupled_ppo`: w_t min(rho_t A, clip(rho_t) A) with rho_t = pi_theta / pi_prox (Hilton et al., arXiv 2110.00641;
  AReaL, arXiv 2505.24298), w_t = r_t where r_t <= high, otherwise 0, as AReaL's code does;
  `mode: truncate` caps instead. The papers bound no weight: `high` stands for that of AReaL's code.

A preset fixes level and mode; its bounds are what a method leaves to be tuned, so a recipe may set them beside it.
Masked tokens stay in the loss's divisor, as in IcePop's formula. Methods that reject by one level and weigh by
another (geometric rejection, where the ratio of what is kept is not used) are no setting of these knobs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Level = Literal["token", "sequence", "geometric"]
Mode = Literal["off", "truncate", "clip", "mask"]
PresetName = Literal["tis", "seq_tis", "icepop", "mis", "token_mis", "decoupled_ppo"]


@dataclass(frozen=True, slots=True)
class Preset:
    """Attributes:
    level: of the weight.
    modes: those that the name allows; the first is the one it stands for.
    low, high: the bounds where a recipe names none.
    surrogate: the surrogate that belongs to the method, None where any will do.
    """

    level: Level
    modes: tuple[Mode, ...]
    low: float
    high: float
    surrogate: str | None = None

    def knobs(self) -> dict[str, str | float]:
        """What the name alone stands for, by the fields of `CorrectionSettings`."""
        return {"level": self.level, "mode": self.modes[0], "low": self.low, "high": self.high}

    def allows(self) -> dict[str, tuple[str, ...]]:
        """Values that a recipe may set beside the name."""
        return {"level": (self.level,), "mode": self.modes}


PRESETS: Mapping[PresetName, Preset] = {
    "tis": Preset("token", ("truncate",), 0.0, 2.0),
    "seq_tis": Preset("sequence", ("truncate",), 0.0, 2.0),
    "icepop": Preset("token", ("mask",), 0.5, 5.0),
    "mis": Preset("sequence", ("mask",), 0.0, 2.0),
    "token_mis": Preset("token", ("mask",), 0.0, 2.0),
    "decoupled_ppo": Preset("token", ("mask", "truncate"), 0.0, 5.0, surrogate="ppo_clip"),
}
