"""Pure torch: policies, FSDP2, packing, advantages, losses and supervised steps. Knows neither Ray nor vLLM."""
