"""Weight channels between real processes and threads over gloo: what arrives, and how every failure ends."""

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

from actors.weight_broadcast import broadcast
from actors.weight_channel import GlooSender, WeightSender, listen
from actors.weight_receiver import GlooReceiver
from actors.weight_rendezvous import WeightTransferError
from actors.weight_wire import ALIGNMENT, pack, plan_buffers, unpack
from learners.weights import TensorSpec, WeightManifest, checksum
from tests.actors.dying_sender import DyingSender, two_buffers

TIMEOUT_S = 20.0


def tensors_of(seed: int) -> dict[str, torch.Tensor]:
    """Mixed types, an odd number of bytes, a scalar, an empty tensor and a view that is not contiguous."""
    draw = torch.Generator().manual_seed(seed)
    return {
        "embed": torch.randn(7, 5, generator=draw).bfloat16(),
        "odd": torch.randint(0, 255, (3,), generator=draw).to(torch.uint8),
        "norm": torch.randn(5, generator=draw),
        "scalar": torch.randn((), generator=draw),
        "empty": torch.zeros(0, 4),
        "view": torch.randn(6, 9, generator=draw).t(),
    }


def manifest(version: int, tensors: dict[str, torch.Tensor]) -> WeightManifest:
    specs = (TensorSpec(n, str(t.dtype).removeprefix("torch."), tuple(t.shape)) for n, t in tensors.items())
    return WeightManifest(version, tuple(specs))


def connected(workers: int = 1, timeout_s: float = TIMEOUT_S) -> tuple[WeightSender, list[GlooReceiver]]:
    sender = listen("gloo", workers=workers, timeout_s=timeout_s)
    with ThreadPoolExecutor(workers) as pool:
        joining = [pool.submit(GlooReceiver, sender.address, rank) for rank in range(1, workers + 1)]
        sender.connect()
        return sender, [join.result(TIMEOUT_S) for join in joining]


def side_by_side(*actions: Callable[[], object]) -> list[object]:
    """Run these at once; an action's exception stands in the place of its result."""

    def outcome(action: Callable[[], object]) -> object:
        try:
            return action()
        except (WeightTransferError, ValueError) as error:
            return error

    with ThreadPoolExecutor(len(actions)) as pool:
        return [future.result(2 * TIMEOUT_S) for future in [pool.submit(outcome, action) for action in actions]]


def transfer(sender: WeightSender, receivers: list[GlooReceiver], version: int) -> list[object]:
    """Send this version's tensors: what came of it on each side."""
    tensors = tensors_of(version)
    expected = manifest(version, tensors)
    receiving = [partial(receiver.receive, expected) for receiver in receivers]
    return side_by_side(lambda: sender.send(expected, tensors), *receiving)


def test_every_worker_receives_every_byte_of_several_updates() -> None:
    sender, receivers = connected(workers=2)
    for version in (1, 2):
        tensors = tensors_of(version)
        sent, *received = transfer(sender, receivers, version)
        assert sent is None
        for arrived in received:
            assert isinstance(arrived, list)
            assert [name for name, _ in arrived] == list(tensors)
            for name, tensor in arrived:
                assert tensor.dtype == tensors[name].dtype
                assert torch.equal(tensor, tensors[name])
                assert checksum(tensor) == checksum(tensors[name])


@pytest.mark.parametrize("limit", [1, 100, 200, 10_000])
def test_buffers_hold_each_tensor_once_aligned_and_within_the_limit(limit: int) -> None:
    tensors = tensors_of(0)
    expected = manifest(1, tensors)
    buffers = plan_buffers(expected, limit)
    assert tuple(spec for buffer in buffers for spec in buffer.specs) == expected.tensors
    assert all(offset % ALIGNMENT == 0 for buffer in buffers for offset in buffer.offsets)
    assert all(buffer.nbytes <= limit or len(buffer.specs) == 1 for buffer in buffers)
    arrived = dict(pair for buffer in buffers for pair in unpack(buffer, pack(buffer, tensors)))
    assert all(torch.equal(arrived[name], tensor) for name, tensor in tensors.items())


def test_a_disagreement_is_an_error_on_both_sides_at_once() -> None:
    sender, (receiver,) = connected()
    tensors = tensors_of(0)
    fewer = {name: tensors[name] for name in ("embed", "norm")}
    start = time.monotonic()
    sent, received = side_by_side(
        lambda: sender.send(manifest(1, tensors), tensors), lambda: receiver.receive(manifest(1, fewer))
    )
    assert isinstance(sent, WeightTransferError)
    assert isinstance(received, WeightTransferError)
    assert "2 tensors" in str(sent)
    assert "6 tensors" in str(received)
    assert time.monotonic() - start < 5


def test_tensors_that_are_not_as_announced_are_refused_before_anything_is_sent() -> None:
    sender, (receiver,) = connected()
    tensors = tensors_of(0)
    expected = manifest(1, tensors)
    with pytest.raises(ValueError, match="norm: the manifest announces float32"):
        sender.send(expected, tensors | {"norm": torch.zeros(5).bfloat16()})
    with pytest.raises(ValueError, match="no such tensor"):
        sender.send(expected, {name: tensor for name, tensor in tensors.items() if name != "view"})
    sent, received = side_by_side(lambda: sender.send(expected, tensors), lambda: receiver.receive(expected))
    assert sent is None
    assert isinstance(received, list)


def test_a_slow_worker_does_not_stall_another_channel() -> None:
    slow, (slow_receiver,) = connected()
    quick, (quick_receiver,) = connected()
    tensors = tensors_of(0)
    expected = manifest(1, tensors)
    held_up = threading.Thread(target=slow.send, args=(expected, tensors))
    held_up.start()
    start = time.monotonic()
    side_by_side(lambda: quick.send(expected, tensors), lambda: quick_receiver.receive(expected))
    assert time.monotonic() - start < 2
    assert held_up.is_alive()
    slow_receiver.receive(expected)
    held_up.join(TIMEOUT_S)
    assert not held_up.is_alive()


def test_every_wait_ends_with_the_timeout() -> None:
    lonely = listen("gloo", workers=1, timeout_s=1)
    start = time.monotonic()
    with pytest.raises(WeightTransferError, match="joined"):
        lonely.connect()
    sender, (receiver,) = connected(timeout_s=1)
    with pytest.raises(WeightTransferError, match="ready"):
        sender.send(manifest(1, {}), {})
    with pytest.raises(WeightTransferError, match="manifest"):
        connected(timeout_s=1)[1][0].receive(manifest(1, {}))
    assert 2 < time.monotonic() - start < 15
    del receiver


def test_a_closed_channel_says_so() -> None:
    sender, _ = connected()
    sender.close()
    sender.close()
    with pytest.raises(WeightTransferError, match="closed"):
        sender.send(manifest(1, {}), {})


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="gloo or nccl"):
        listen("carrier-pigeon", workers=1, timeout_s=1)


def test_a_sender_that_dies_between_two_buffers_is_noticed_at_once() -> None:
    sender = DyingSender(channels=1, timeout_s=TIMEOUT_S)
    with ThreadPoolExecutor(1) as pool:
        receiver = GlooReceiver(sender.addresses[0])
        receiving = pool.submit(receiver.receive, two_buffers())
        sender.kill_halfway()
        start = time.monotonic()
        with pytest.raises(WeightTransferError, match="the sender stopped"):
            receiving.result(2 * TIMEOUT_S)
    assert time.monotonic() - start < TIMEOUT_S / 2


def test_a_sender_that_dawdles_has_one_deadline_for_all_its_buffers() -> None:
    """Each buffer alone would come in time."""
    sender, (receiver,) = connected(timeout_s=2)
    assert isinstance(sender, GlooSender)

    def dawdle() -> None:
        rendezvous, group = sender._rendezvous, sender._group
        assert rendezvous is not None
        assert group is not None
        rendezvous.announce(two_buffers())
        for buffer in plan_buffers(two_buffers()):
            time.sleep(1.5)
            with contextlib.suppress(RuntimeError):  # The receiver has left.
                broadcast(group, torch.zeros(buffer.nbytes, dtype=torch.uint8), time.monotonic() + 1)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(dawdle)
        start = time.monotonic()
        with pytest.raises(WeightTransferError, match="the sender stopped"):
            receiver.receive(two_buffers())
        assert 1.5 < time.monotonic() - start < 2.95, "the second buffer comes after 3 s"
