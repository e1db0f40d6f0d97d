"""A scoring child: the program that a pool starts as `python -m rewards.child SOCKET MARK PARENT_PID`.

It loads what the terms import and compile, reports ready, and has its forks (`rewards.lives`) answer one request after
another. They mark which term is at work and know nothing of deadlines: the pool keeps them, and has them killed. The
memory limit counts from where they are born.
"""

import gc
import os
import socket
import sys
import time
from functools import partial

from rewards.compose import Reward
from rewards.confinement import die_with_parent, install_guard, limit_memory
from rewards.entries import RewardSetupError, one_line
from rewards.frame_room import with_room
from rewards.lives import live
from rewards.response import Score
from rewards.settings import RewardSettings
from rewards.term_mark import TermMark
from rewards.wire import Channel, ChannelClosedError, GroupRequest, Reply, ScoreRequest

_TOGETHER_S = 0.005
"""A reply is sent as soon as this has passed since the last: what would be lost with the child is scored again."""


def main(control_fd: int, mark_fd: int, parent_pid: int) -> None:
    die_with_parent(parent_pid)
    # What a term prints belongs in the log, and stdout may be a pipe that somebody parses.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    control = socket.socket(fileno=control_fd)
    channel = Channel(control)
    try:
        settings = RewardSettings.model_validate_json(channel.receive())
        mark = TermMark(mark_fd)
        reward = _start(settings, channel, mark)
        if reward is not None:
            channel.send_reply(Reply("ready", groups=reward.sees_groups))
            live(control, partial(_serve, reward, mark, settings.memory_mb))
    except (ChannelClosedError, BrokenPipeError, ConnectionResetError):
        return  # the pool is gone


def _start(settings: RewardSettings, channel: Channel, mark: TermMark) -> Reward | None:
    try:
        reward = Reward(settings, mark.term)
        reward.warm_up()
    except RewardSetupError as refusal:
        channel.send_reply(Reply("refused", reason=str(refusal)))
        return None
    except Exception as raised:  # noqa: BLE001 - whatever a library's first use raises; the pool reports it
        channel.send_reply(Reply("refused", reason=one_line("reward.terms", raised)))
        return None
    gc.collect()
    gc.freeze()  # the libraries stay: no later collection needs to walk them
    return reward


def _serve(reward: Reward, mark: TermMark, memory_mb: int, channel: Channel) -> None:
    limit_memory(memory_mb)
    install_guard()
    while True:
        # No deadline: an idle child waits for work as long as its parent lives, and dies with it.
        request = channel.receive_request()
        try:
            if isinstance(request, GroupRequest):
                mark.response(0)
                scores = reward.score_group(request.responses, request.scores, request.history, request.shared)
                channel.send_reply(Reply("scores", tuple(scores)))
            else:
                _score(reward, mark, request, channel)
        except MemoryError:
            channel.send_reply(Reply("out_of_memory"))
            return  # what filled the memory may be a cache: a fresh child is cheaper than a second failure


def _score(reward: Reward, mark: TermMark, request: ScoreRequest, channel: Channel) -> None:
    """Send the scores in order, those of the last `_TOGETHER_S` in one reply."""
    ready: list[Score] = []
    sent = time.monotonic()
    for place, response in enumerate(request.responses):
        mark.response(request.first + place)
        ready.append(reward.score(response))
        if place + 1 == len(request.responses) or time.monotonic() - sent > _TOGETHER_S:
            channel.send_reply(Reply("scores", tuple(ready)))
            ready.clear()
            sent = time.monotonic()


if __name__ == "__main__":
    with_room(partial(main, *map(int, sys.argv[1:4])))
