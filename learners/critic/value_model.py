"""The critic's network: the policy's architecture with one number per state in place of a distribution over tokens."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from learners.packing import PackedSequences
from learners.policy import PackedModel


class ValueModel(PackedModel):
    """V(s) = h(s) . w, h(s) the last hidden state at the token before which s ends.

    w begins at 0, and so does every value: nothing is random. It is a vector and no matrix, so that its shards are
    even and weight decay leaves it alone.

    Args:
        model: a causal language model; its head is left out.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        width = model.get_output_embeddings().weight.shape[1]
        super().__init__(model.base_model)
        self.head = nn.Parameter(torch.zeros(width))

    def forward(self, packed: PackedSequences, positions: Tensor) -> Tensor:
        """[M] float32 values of the states that end with the tokens at these places of the row.

        Args:
            packed: on any device; moved to the model's.
            positions: [M] int64.
        """
        hidden = self.hidden(packed, self.head.device)
        return hidden.index_select(0, positions.to(hidden.device)).float() @ self.head.float()
