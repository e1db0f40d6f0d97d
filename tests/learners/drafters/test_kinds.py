import pytest
import torch

from learners.drafters.errors import DrafterError
from learners.drafters.kinds import DRAFTERS
from learners.drafters.kinds.eagle3 import fused_layers
from learners.drafters.settings import DrafterSettings
from learners.drafters.target import FINAL, DraftTarget
from learners.drafters.windows import Window, pack_windows
from learners.registry import UnknownNameError
from tests.learners.drafters.builders import (
    CPU,
    KINDS,
    new_drafter,
    plain_hidden,
    sampled,
    target_model,
    tied_target,
    windows_of_target,
)


def test_a_kind_is_registered_once_and_near_misses_are_named() -> None:
    assert set(DRAFTERS.names()) == set(KINDS)
    with pytest.raises(ValueError, match="'eagle' is registered twice"):
        DRAFTERS.register("eagle")(DRAFTERS["eagle"])
    with pytest.raises(UnknownNameError, match="did you mean 'eagle3'"):
        _ = DRAFTERS["eagel3"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_fixes_the_weights_and_the_global_generator_is_left_alone(kind: str) -> None:
    target = tied_target()  # making it draws
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same = new_drafter(kind, target, seed=1), new_drafter(kind, target, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_packed_windows_draft_what_each_drafts_alone(kind: str) -> None:
    drafter = new_drafter(kind, tied_target())
    windows = [
        _part(window, start, end)
        for window, start, end in zip(windows_of_target(), (0, 5, 9), (30, 14, 12), strict=False)
    ]
    with torch.no_grad():
        together = _unrolled(drafter, windows)
        apart = [_unrolled(drafter, [window]) for window in windows]
    for position, logits in enumerate(together):
        single = torch.cat([part[position] for part in apart])
        torch.testing.assert_close(logits, single, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_drafting_step_by_step_equals_the_unrolled_forward(kind: str) -> None:
    """From every place of a sequence, read in pieces of changing size, along tokens that the drafter did not choose."""
    drafter = new_drafter(kind, tied_target()).eval()
    (sequence,) = sampled(tied_target(), count=1, length=17, seed=3)
    hidden = plain_hidden(tied_target(), sequence)
    tokens = torch.tensor(sequence)
    window = Window("0", tokens, torch.arange(17), hidden, 0, 17)
    with torch.no_grad():
        unrolled = _unrolled(drafter, [window], count=3, keep_all=True)
    session = drafter.session()
    row = 0
    for size in (4, 1, 3, 1, 2):
        session.read(tokens[row : row + size + 1], {layer: state[row : row + size] for layer, state in hidden.items()})
        row += size
        assert session.rows == row
        for _ in range(2):  # A draft leaves nothing behind.
            seen: list[torch.Tensor] = []

            def follow(logits: torch.Tensor, seen: list[torch.Tensor] = seen, row: int = row) -> int:
                seen.append(logits)
                return sequence[row + len(seen)]

            assert session.draft(3, follow) == sequence[row + 1 : row + 4]
            wanted = torch.stack([logits[row - 1] for logits in unrolled])
            torch.testing.assert_close(torch.stack(seen), wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_draft_ends_where_its_chooser_says(kind: str) -> None:
    session = new_drafter(kind, tied_target()).session()
    with pytest.raises(RuntimeError, match=r"read\(\) comes before"):
        session.draft(1, lambda _: 0)
    hidden = {layer: state[:3] for layer, state in plain_hidden(tied_target(), [1, 2, 3, 4]).items()}
    session.read(torch.tensor([1, 2, 3, 4]), hidden)
    assert session.draft(0, lambda _: 0) == []
    answers = iter([7, None])
    assert session.draft(5, lambda _: next(answers)) == [7]
    assert session.rows == 3


def test_a_whole_draft_model_of_the_target_is_the_target() -> None:
    """All but the last block dropped and put back: the unrolled positions line up with the target's own tokens."""
    model = tied_target()
    drafter = new_drafter("draft_model", model)
    drafter.language_model = model  # type: ignore[assignment]
    window = windows_of_target()[0]
    packed = pack_windows([window], (FINAL,), CPU)
    with torch.no_grad():
        for step in drafter.unroll(packed, 3):
            own = drafter.tables.logits(window.hidden[FINAL])[step.position :]
            drafted = drafter.logits(step.features)[: len(own)]
            torch.testing.assert_close(drafted, own, atol=1e-4, rtol=1e-4)


def test_gradients_reach_every_parameter_and_not_the_target() -> None:
    for kind in KINDS:
        drafter = new_drafter(kind, target_model(tied=False))
        before = drafter.tables.embedding.clone(), drafter.tables.head.clone()
        sum(logits.square().sum() for logits in _unrolled(drafter, list(windows_of_target()[:2]))).backward()  # type: ignore[union-attr]
        assert [name for name, value in drafter.named_parameters() if value.grad is None or not value.grad.any()] == []
        assert torch.equal(drafter.tables.embedding, before[0])
        assert torch.equal(drafter.tables.head, before[1])


@pytest.mark.parametrize(
    ("layers", "chosen"), [(3, (0, 1, 2)), (4, (1, 2, 3)), (6, (1, 3, 5)), (7, (2, 3, 4)), (36, (2, 18, 33))]
)
def test_fused_layers_are_three_and_ascend(layers: int, chosen: tuple[int, ...]) -> None:
    assert fused_layers(layers) == chosen


def test_refusals_name_the_setting() -> None:
    target = DraftTarget.of_model(tied_target())
    tables = target.tables(torch.float32, CPU)
    with pytest.raises(DrafterError, match="draft_layers means nothing to kind=eagle"):
        DRAFTERS["eagle"].build(target, DrafterSettings(kind="eagle", draft_layers=2), tables)
    with pytest.raises(DrafterError, match=r"fused_layers=\[2, 1\]"):
        DRAFTERS["eagle3"].build(target, DrafterSettings(kind="eagle3", fused_layers=(2, 1)), tables)
    with pytest.raises(DrafterError, match="draft_layers=3 cuts nothing off"):
        DRAFTERS["draft_model"].build(target, DrafterSettings(kind="draft_model", draft_layers=3), tables)
    with pytest.raises(DrafterError, match="a target with 2 blocks"):
        fused_layers(2)


def _unrolled(drafter, windows, count: int = 3, keep_all: bool = False) -> list[torch.Tensor]:  # type: ignore[no-untyped-def]
    """[n, V] logits per draft position, of the rows that have room for it (or all)."""
    packed = pack_windows(windows, sorted({*drafter.reads, FINAL}), CPU)
    return [
        drafter.logits(step.features if keep_all else step.features[packed.room >= step.position])
        for step in drafter.unroll(packed, count)
    ]


def _part(window: Window, start: int, end: int) -> Window:
    hidden = {layer: state[start:end] for layer, state in window.hidden.items()}
    return Window("x", window.token_ids[start:end], window.positions[start:end], hidden, 1, len(window))
