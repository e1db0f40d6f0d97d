"""Everything that can be found wrong before an actor starts: device, model, tokenizer, prompts, disk.

`prepare` returns what the run needs of these; every fault is one `SettingError`.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from learners.errors import UnfitError, first_line
from learners.settings import TrainerSettings
from orchestrator.config import STARTER, Recipe
from orchestrator.data.prompts import DataSettings, Prompt, PromptSource, open_source, render
from orchestrator.disk import existing
from orchestrator.errors import SettingError
from orchestrator.group_plan import BUDGET, plan_of
from orchestrator.model_addresses import endpoint_addresses
from orchestrator.placement import Placement, place
from orchestrator.progress import Progress
from orchestrator.stages.recipes import StageRecipe, models_of
from orchestrator.storage.address import is_remote
from orchestrator.storage.fetch import fetch_data, fetch_model
from orchestrator.table import KINDS
from orchestrator.token_bytes import bytes_of_tokens
from orchestrator.token_rewards import pays_tokens

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
WEIGHT_FILES = ("*.safetensors", "*.bin")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A recipe's inputs, found and checked.

    Attributes:
        model: local folder of the checkpoint.
        context_length: prompt and answer together, tokens.
        stop_token_ids: any of these ends an answer.
        encode: token ids of a prompt; raises SettingError for one that is too long.
        drafter: folder of the drafter's first checkpoint; None without one.
        reward_models: folders of the models that the run serves to its rewards, by name.
        companions: local folders of the models in storage that the objective compares with, by their addresses.
    """

    placement: Placement
    model: Path
    tokenizer: PreTrainedTokenizerBase
    context_length: int
    stop_token_ids: tuple[int, ...]
    source: PromptSource
    eval_prompts: tuple[tuple[Prompt, tuple[int, ...]], ...]
    encode: Callable[[Prompt], tuple[int, ...]]
    drafter: Path | None = None
    reward_models: Mapping[str, Path] = field(default_factory=dict)
    companions: Mapping[str, str] = field(default_factory=dict)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of an answer, without special tokens, every space as the model wrote it."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def probe(self, length: int) -> tuple[int, ...]:
        """The sequence on which engine and learner must agree: prompts, one after another, cut to `length`."""
        ids = [token for prompt in self.source.preview() for token in self.encode(prompt)]
        return tuple((ids * (1 + length // len(ids)))[:length])


def prepare(recipe: Recipe, progress: Progress) -> Prepared:
    """Find and check everything that a run reads.

    Raises:
        SettingError: the first fault.
    """
    check_backend(recipe)
    endpoint_addresses(recipe.reward)
    from orchestrator.joining import gpus_in_reach  # it imports Ray, which who only checks need not load

    placement = place(recipe, gpus=gpus_in_reach(recipe.ray))
    progress.phase("reading the data")
    source = open_source(with_data_here(recipe.data, progress), recipe.seed)
    model = find_model(recipe.model, progress)
    tokenizer = load_tokenizer(model)
    config = AutoConfig.from_pretrained(model)
    check_trainer(recipe, config)
    check_tensor_parallel(recipe, config)
    check_optimizer(recipe.trainer)
    context_length = check_context(recipe, config)

    if pays_tokens(recipe) or recipe.rollout.likelihood is not None:
        bytes_of_tokens(tokenizer)  # refuses one that it cannot follow

    plan = plan_of(recipe)

    def under_largest_budget(prompt: Prompt) -> Prompt:
        """As evaluation asks."""
        return plan.asked(prompt, plan.sampled - 1)

    def encode(prompt: Prompt) -> tuple[int, ...]:
        prompt = prompt if BUDGET in prompt.metadata else under_largest_budget(prompt)
        ids = tuple(render(prompt, recipe.data, tokenizer))
        if len(ids) > recipe.rollout.max_prompt_tokens:
            raise SettingError(
                "rollout.max_prompt_tokens",
                f"prompt {prompt.prompt_id} has {len(ids)} tokens, allowed are {recipe.rollout.max_prompt_tokens}",
                "raise it, or take long prompts out of the data",
            )
        return ids

    eval_prompts = tuple((prompt, encode(prompt)) for prompt in map(under_largest_budget, source.eval_prompts()))
    for prompt in source.preview():
        encode(prompt)
        anchors = recipe.rollout.anchors
        if anchors is not None and anchors.solution not in prompt.metadata:
            has = ", ".join(prompt.metadata) or "none"
            raise SettingError(
                "rollout.anchors.solution",
                f"{prompt.prompt_id} has no column {anchors.solution!r}",
                f"use one of {has}",
            )
    return Prepared(
        placement,
        model,
        tokenizer,
        context_length,
        stop_tokens(tokenizer, model),
        source,
        eval_prompts,
        encode,
        reward_models=find_reward_models(recipe, progress),
        companions=fetch_companions(recipe, progress),
    )


def check_backend(recipe: Recipe) -> None:
    """Whether the learner's library is installed; it is not imported here, the driver needs none of it."""
    if recipe.trainer.backend == "deepspeed" and find_spec("deepspeed") is None:
        raise SettingError(
            "trainer.backend",
            "the package deepspeed is not installed",
            "install it with `pip install 'paceline[deepspeed]'`, or set trainer.backend=fsdp2",
        )


def check_trainer(recipe: StageRecipe, config: PretrainedConfig) -> None:
    """Raises: SettingError: this model cannot be trained so."""
    trainer, sequence_parallel = recipe.trainer, recipe.topology.learner.sequence_parallel
    if trainer.lora is None and sequence_parallel == 1:
        return
    from learners.trained_policy import check_fit  # the learner's code, which most drivers need not load

    try:
        check_fit(config, trainer, sequence_parallel)
    except UnfitError as error:
        raise SettingError(error.setting, error.reason, error.fix) from None


def check_context(recipe: Recipe, config: PretrainedConfig) -> int:
    """Returns: tokens of the longest prompt and answer.

    Raises:
        SettingError: the model has no positions for so many.
    """
    longest = recipe.rollout.max_prompt_tokens + recipe.rollout.max_response_tokens
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and longest > limit:
        raise SettingError(
            "rollout.max_response_tokens",
            f"prompt and answer of up to {longest} tokens exceed the model's context of {limit}",
            f"keep rollout.max_prompt_tokens + rollout.max_response_tokens at {limit} or less",
        )
    return longest


def check_tensor_parallel(recipe: Recipe, config: PretrainedConfig) -> None:
    """Raises: SettingError: so many GPUs cannot share this model's attention heads."""
    size, heads = recipe.topology.rollout.tensor_parallel, config.get_text_config().num_attention_heads
    if heads % size:
        divisors = ", ".join(str(count) for count in range(1, heads + 1) if heads % count == 0)
        raise SettingError(
            "topology.rollout.tensor_parallel",
            f"{size} GPUs cannot share the model's {heads} attention heads",
            f"{divisors} can",
        )


def check_optimizer(trainer: TrainerSettings) -> None:
    """Raises: SettingError: there is none where `trainer.optimizer_from` says."""
    source = trainer.optimizer_from
    if source is not None and not (Path(source) / ".metadata").is_file():
        fix = "name the optimizer folder of a run with trainer.keep_optimizer=true"
        raise SettingError("trainer.optimizer_from", f"{source} holds no optimizer", fix)


def find_model(name: str, progress: Progress) -> Path:
    """The local folder of a model given as a folder, an address in storage, a Hugging Face id or `starter`."""
    if name == STARTER:
        from orchestrator.data.starter import ensure_starter  # it trains: heavy, and needed by no other model

        progress.phase("making the starter model (once; it is cached)")
        return ensure_starter(None, lambda report: progress.part(report.step, report.total, f"loss {report.loss:.3f}"))
    if is_remote(name):
        return check_checkpoint(fetch_model("model", name, progress))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return check_checkpoint(folder)
    if folder.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise SettingError("model", f"{name} is not a folder", "give a folder, a Hugging Face id or `starter`")
    progress.phase(f"fetching {name} from the Hugging Face hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = first_line(error)
        raise SettingError(
            "model", f"{name} cannot be fetched ({reason})", "give a local folder, or model=starter for the small model"
        ) from None


def find_reward_models(recipe: Recipe, progress: Progress) -> dict[str, Path]:
    """Local folders of the models that the run serves to its rewards, by name."""
    found: dict[str, Path] = {}
    for name, model in recipe.reward.models.items():
        if model.served:
            try:
                found[name] = find_model(model.model, progress)
                load_tokenizer(found[name])
            except SettingError as error:
                setting = f"reward.models.{name}.model"
                raise SettingError(setting, error.reason, f"{error.fix}, or give the url of an endpoint") from None
    return found


def fetch_companions(recipe: Recipe, progress: Progress) -> dict[str, str]:
    """Local folders of reference and teacher, by their addresses, where these lie in storage."""
    named = {setting: model for setting, model in models_of(recipe).items() if setting != "model" and is_remote(model)}
    return {model: str(check_checkpoint(fetch_model(setting, model, progress))) for setting, model in named.items()}


def with_data_here(data: DataSettings, progress: Progress) -> DataSettings:
    """The settings with files of this machine, fetched where they lie in storage."""
    if data.path is None or not is_remote(data.path):
        return data
    return data.model_copy(update={"path": str(fetch_data("data.path", data.path, KINDS, progress))})


def check_checkpoint(folder: Path) -> Path:
    """Raises: SettingError: config, weights or tokenizer are missing in the folder."""
    missing = {
        "config.json": (folder / "config.json").is_file(),
        "weights (*.safetensors)": any(next(folder.glob(pattern), None) for pattern in WEIGHT_FILES),
        "a tokenizer": any((folder / file).is_file() for file in TOKENIZER_FILES),
    }
    lacking = [what for what, found in missing.items() if not found]
    if lacking:
        raise SettingError(
            "model", f"{folder} lacks {' and '.join(lacking)}", "save model and tokenizer there with save_pretrained"
        )
    return folder.resolve()


def load_tokenizer(model: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = first_line(error)
        raise SettingError("model", f"{model} has no tokenizer that loads ({reason})", "save one there") from None
    if tokenizer.eos_token_id is None:
        raise SettingError("model", f"the tokenizer in {model} has no eos token", "set one in its config")
    return tokenizer


def stop_tokens(tokenizer: PreTrainedTokenizerBase, model: Path) -> tuple[int, ...]:
    """The tokenizer's end token and those of the checkpoint's generation settings (chat models have several)."""
    stops = {int(tokenizer.eos_token_id)}
    if (model / "generation_config.json").is_file():
        from transformers import GenerationConfig

        configured = GenerationConfig.from_pretrained(model).eos_token_id
        stops |= set(configured if isinstance(configured, list) else [configured]) - {None}
    return tuple(sorted(stops))


def check_disk(folder: Path, model: Path) -> None:
    """Room for the trained model, before a run whose result could not be kept.

    Raises:
        SettingError: less is free than the checkpoint takes.
    """
    needed = sum(file.stat().st_size for pattern in WEIGHT_FILES for file in model.glob(pattern))
    place = existing(folder)
    free = shutil.disk_usage(place).free
    if free < 2 * needed:
        raise SettingError(
            "run_dir",
            f"{place} has {free / 2**20:,.0f} MiB free, the trained model needs {2 * needed / 2**20:,.0f} MiB",
            "free some space or set run_dir to another disk",
        )
