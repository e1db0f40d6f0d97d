"""The size of the starter model, apart from how it is made: whoever only counts need not import what makes it."""

from learners.settings import Section


class StarterShape(Section):
    """Size of the model; head_dim is one that vLLM's CPU attention supports."""

    vocab_size: int = 512
    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    intermediate_size: int = 256
    context: int = 2048

    def architecture(self) -> dict[str, int | bool]:
        """In the words of a Qwen3 configuration."""
        return {
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.context,
            "tie_word_embeddings": True,
        }
