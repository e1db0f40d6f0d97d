"""A vLLM engine that speculates by a script, and what the tests of it share."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from transformers import Qwen3ForCausalLM

from actors.engine import Completion, Engine, EngineSettings, Sampling, Speculated
from actors.speculation.settings import SpeculationSettings
from actors.vllm_engine import VllmEngine
from tests.actors.subject import WAIT_S, Subject, manifest_of

SCRIPTED = "tests.actors.speculation.scripted_governor:scripted"


class SpeculatingSubject(Subject):
    """Args:
    model: what lies in `folder`; the reference.
    """

    def __init__(
        self,
        folder: Path,
        model: Qwen3ForCausalLM,
        speculation: SpeculationSettings,
        *,
        tied: bool,
        kv_cache_gib: float = 0.25,
    ) -> None:
        def make(settings: EngineSettings) -> Engine:
            return VllmEngine(replace(settings, speculation=speculation, kv_cache_gib=kv_cache_gib))

        super().__init__("vllm", folder, tied=tied, make=make)
        self.reference = model
        self.drafter_version = 0

    @property
    def vllm(self) -> VllmEngine:
        assert isinstance(self.engine, VllmEngine)
        return self.engine

    def send_drafter(self, weights: dict[str, torch.Tensor]) -> Mapping[str, int]:
        """Update the drafter between a pause and a resume; the checksums of what arrived."""
        sender = self._sender or self.open_channel()
        self.drafter_version += 1
        manifest = manifest_of(self.drafter_version, weights)
        self.run(self.engine.pause())
        receiving = self.begin(self.engine.receive_weights(manifest, "drafter"))
        sender.send(manifest, weights)
        received = receiving.result(WAIT_S)
        self.run(self.engine.resume())
        return received

    def restart_script(self) -> None:
        self.run(self.vllm._ask_scheduler("note_drafter_update", self.drafter_version))

    def read_along(self, always: bool) -> None:
        """Whether the drafter reads along in every step, as it does in vLLM itself."""
        self.run(self.vllm._alive.collective_rpc("read_along", args=(always,)))

    def alone(self, prompt: tuple[int, ...], tokens: int) -> tuple[Completion, Speculated]:
        """A greedy answer with the engine for itself, from the beginning of the script."""
        self.restart_script()
        answer = self.generate(prompt, Sampling(tokens, temperature=0))
        return answer, replace(answer.speculated, drafter_versions=())
