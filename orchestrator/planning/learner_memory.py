"""What a rank of the learner needs, moment by moment. Pure arithmetic over shapes and traced passes.

How FSDP2 moves through a pass (`learners.sharding`, and torch 2.13's own code): each decoder layer is gathered in the
compute type. On one rank the copies stay until the layer's backward pass is done; on several a layer is given up after
its forward pass and gathered again, the next one beside it. Embedding, norm and head stay gathered throughout. After a
layer's backward pass its gradients are copied into a float32 buffer, which is reduced into the rank's own share; the
buffer lives until the next layer's. The order of events is always the same, so the greatest need is at one of few
moments, and each is added up here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.planning.memory import Moment, Need
from orchestrator.planning.model_shape import ModelShape
from orchestrator.planning.passes import Passes

MASTER = 4
"""Bytes of a float32."""
MOMENTS = 8
"""Of AdamW's two averages."""
BUCKET_BYTES = 200_000_000
"""What DeepSpeed reduces at once (`learners.zero`)."""


@dataclass(frozen=True, slots=True)
class Sharding:
    """Attributes:
    ranks: over which everything is spread.
    compute: bytes of a number in the passes.
    checkpointing: whether activations are computed again.
    accumulates: whether a rank makes several passes before an update, so that gradients of earlier ones are there.
    offload: whether masters, gradients and optimizer lie in main memory.
    zero_stage: DeepSpeed's; None for FSDP2.
    copies: whether collectives copy what they gather and reduce once more, as gloo's do on the CPU.
    """

    ranks: int
    compute: int
    checkpointing: bool = False
    accumulates: bool = True
    offload: bool = False
    zero_stage: int | None = None
    copies: bool = False

    @property
    def spread(self) -> bool:
        """Whether layers are given up between the passes."""
        return self.ranks > 1


@dataclass(frozen=True, slots=True)
class Trained:
    """A model that trains, and what its passes hold."""

    shape: ModelShape
    passes: Passes


@dataclass(frozen=True, slots=True)
class LearnerParts:
    """Attributes:
    policy, critic: what trains.
    companions: models that are only read, by the name that the recipe gives them.
    published: copies of the weights that rank 0 keeps for the engines.
    wire: bytes of a number in such a copy.
    windows: bytes of hidden states that are kept for the drafter's training.
    """

    policy: Trained
    critic: Trained | None = None
    companions: Mapping[str, ModelShape] | None = None
    published: int = 1
    wire: int = 2
    windows: int = 0


@dataclass(frozen=True, slots=True)
class RankNeed:
    """Of the group's first rank, the one that publishes, beside what its process holds anyway."""

    device: Need
    host: Need


def learner_need(parts: LearnerParts, how: Sharding) -> RankNeed:
    """What rank 0 needs on its device and in main memory. On a CPU the two are one: see `together`."""
    if how.zero_stage is not None:
        return RankNeed(_zero(parts, how, how.zero_stage), Need({}, _loading(parts, how)))
    shards = _shards(parts, how)
    kept = {
        "published weights": parts.published * parts.wire * parts.policy.shape.parameters,
        "windows for the drafter": parts.windows,
    }
    moments = [*_moments_of(parts.policy, how, ""), _publishing(parts, how)]
    if parts.critic is not None:
        # The critic's gradients are there while the policy learns, and its own passes come before the policy's.
        gradients = MASTER * parts.critic.shape.trained_shard(how.ranks)
        moments = [_with(moment, "critic: gradients", gradients) for moment in moments]
        moments += _moments_of(parts.critic, how, "critic: ")
    moments += [_reading(name, shape, parts, how) for name, shape in (parts.companions or {}).items()]
    if not how.offload:
        return RankNeed(Need({**shards, **kept}, tuple(moments)), Need({}, _loading(parts, how)))
    gradients = MASTER * parts.policy.shape.trained_shard(how.ranks)
    on_device = tuple(
        replace(moment, items={name: size for name, size in moment.items.items() if not name.endswith("gradients")})
        for moment in moments
    )
    return RankNeed(Need(kept, on_device), Need({**shards, "gradients": gradients}, _loading(parts, how)))


def together(need: RankNeed) -> Need:
    """Where device and main memory are one: loading comes before everything else."""
    stays, loading = need.device.stays, need.host.moments
    whole = sum(stays.values())
    # Loading happens while nothing else is there, and counts from there on.
    early = tuple(Moment(moment.name, {"loading, beyond what stays": moment.total - whole}) for moment in loading)
    return Need(stays, (*need.device.moments, *(moment for moment in early if moment.total > 0)))


def _shards(parts: LearnerParts, how: Sharding) -> dict[str, int]:
    """Float32 masters and optimizer states of everything that is sharded."""
    policy = parts.policy.shape
    shards = {
        "weights": MASTER * policy.shard(how.ranks),
        "optimizer": MOMENTS * policy.trained_shard(how.ranks),
    }
    for name, shape in (parts.companions or {}).items():
        shards[f"{name}: weights"] = MASTER * shape.shard(how.ranks)
    if parts.critic is not None:
        shards["critic: weights"] = MASTER * parts.critic.shape.shard(how.ranks)
        shards["critic: optimizer"] = MOMENTS * parts.critic.shape.trained_shard(how.ranks)
    return shards


def _moments_of(trained: Trained, how: Sharding, prefix: str) -> list[Moment]:
    """A forward and a backward pass of one model, beside its shards."""
    shape, passes = trained.shape, trained.passes
    count, ranks = len(shape.layers), how.ranks
    layer, rest = shape.largest_layer, shape.rest
    whole = how.compute * shape.parameters
    gathered = _gathered(shape, how) if how.spread else whole
    before = MASTER * shape.trained_shard(ranks) if how.accumulates else 0
    held = passes.hidden if how.checkpointing else passes.layer.saved
    head_gradient = how.compute * shape.head if any(p.trained for p in rest.parameters) else 0
    reduce = _reducing(layer.trained, how)

    def moment(name: str, **items: int) -> Moment:
        return Moment(prefix + name, {prefix + key.replace("_", " "): size for key, size in items.items()})

    work = max(passes.layer.backward, passes.layer.forward if how.checkpointing else 0, passes.layer.left + reduce)
    saved = held * count + passes.hidden if how.checkpointing else held * (count - 1) + passes.hidden
    through = MASTER * rest.trained // ranks
    return [
        moment(
            "the head",
            gathered_weights=gathered,
            gradients=before,
            activations=held * count + passes.hidden,
            head_and_loss=max(passes.head.forward, passes.head.backward),
        ),
        moment(
            "the last layer's backward pass",
            gathered_weights=gathered,
            gradients=before + head_gradient,
            activations=saved,
            a_layer_at_work=work + MASTER * layer.trained,
        ),
        moment(
            "the first layer's backward pass",
            gathered_weights=_gathered(shape, how),
            gradients=max(before, MASTER * shape.trained_shard(ranks) - through) + head_gradient,
            activations=2 * passes.hidden,
            a_layer_at_work=work + MASTER * layer.trained,
        ),
        moment(
            "the embedding's gradient",
            gathered_weights=how.compute * rest.elements,
            gradients=max(before, MASTER * shape.trained_shard(ranks) - through),
            gradient_buffers=_rest_at_work(shape, how),
        ),
    ]


def _gathered(shape: ModelShape, how: Sharding) -> int:
    """What stays gathered, one layer in use, and the next on its way: the buffer that it comes in, and gloo's own."""
    layers = 3 if how.spread and how.copies else 2
    return how.compute * (shape.rest.elements + layers * shape.largest_layer.elements)


def _reducing(elements: int, how: Sharding) -> int:
    """From a unit's gradients in the compute type to this rank's share in float32; one rank divides into a copy."""
    share = MASTER * elements // how.ranks
    copies = (how.compute + MASTER) * elements
    once_more = MASTER * elements if how.copies or not how.spread else 0
    return max(copies, MASTER * elements + share + once_more)


def _rest_at_work(shape: ModelShape, how: Sharding) -> int:
    """Embedding, norm and head come last, all at once. A tied embedding gets a second gradient, which is added."""
    trained = shape.rest.trained
    second = how.compute * shape.head if shape.tied and trained else 0
    return max(how.compute * trained + second, _reducing(trained, how))


def _publishing(parts: LearnerParts, how: Sharding) -> Moment:
    """A copy is made while the last one is there, and the probe is read with the weights gathered."""
    shape = parts.policy.shape
    gathered = _gathered(shape, how) if how.spread else how.compute * shape.parameters
    return Moment("publishing", {"published weights": parts.wire * shape.parameters, "gathered weights": gathered})


def _reading(name: str, shape: ModelShape, parts: LearnerParts, how: Sharding) -> Moment:
    """A companion's forward pass: nothing is kept, and one rank gathers all of it."""
    gathered = _gathered(shape, how) if how.spread else how.compute * shape.parameters
    policy, passes = parts.policy.shape, parts.policy.passes
    before = MASTER * policy.trained_shard(how.ranks) if how.accumulates else 0
    return Moment(
        f"{name}: reading",
        {
            f"{name}: gathered weights": gathered,
            f"{name}: forward pass": max(passes.layer.forward, passes.head.forward),
            "gradients": before,
        },
    )


def _loading(parts: LearnerParts, how: Sharding) -> tuple[Moment, ...]:
    """Every rank reads a whole model in float32 before it is cut; one after the other."""
    largest = max(
        parts.policy.shape.parameters,
        *(shape.parameters for shape in (parts.companions or {}).values()),
        *(() if parts.critic is None else (parts.critic.shape.parameters,)),
        0,
    )
    whole = MASTER * largest
    return (Moment("loading", {"a whole model in float32": whole + MASTER * largest // how.ranks}),)


def _zero(parts: LearnerParts, how: Sharding, stage: int) -> Need:
    """DeepSpeed. ZeRO-2 keeps whole weights in the compute type on every rank, ZeRO-3 a share of them."""
    shape, passes = parts.policy.shape, parts.policy.passes
    share = shape.parameters // how.ranks
    stays = {
        "weights": how.compute * (shape.parameters if stage == 2 else share),
        "masters": MASTER * share,
        "optimizer": MOMENTS * share,
        "gradients": MASTER * share,
        "published weights": parts.published * parts.wire * shape.parameters,
    }
    for name, companion in (parts.companions or {}).items():
        stays[f"{name}: weights"] = MASTER * companion.shard(how.ranks)
    held = passes.hidden if how.checkpointing else passes.layer.saved
    gathered = 0 if stage == 2 else how.compute * (shape.rest.elements + 2 * shape.largest_layer.elements)
    bucket = min(BUCKET_BYTES, MASTER * shape.parameters)
    moment = Moment(
        "a backward pass",
        {
            "gathered weights": gathered,
            "activations": held * len(shape.layers) + passes.hidden,
            "gradient buffers": 2 * bucket + how.compute * (shape.parameters if stage == 2 else 0),
            "at work": max(passes.head.backward, passes.layer.backward),
        },
    )
    return Need(stays, (moment,))


def _with(moment: Moment, name: str, size: int) -> Moment:
    return Moment(moment.name, {**moment.items, name: size})
