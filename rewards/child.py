"""A scoring child: the program that a pool starts as `python -m rewards.child SOCKET MARK PARENT_PID`.

It loads what the terms import and compile, reports ready, and has its forks (`rewards.lives`) answer one request after
another. They mark which term is at work and know nothing of deadlines: the pool keeps them, and has them killed. The
memory limit counts from where they are born.
"""

import gc
import os
import socket
import sys
from functools import partial

from rewards.compose import Reward
from rewards.confinement import die_with_parent, install_guard, limit_memory
from rewards.entries import RewardSetupError, one_line
from rewards.lives import live
from rewards.response import Response, Score
from rewards.settings import RewardSettings
from rewards.term_mark import TermMark
from rewards.wire import Channel, ChannelClosedError, Reply, Request


def main(control_fd: int, mark_fd: int, parent_pid: int) -> None:
    die_with_parent(parent_pid)
    # What a term prints belongs in the log, and stdout may be a pipe that somebody parses.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    control = socket.socket(fileno=control_fd)
    channel = Channel(control)
    try:
        settings = RewardSettings.model_validate_json(channel.receive())
        reward = _start(settings, channel, TermMark(mark_fd))
        if reward is not None:
            channel.send_reply(Reply("ready", groups=reward.sees_groups))
            live(control, partial(_serve, reward, settings.memory_mb))
    except (ChannelClosedError, BrokenPipeError, ConnectionResetError):
        return  # the pool is gone


def _start(settings: RewardSettings, channel: Channel, mark: TermMark) -> Reward | None:
    try:
        reward = Reward(settings, mark.set)
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


def _serve(reward: Reward, memory_mb: int, channel: Channel) -> None:
    limit_memory(memory_mb)
    install_guard()
    while True:
        # No deadline: an idle child waits for work as long as its parent lives, and dies with it.
        request = channel.receive_request()
        try:
            scores = _scores(reward, request)
        except MemoryError:
            channel.send_reply(Reply("out_of_memory"))
            return  # what filled the memory may be a cache: a fresh child is cheaper than a second failure
        channel.send_reply(Reply("scores", scores))


def _scores(reward: Reward, request: Request) -> tuple[Score, ...]:
    if isinstance(request, Response):
        return (reward.score(request),)
    return tuple(reward.score_group(request.responses, request.scores, request.history, request.shared))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
