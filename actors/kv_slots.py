"""The KV cache of the torch engine: a slot of fixed length for each running request.

Requests come and go one by one (continuous batching): a forward pass names the slots that it works on and where in
each its tokens go. To transformers it is a cache like its own: `update` stores and gives back what is to be attended.

Invariant: a slot's entries beyond its request's length are stale, and the attention mask hides them.
"""

import torch


class KvSlots:
    """Keys and values: per layer [slots, KV heads, context length, head size], allocated on first use."""

    is_compileable = False

    def __init__(self, slots: int, context_length: int) -> None:
        self._slots = slots
        self._context_length = context_length
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self._rows = torch.empty(0, dtype=torch.long)
        self._places = torch.empty(0, 0, dtype=torch.long)

    def aim(self, rows: list[int], starts: list[int], counts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Say what the next forward pass writes: in each of these rows so many tokens, from these positions on.

        All rows of the pass are as long as the longest. What stands behind a shorter row's last token goes to that
        token's place, and must be that token again.

        Returns:
            position ids [rows, tokens], and the mask [rows, 1, tokens, longest] that is True where a token attends.
        """
        self._rows = torch.tensor(rows)
        within = torch.minimum(torch.arange(max(counts)), torch.tensor(counts)[:, None] - 1)
        self._places = torch.tensor(starts)[:, None] + within
        longest = int(self._places.max()) + 1
        return self._places, (torch.arange(longest) <= self._places[:, :, None])[:, None]

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store a layer's new keys and values [rows, KV heads, tokens, head size]; gives all of these rows so far."""
        if layer == len(self._keys):
            shape = (self._slots, keys.shape[1], self._context_length, keys.shape[3])
            self._keys.append(keys.new_zeros(shape))
            self._values.append(values.new_zeros(shape))
        longest = int(self._places.max()) + 1
        # An index, a slice and an index give [rows, tokens, KV heads, head size].
        self._keys[layer][self._rows[:, None], :, self._places] = keys.transpose(1, 2)
        self._values[layer][self._rows[:, None], :, self._places] = values.transpose(1, 2)
        return self._keys[layer][self._rows, :, :longest], self._values[layer][self._rows, :, :longest]

    def get_seq_length(self, layer: int = 0) -> int:
        """Asked by transformers to derive positions and masks, which `aim` gives instead."""
        return int(self._places[0, 0])
